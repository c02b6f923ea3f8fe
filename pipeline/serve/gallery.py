"""The gallery page: plain HTML, thumbnails, and a search box over the metrics table. No script."""

from __future__ import annotations

from html import escape
from typing import Any
from urllib.parse import urlencode

from pipeline.data.pictures import Pictures
from pipeline.errors import ConfigError

PER_PAGE = 48
_HINT = "part of a name, or a comparison: psnr_db < 33 and codec = 'cnn'"
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 1200px; padding: 1rem; }
form { display: flex; gap: .5rem; margin: .5rem 0 1rem; }
input { flex: 1; font: inherit; padding: .4rem .6rem; }
button { font: inherit; padding: .4rem 1rem; }
ul { list-style: none; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); }
img { width: 100%; height: 150px; object-fit: cover; background: #8883; display: block; }
small { display: block; overflow-wrap: anywhere; }
nav { display: flex; gap: 1rem; } .problem { color: #b00; }
"""


def page(pictures: Pictures, text: str, number: int) -> str:
    """Page `number`, from 1, of the pictures that `text` finds, worst first where it compares quality."""
    try:
        found, problem = pictures.select(text) if text else pictures.table, ""
    except ConfigError as error:
        found, problem = pictures.table.slice(0, 0), str(error)
    found = found.sort_by([("psnr_db", "ascending")] if "psnr_db" in text else [("source_uri", "ascending")])
    shown = found.slice((number - 1) * PER_PAGE, PER_PAGE).to_pylist()
    tiles = "\n".join(_tile(row) for row in shown)
    pages = max(1, -(-len(found) // PER_PAGE))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(text) or "Pictures"} - shardpress</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>
<body><h1>{len(found):,} of {len(pictures):,} pictures</h1>
<form role="search"><input name="q" type="search" value="{escape(text)}" placeholder="{escape(_HINT)}"
 aria-label="Search"><button>Search</button></form>
{f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""}
<ul>{tiles}</ul>
{_turning(text, number, pages)}</body></html>
"""


def _tile(row: dict[str, Any]) -> str:
    name = str(row["source_uri"]).rpartition("/")[2]
    saved = f"{100 * (1 - row['payload_bytes'] / row['source_bytes']):.0f} % saved" if row["source_bytes"] else ""
    level = "exact" if row["mse"] == 0 else "" if row["psnr_db"] is None else f"{row['psnr_db']:.1f} dB"
    facts = ", ".join(each for each in (f"{row['width']}x{row['height']}", str(row["codec"]), saved, level) if each)
    link = f"/images/{row['image_id']}"
    return (
        f'<li><a href="{link}"><img src="{link}?w=320&amp;format=jpeg" alt="{escape(name)}" loading="lazy"></a>'
        f'<small title="{escape(str(row["source_uri"]))}">{escape(name)}</small>'
        f'<small>{escape(facts)} <a href="{link}.json">row</a></small></li>'
    )


def _turning(text: str, number: int, pages: int) -> str:
    def link(to: int, word: str) -> str:
        asked = {"q": text, "page": to} if text else {"page": to}
        return f'<a href="/?{escape(urlencode(asked))}" rel="{word}">{word}</a>'

    before = link(number - 1, "prev") if number > 1 else ""
    after = link(number + 1, "next") if number < pages else ""
    return f"<nav>{before} page {number} of {pages} {after}</nav>" if pages > 1 else ""
