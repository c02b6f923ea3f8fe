"""The process that libFuzzer runs in: `python -m tests.fuzz.inside TARGET CORPUS FLAGS`; it never returns."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["pipeline"], enable_loader_override=False):
    from tests.fuzz import targets

if __name__ == "__main__":
    name, *flags = sys.argv[1:]
    atheris.Setup([sys.argv[0], *flags], targets.TARGETS[name])
    atheris.Fuzz()
