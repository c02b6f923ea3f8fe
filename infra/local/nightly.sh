#!/usr/bin/env bash
# The nightly job on one machine: recompress what is new, then decode and check a sample of what is stored.
#
#   0 2 * * *  /srv/shardpress/infra/local/nightly.sh s3://photos/2026/ s3://cold/photos codec.quality=60
#
# Arguments: SOURCE ARCHIVE [key=value ...]. Environment: SHARDPRESS_LOGS (folder, default ./logs),
# SHARDPRESS_VERIFY (pictures to check, default 100), and what S3 wants. The exit code is that of the first job that
# failed, so cron and systemd see it. A second start while the first still runs ends at once: the archive is locked.
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: nightly.sh SOURCE ARCHIVE [key=value ...]" >&2
  exit 2
fi
source=$1 archive=$2
shift 2
cd "$(dirname "$0")/../.."
python=${SHARDPRESS_PYTHON:-.venv/bin/python}
logs=${SHARDPRESS_LOGS:-logs}
mkdir -p "$logs"
log=$logs/$(date -u +%Y%m%dT%H%M%SZ).log

status=0
"$python" -m jobs.recompress --config configs/recompress/nightly.yaml \
  "source.uri=$source" "archive.uri=$archive" "$@" --json >"$log" 2>&1 || status=$?
if [ "$status" -eq 0 ]; then
  "$python" -m jobs.verify --archive "$archive" --sample "${SHARDPRESS_VERIFY:-100}" >>"$log" 2>&1 || status=$?
fi
[ "$status" -eq 0 ] || { echo "nightly.sh: a job ended with exit code $status, see $log" >&2; tail -n 5 "$log" >&2; }
exit "$status"
