"""Read by every Python process below a round of the soak, through PYTHONPATH: kills one of them at a chosen step.

SOAK_STEP    where: module:function, of which a part of a URI may be asked for: module:function@/data/
SOAK_WHEN    before or after that call
SOAK_VICTIM  self, driver, or node (the raylet above a worker, and so all workers of that node)
SOAK_LIVES   a folder of files; each call takes one away, and whoever takes the last one kills

The program under test knows nothing of this.
"""

import functools
import importlib.abc
import importlib.machinery
import os
import pathlib
import signal
import sys


def _take() -> bool:
    """Whether this call was the last one that was to be let through."""
    lives = sorted(pathlib.Path(os.environ["SOAK_LIVES"]).glob("life-*"))
    for life in lives:
        try:
            life.unlink()
        except FileNotFoundError:
            continue
        return len(lives) == 1
    return False


def _kill() -> None:
    who = os.environ["SOAK_VICTIM"]
    victim = {"driver": int(os.environ["SOAK_DRIVER"]), "node": os.getppid()}.get(who, os.getpid())
    if who == "node" and b"raylet" not in pathlib.Path(f"/proc/{victim}/cmdline").read_bytes():
        return
    pathlib.Path(os.environ["SOAK_LIVES"], f"killed-{os.getpid()}").touch()
    os.kill(victim, signal.SIGKILL)


def _deadly(function, part):
    @functools.wraps(function)
    def call(*arguments, **options):
        here = (not part or any(part in str(a) for a in arguments if isinstance(a, str))) and _take()
        if here and os.environ["SOAK_WHEN"] == "before":
            _kill()
        answer = function(*arguments, **options)
        if here:
            _kill()
        return answer

    return call


class _Finder(importlib.abc.MetaPathFinder):
    """Wraps the function as soon as its module has run, before anybody can import it from there."""

    def __init__(self, step: str) -> None:
        place, _, self.part = step.partition("@")
        self.module, _, self.path = place.partition(":")

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            *owners, last = self.path.split(".")
            owner = functools.reduce(getattr, owners, module)
            setattr(owner, last, _deadly(getattr(owner, last), self.part))

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("SOAK_STEP"):
    os.environ.setdefault("SOAK_DRIVER", str(os.getpid()))  # the first process of the tree
    sys.meta_path.insert(0, _Finder(os.environ["SOAK_STEP"]))
