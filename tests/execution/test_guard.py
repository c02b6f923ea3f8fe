from __future__ import annotations

import functools
import os
import pickle
import signal

from pipeline.execution.guard import Probe
from pipeline.stages.work import Work
from tests.stages.pictures import source_of


def fatal(how: str, work: Work) -> None:
    if work.source.data == b"bad":
        print("last words")
        os.kill(os.getpid(), signal.SIGSEGV) if how == "signal" else os._exit(7)


def test_the_probe_survives_what_its_child_does_not():
    for how, cause in (("signal", "signal 11 (SIGSEGV)"), ("exit", "exit code 7")):
        probe = Probe(pickle.dumps(functools.partial(fatal, how)))
        good, bad = Work(source_of(b"good")), Work(source_of(b"bad"))
        assert [probe.cause_of_death(work) for work in (good, bad, good)] == [None, cause, None]
        probe.close()
