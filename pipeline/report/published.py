"""Published rate-distortion curves on Kodak: facts with their sources, for drawing beside measured ones."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Published:
    """One curve. `source` says where the numbers were read; `ms_ssim` is None where none were published."""

    name: str
    title: str
    source: str
    about: str
    bpp: tuple[float, ...]
    psnr_db: tuple[float, ...]
    ms_ssim: tuple[float, ...] | None


@cache
def curves() -> dict[str, Published]:
    """Every published curve by name."""
    found = _document()["curves"]
    return {
        each["name"]: Published(
            each["name"],
            each["title"],
            each["source"],
            each["about"],
            tuple(each["bpp"]),
            tuple(each["psnr_db"]),
            None if each["ms_ssim"] is None else tuple(each["ms_ssim"]),
        )
        for each in found
    }


def dataset() -> str:
    return str(_document()["dataset"])


def chosen(names: Sequence[str]) -> list[Published]:
    """Curves by name, or every one for ["all"]. Raises ConfigError naming the nearest known name."""
    known = curves()
    if "all" in names:
        return list(known.values())
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected all, or some of {', '.join(known)}"
            raise ConfigError(f"report.published: no curve {name!r}; {hint}")
    return [known[name] for name in names]


def _document() -> dict[str, Any]:
    text = (resources.files("pipeline.report") / "published.json").read_text(encoding="utf-8")
    return dict(json.loads(text))
