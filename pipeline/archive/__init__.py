"""Where bytes rest: parts, committed once, readable by anything that reads Parquet. LAYOUT.md is the law here.

archive      an archive by its URI; create or open     parts    names and part metadata
writer       the commit                                schema, passthrough    outcomes -> tables
plan         sources minus what is done                reader   newest rows, single pictures
lock, machine  one run at a time                       audit    what is damaged, missing or litter
"""

from pipeline.archive.archive import Archive, create_or_open, open_archive
from pipeline.archive.audit import Finding, audit, sweep
from pipeline.archive.lock import RunLock
from pipeline.archive.parts import CHUNK_BYTES, CHUNK_IMAGES, PartMeta, part_id, spec_id
from pipeline.archive.plan import Unit, plan
from pipeline.archive.reader import StoredImage
from pipeline.archive.schema import alpha_png, stored_bytes
from pipeline.archive.writer import CommitSummary

__all__ = [
    "CHUNK_BYTES",
    "CHUNK_IMAGES",
    "Archive",
    "CommitSummary",
    "Finding",
    "PartMeta",
    "RunLock",
    "StoredImage",
    "Unit",
    "alpha_png",
    "audit",
    "create_or_open",
    "open_archive",
    "part_id",
    "plan",
    "spec_id",
    "stored_bytes",
    "sweep",
]
