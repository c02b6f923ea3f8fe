"""What is done number by number, compiled for the processor it runs on, by Numba."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any


def right(name: str, agrees: Callable[[ModuleType], bool], who: str) -> ModuleType | None:
    """The module `name` of what is compiled; None where there is no Numba, it fails, or nothing `agrees` with it.

    Then `who` goes on without, and the log says why.
    """
    try:
        made = importlib.import_module(name)
        agreed = agrees(made)
    except ImportError:
        return None
    except MemoryError:
        raise  # another time there may be enough
    except Exception as error:  # whatever LLVM has to say
        logging.getLogger(__name__).warning("%s go on without Numba, which failed: %s", who, error)
        return None
    if not agreed:
        logging.getLogger(__name__).warning("%s go on without Numba, whose results for this processor are wrong", who)
        return None
    return made


def compiled(signature: str, function: Callable[..., Any], fastmath: bool = False) -> Callable[..., Any]:
    """By Numba, now, and kept for the next process; other threads run meanwhile.

    What is kept is looked up by the file of the function, with constants of other files compiled in: change those, and
    it is found wrong (`right`) until it is thrown away. Nothing is kept where there is no folder to write to, the disk
    is full or a file of it is cut short.
    """
    import numba

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return numba.njit(signature, cache=True, **options)(function)
    except Exception:  # Numba has no error of its own for any of them; what is wrong without a cache, too, is raised
        return numba.njit(signature, **options)(function)
