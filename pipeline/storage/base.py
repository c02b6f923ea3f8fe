"""What every store must be able to do, and the patience and the plain words all of them share.

A store is a file system or an object store behind one URI scheme. Its methods raise whatever their library
raises; `patiently` retries what is transient and turns the rest into one clear `StorageError`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pipeline.errors import StorageError, StoreUnavailable

T = TypeVar("T")

# A store that answered before gets a minute (a restart, a burst of 503 SlowDown); one that never did is more
# likely a typo in the endpoint, and nobody should wait a minute to read that.
LONG_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
SHORT_PAUSES_S = (0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or object. `modified_s` is Unix time by the store's clock."""

    uri: str
    version: str
    size_bytes: int
    modified_s: float


class Store(Protocol):
    """One URI scheme. `read` takes a byte range, half open; `stat` and `walk` see files only."""

    def read(self, uri: str, start: int = 0, stop: int | None = None) -> bytes: ...

    def stat(self, uri: str) -> Entry | None: ...

    def write(self, uri: str, data: bytes) -> None: ...

    def create(self, uri: str, data: bytes) -> bool: ...

    def remove(self, uri: str) -> None: ...

    def is_folder(self, uri: str) -> bool: ...

    def walk(self, folder: str, deep: bool = True) -> Iterator[Entry]: ...

    def absolute(self, uri: str) -> str: ...


def patiently(
    action: Callable[[], T],
    transient: Callable[[Exception], bool],
    explain: Callable[[Exception], str],
    pauses_s: tuple[float, ...] = LONG_PAUSES_S,
    outage: Callable[[Exception], bool] | None = None,
) -> T:
    """`action()`, tried again after each pause while its error is transient; StorageError in the end.

    It is StoreUnavailable when patience ran out, or for what `outage` knows to concern every file alike.
    """
    for pause_s in (*pauses_s, None):
        try:
            return action()
        except StorageError:
            raise
        except Exception as error:
            if pause_s is None or not transient(error):
                everywhere = transient(error) or (outage is not None and outage(error))
                # From None: a library's own message may hold an endpoint URL with a password.
                raise (StoreUnavailable if everywhere else StorageError)(explain(error)) from None
        time.sleep(pause_s * random.uniform(0.5, 1.0))
    raise AssertionError("unreachable")
