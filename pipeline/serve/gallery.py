"""The gallery page: plain HTML, thumbnails, a search box over the metrics table, a few orders. No script."""

from __future__ import annotations

from html import escape
from typing import Any
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.pictures import Pictures
from pipeline.errors import ConfigError

PER_PAGE = 48
_HINT = "part of a name, or a comparison: psnr_db < 33 and codec = 'cnn'"
# Name of an order -> its columns, first things first.
ORDERS: dict[str, list[tuple[str, str]]] = {
    "name": [("source_uri", "ascending")],
    "worst quality": [("psnr_db", "ascending"), ("source_uri", "ascending")],
    "least saved": [("kept", "descending"), ("source_uri", "ascending")],
    "largest": [("source_bytes", "descending"), ("source_uri", "ascending")],
    "newest": [("committed_at", "descending"), ("source_uri", "ascending")],
}
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #fff; --panel: #f3f5f7; --edge: #dfe3e8;
  --link: #0b5cad; font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3abb4; --paper: #14171a; --panel: #1e2226;
  --edge: #30363d; --link: #8cc4ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 24px 20px 40px; background: var(--paper); color: var(--ink); }
h1 { font-size: 1.7rem; letter-spacing: -.015em; line-height: 1.2; margin: 0; }
p { margin: 4px 0; color: var(--soft); } a { color: var(--link); }
form { display: flex; gap: 8px; margin: 16px 0 10px; }
input, button { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--edge);
  border-radius: 8px; padding: 9px 14px; }
input { flex: 1; min-width: 0; } button { cursor: pointer; font-weight: 600; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 10px 0 16px; color: var(--soft); font-size: .93rem; }
nav b { color: var(--ink); }
ul { list-style: none; padding: 0; margin: 0; display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(46%, 220px), 1fr)); }
li { background: var(--panel); border: 1px solid var(--edge); border-radius: 10px; overflow: hidden; }
img { width: 100%; aspect-ratio: 4 / 3; object-fit: cover; background: #8883; display: block; }
li div { padding: 8px 12px 10px; font-size: .88rem; }
li b { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
li span { display: block; color: var(--soft); } li strong { color: var(--ink); font-weight: 600; }
.problem { color: #c8102e; } @media (prefers-color-scheme: dark) { .problem { color: #ff8a8a; } }
@media (max-width: 640px) { body { padding: 16px 12px 32px; } ul { gap: 10px; } li div { padding: 6px 9px 8px; } }
"""


def page(pictures: Pictures, text: str, number: int, order: str | None = None) -> str:
    """Page `number`, from 1, of the pictures that `text` finds, in one of `ORDERS`; worst first if it names PSNR.

    Raises:
        ConfigError: there is no such order.
    """
    keep = f'<input type="hidden" name="order" value="{escape(order)}">' if order else ""
    order = order or ("worst quality" if "psnr_db" in text else "name")
    if order not in ORDERS:
        raise ConfigError(f"order {order[:64]!r}: expected one of {', '.join(ORDERS)}")
    try:
        found, problem = pictures.select(text) if text else pictures.table, ""
    except ConfigError as error:
        found, problem = pictures.table.slice(0, 0), str(error)
    kept = pc.divide(pc.cast(found["payload_bytes"], pa.float64()), pc.cast(found["source_bytes"], pa.float64()))
    shown = (
        found.append_column("kept", kept).sort_by(ORDERS[order]).slice((number - 1) * PER_PAGE, PER_PAGE).to_pylist()
    )
    tiles = "\n".join(_tile(row) for row in shown)
    pages = max(1, -(-len(found) // PER_PAGE))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(text) or "Pictures"} - shardpress</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>
<body><h1>{len(found):,} of {len(pictures):,} pictures</h1>
<p>{_sizes(found)}</p>
<form role="search"><input name="q" type="search" value="{escape(text)}" placeholder="{escape(_HINT)}"
 aria-label="Search">{keep}<button>Search</button></form>
{f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""}
<nav aria-label="Order">{" ".join(_order(text, each, each == order) for each in ORDERS)}</nav>
<ul>{tiles}</ul>
{_turning(text, number, pages, order)}</body></html>
"""


def _sizes(found: pa.Table) -> str:
    """What the pictures took and take."""
    source, stored = (float(pc.sum(found[name]).as_py() or 0) for name in ("source_bytes", "payload_bytes"))
    if not source:
        return "nothing is found"
    saved_pct = 100 * (1 - stored / source)
    return f"{source / 1e6:,.1f} MB of sources, stored in {stored / 1e6:,.1f} MB: {saved_pct:.1f} % saved"


def _tile(row: dict[str, Any]) -> str:
    name = str(row["source_uri"]).rpartition("/")[2]
    saved = f"{100 * (1 - row['payload_bytes'] / row['source_bytes']):.0f} % saved" if row["source_bytes"] else ""
    level = "exact" if row["mse"] == 0 else "" if row["psnr_db"] is None else f"{row['psnr_db']:.1f} dB"
    facts = ", ".join(each for each in (saved, level) if each)
    link = f"/images/{row['image_id']}"
    return (
        f'<li><a href="{link}"><img src="{link}?w=480&amp;format=jpeg" alt="{escape(name)}" loading="lazy"></a>'
        f'<div><b title="{escape(str(row["source_uri"]))}">{escape(name)}</b><strong>{escape(facts)}</strong>'
        f"<span>{row['width']} x {row['height']}, {escape(str(row['codec']))}, "
        f'<a href="{link}.json" aria-label="metrics row of {escape(name)}">row</a></span></div></li>'
    )


def _order(text: str, order: str, current: bool) -> str:
    if current:
        return f"<b>{order}</b>"
    return f'<a href="/?{escape(urlencode(({"q": text} if text else {}) | {"order": order}))}">{order}</a>'


def _turning(text: str, number: int, pages: int, order: str) -> str:
    def link(to: int, word: str) -> str:
        asked = ({"q": text} if text else {}) | {"page": to, "order": order}
        return f'<a href="/?{escape(urlencode(asked))}" rel="{word}">{word}</a>'

    before = link(number - 1, "prev") if number > 1 else ""
    after = link(number + 1, "next") if number < pages else ""
    return f'<nav aria-label="Pages">{before} page {number} of {pages} {after}</nav>' if pages > 1 else ""
