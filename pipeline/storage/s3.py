"""S3 and its relatives through s3fs; credentials and endpoint come from the environment or the usual AWS files.

One s3fs instance per process and per set of AWS variables, made on first use: an instance does not survive a
fork, and Ray workers are forks or spawns. Listings are never cached. Retries are ours alone (`base.patiently`),
because three layers of them (botocore, s3fs, ours) would multiply.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from pipeline.errors import StorageError
from pipeline.storage.base import LONG_PAUSES_S, SHORT_PAUSES_S, Entry, patiently
from pipeline.storage.redaction import redact

T = TypeVar("T")
_TRANSIENT_CODES = {
    "SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "RequestTimeoutException", "Throttling",
    "ThrottlingException", "TooManyRequests", "OperationAborted", "ConditionalRequestConflict",
    "XAmzContentSHA256Mismatch", "IncompleteBody", "BadDigest", "429", "500", "502", "503", "504",
}  # fmt: skip
_TRANSIENT_STATUS = {429, 500, 502, 503, 504}  # stores that are not AWS have codes of their own, such as SlowDownRead
_TRANSIENT_TYPES = {  # by name: naming the classes would import botocore and aiohttp before anybody uses S3
    "HTTPClientError", "IncompleteRead", "FSTimeoutError", "ResponseParserError", "ClientPayloadError", "ClientOSError",
    "ServerDisconnectedError", "TimeoutError", "ConnectionError", "IncompleteReadError", "ContentLengthError",
}  # fmt: skip
_TOKEN = "create-token"
_EXISTS_CODES = {"PreconditionFailed", "412"}
_STALE = {  # what S3, MinIO and STS call a token, and botocore an account, that was good when the night began
    "InvalidToken", "InvalidTokenId", "TokenRefreshRequired", "ExpiredTokenException", "InvalidIdentityToken",
    "InvalidClientTokenId", "CredentialRetrievalError", "TokenRetrievalError", "UnauthorizedSSOTokenError",
    "SSOTokenLoadError",
}  # fmt: skip
_WAYS_OUT = {
    "NoSuchBucket": "the bucket does not exist; create it or check its name",
    "NoSuchKey": "no such object; check bucket and key",
    "404": "no such object or bucket; check both names",
    "400": "the request was refused; mostly the session token has expired, get fresh credentials",
    "AccessDenied": "access denied; these credentials need permission for this bucket and key",
    "403": "access denied; check the credentials and their permission for this bucket and key",
    "InvalidAccessKeyId": "the access key is not known there; check AWS_ACCESS_KEY_ID and the endpoint",
    "SignatureDoesNotMatch": "the signature was refused; check AWS_SECRET_ACCESS_KEY and the endpoint",
    "ExpiredToken": "the session token has expired; get fresh credentials",
    **dict.fromkeys(_STALE, "the credentials have expired or cannot be renewed; get fresh ones"),
    "RequestTimeTooSkewed": "the clocks differ too much; set this machine's",
    "InvalidBucketName": "this is not a valid bucket name",
    "NoCredentialsError": "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "PartialCredentialsError": "credentials are incomplete; set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "ProfileNotFound": "AWS_PROFILE names a profile that the AWS config files do not have",
    "EndpointConnectionError": "the endpoint cannot be reached; check AWS_ENDPOINT_URL and the network",
}
_OUTAGES = {  # of the bucket, the account or the endpoint, and so of every object alike
    "NoSuchBucket", "InvalidBucketName", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken",
    "400", "RequestTimeTooSkewed", "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", *_STALE,
}  # fmt: skip
SETTLE_S = 0.5
READ_TIMEOUT_S = 60


@dataclass
class _Session:
    """An s3fs instance, whether it ever got an answer, and which buckets honour `If-None-Match`."""

    fs: Any
    reached: bool = False
    conditional: dict[str, bool] = field(default_factory=dict)


class S3Store:
    """s3://bucket/key."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[int, int], _Session] = {}
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    def absolute(self, uri: str) -> str:
        bucket, key = _split(uri)
        return f"s3://{bucket}/{key}" if key else f"s3://{bucket}"

    def read(self, uri: str, start: int = 0, stop: int | None = None) -> bytes:
        path = "/".join(_split(uri))
        if start == 0 and stop is None:
            # One concurrent transfer: with more, s3fs asks for the size first, which doubles the requests.
            return self._call(lambda fs: fs.cat_file(path, max_concurrency=1), uri)

        def action(fs: Any) -> bytes:
            data: bytes = fs.cat_file(path, start=start, end=stop, max_concurrency=1)
            if stop is not None and len(data) < stop - start and len(data) < fs.size(path) - start:
                raise ConnectionError(f"{len(data)} bytes came of {stop - start}")
            return data

        return self._call(action, uri)

    def stat(self, uri: str) -> Entry | None:
        bucket, key = _split(uri)
        if not key or key.endswith("/"):
            return None

        def action(fs: Any) -> Entry | None:
            try:
                head = fs.call_s3("head_object", Bucket=bucket, Key=key)
            except FileNotFoundError:
                return None
            return _entry(bucket, {**head, "Key": key, "Size": head["ContentLength"]})

        return self._call(action, uri)

    def write(self, uri: str, data: bytes) -> None:
        bucket, key = _split(uri)
        self._call(lambda fs: fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data), uri)

    def create(self, uri: str, data: bytes) -> bool:
        """Atomic where the store honours `If-None-Match`; elsewhere see `_claim`."""
        bucket, _ = _split(uri)
        session = self._session()
        if bucket not in session.conditional:
            session.conditional[bucket] = self._probe(uri.rsplit("/", 1)[0] + f"/.probe-{uuid.uuid4().hex}")
        return self._put_new(uri, data) if session.conditional[bucket] else self._claim(uri, data)

    def remove(self, uri: str) -> None:
        bucket, key = _split(uri)
        self._call(lambda fs: fs.call_s3("delete_object", Bucket=bucket, Key=key), uri)

    def keeps_versions(self, uri: str) -> bool:
        """False where versioning is off, unknown to the store, or not ours to ask about."""
        bucket, _ = _split(uri)
        try:
            found = self._call(lambda fs: fs.call_s3("get_bucket_versioning", Bucket=bucket), uri)
        except StorageError:
            return False
        return bool(found.get("Status") == "Enabled")

    def is_folder(self, uri: str) -> bool:
        bucket, key = _split(uri)
        prefix = key.rstrip("/") + "/" if key else ""
        page = self._call(lambda fs: fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1), uri)
        return not key or bool(page.get("Contents"))

    def walk(self, folder: str, deep: bool = True) -> Iterator[Entry]:
        bucket, key = _split(folder)
        query = {"Bucket": bucket, "Prefix": key.rstrip("/") + "/" if key else "", "Delimiter": "" if deep else "/"}
        while True:
            page = self._call(lambda fs: fs.call_s3("list_objects_v2", **query), folder)
            # A key that ends in "/" is how consoles draw an empty folder; it is not a file.
            yield from (_entry(bucket, found) for found in page.get("Contents", ()) if not found["Key"].endswith("/"))
            if not page.get("IsTruncated"):
                return
            query["ContinuationToken"] = page["NextContinuationToken"]

    def _put_new(self, uri: str, data: bytes) -> bool:
        bucket, key = _split(uri)
        token = uuid.uuid4().hex

        def action(fs: Any) -> bool:
            mark = {"IfNoneMatch": "*", "Metadata": {_TOKEN: token}}
            try:
                fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **mark)
            except Exception as error:
                if not (isinstance(error, FileExistsError) or _code(error) in _EXISTS_CODES):
                    raise
                # After a lost answer, which aiohttp too repeats on its own, the object in our way may be ours.
                return bool(fs.call_s3("head_object", Bucket=bucket, Key=key)["Metadata"].get(_TOKEN) == token)
            return True

        return self._call(action, uri)

    def _probe(self, uri: str) -> bool:
        """Whether a second conditional create of the same object is refused, as it should be."""
        try:
            self._put_new(uri, b"probe")
            return not self._put_new(uri, b"probe again")
        finally:
            self.remove(uri)

    def _claim(self, uri: str, data: bytes) -> bool:
        """For stores that ignore `If-None-Match`: look, write, wait, read back; the last writer holds it.

        Weaker than a conditional create: two writers more than `SETTLE_S` apart but within one look-and-write
        gap can both win. `data` must be unique to the caller (a random token), or both believe they did.
        """
        if self.stat(uri) is not None:
            return False
        self.write(uri, data)
        time.sleep(SETTLE_S)
        return self.read(uri) == data

    def _call(self, action: Callable[[Any], T], uri: str) -> T:
        session = self._session()

        def attempt() -> T:
            answer = action(session.fs)
            session.reached = True
            return answer

        pauses_s = LONG_PAUSES_S if session.reached else SHORT_PAUSES_S
        return patiently(attempt, _transient, lambda error: _explain(uri, error), pauses_s, _outage)

    def _session(self) -> _Session:
        settings = frozenset((k, v) for k, v in os.environ.items() if k.startswith("AWS_"))
        key = os.getpid(), hash(settings)
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = _Session(_connect())
            return self._sessions[key]

    def _forget(self) -> None:
        self._lock, self._sessions = threading.Lock(), {}


def _connect() -> Any:
    import s3fs  # here: a run over local folders never pays for it

    config = {
        "retries": {"total_max_attempts": 1},
        "read_timeout": READ_TIMEOUT_S,
        "connect_timeout": 10,
        "max_pool_connections": 32,
        # rclone sends the checksum of the whole object with a range of it, which botocore then finds wrong.
        "response_checksum_validation": "when_required",
    }
    fs = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False, config_kwargs=config)
    fs.retries = 1
    return fs


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def _entry(bucket: str, found: dict[str, Any]) -> Entry:
    modified: datetime = found["LastModified"]
    etag = str(found.get("ETag") or "").strip('"')
    version = etag or f"{found['Size']}-{int(modified.timestamp() * 1e9)}"
    return Entry(f"s3://{bucket}/{found['Key']}", version, int(found["Size"]), modified.timestamp())


def _code(error: BaseException) -> str:
    """S3's own error code; "" when there is none."""
    return str(_response(error).get("Error", {}).get("Code") or "")


def _response(error: BaseException) -> dict[str, Any]:
    """What S3 answered, which s3fs hides in the cause of a translated error; empty when it did not."""
    found = (getattr(each, "response", None) for each in (error, error.__cause__))
    return next((response for response in found if isinstance(response, dict)), {})


def _transient(error: Exception) -> bool:
    if isinstance(error, ConnectionError | asyncio.TimeoutError) or _code(error) in _TRANSIENT_CODES:
        return True
    if _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode") in _TRANSIENT_STATUS:
        return True
    return any(kind.__name__ in _TRANSIENT_TYPES for kind in type(error).__mro__)


def _outage(error: Exception) -> bool:
    return not _OUTAGES.isdisjoint((_code(error), type(error).__name__))


def _explain(uri: str, error: Exception) -> str:
    for word in (_code(error), type(error).__name__):
        if word in _WAYS_OUT:
            return redact(f"{uri}: {_WAYS_OUT[word]}")
    if isinstance(error, FileNotFoundError):
        return redact(f"{uri}: {_WAYS_OUT['404']}")
    if isinstance(error, PermissionError):
        return redact(f"{uri}: {_WAYS_OUT['403']}")
    return redact(f"{uri}: the object store failed: {type(error).__name__}: {error}")
