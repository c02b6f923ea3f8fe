"""Keeps secrets out of messages, logs and run records.

Three nets: the values of the AWS variables of this process, credentials inside URLs, and anything that is
called a secret, a token or a password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_ACCESS_KEY_ID")
_SECRET_NAME = re.compile(r"(?i)secret|passw|token|credential|signature|(access|api|private|account)[_-]?key|^key$")
_IN_URL = re.compile(r"(?<=://)[^/\s@]+@")
_ASSIGNED = re.compile(
    r"(?i)(\b[\w-]*(?:secret|passw|token|credential|signature|access_?key)[\w-]*[\"']?\s*[=:]\s*[\"']?)[^\s&,;'\"}]+"
)


def redact(text: str) -> str:
    """`text` with every secret this process knows of, or can recognise, replaced by `***`."""
    for name in _SECRET_VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= 6:  # a shorter "secret" would blank out ordinary words
            text = text.replace(value, MASK)
    return _ASSIGNED.sub(rf"\1{MASK}", _IN_URL.sub(f"{MASK}@", text))


def redact_tree(value: Any) -> Any:
    """The same for nested JSON-like data: strings are redacted, values under secret-sounding names masked."""
    if isinstance(value, Mapping):
        return {str(k): MASK if v and _SECRET_NAME.search(str(k)) else redact_tree(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact_tree(v) for v in value]
    return redact(value) if isinstance(value, str) else value
