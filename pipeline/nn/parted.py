"""Compiled functions over rows, by as many threads as torch has."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

STRIP_ROWS = 2048
"""Of each thread: so many rows of a hundred channels, and what is made of them at once, are in its cache."""
LEAST_ROWS = 512
"""Fewer are not worth a thread."""


def strips(rows: int) -> list[slice]:
    """What is done at once."""
    step = STRIP_ROWS * torch.get_num_threads()
    return [slice(first, min(first + step, rows)) for first in range(0, rows, step)]


def over_rows(
    function: Callable[..., None], rows: tuple[Tensor | np.ndarray, ...], *others: Any, least: int = LEAST_ROWS
) -> None:
    """`function` of arrays that have a row each for every position, and of others that all rows share.

    By several threads if there are `least` rows for each.
    """
    arrays = [each.numpy() if isinstance(each, Tensor) else each for each in rows]
    count, threads = len(arrays[0]), torch.get_num_threads()
    parts = min(threads, count // least)
    if parts < 2:
        function(*arrays, *others)
        return
    bounds = [count * k // parts for k in range(parts + 1)]

    def part(first: int, last: int) -> None:
        function(*(array[first:last] for array in arrays), *others)

    list(_pool(threads).map(part, bounds[:-1], bounds[1:]))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="rows")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has the pool, but none of its threads
