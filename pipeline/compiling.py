"""What is done number by number, compiled for the processor it runs on, by Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(signature: str, function: Callable[..., Any], fastmath: bool = False) -> Callable[..., Any]:
    """By Numba, now, and kept for the next process; other threads run meanwhile.

    Without what was kept where there is no folder to write to, the disk is full or a file of it is cut short.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return numba.njit(signature, cache=True, **options)(function)
    except Exception:  # Numba has no error of its own for any of them; what is wrong without a cache, too, is raised
        return numba.njit(signature, **options)(function)
