"""The doors: parse, build, run, print, exit code. Whoever opens one with an old Python is told so, and no more."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  this is what tells the others; written so that they can read it
    sys.exit("shardpress needs Python 3.11 or newer; this is " + sys.version.split()[0])
