"""What `verify` found as one page that needs nothing else: a verdict, and a table of every layer and step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from gpuprop import _environment as environment
from gpuprop.verification._measure import FLOOR, LIMIT, Row

if TYPE_CHECKING:
    from gpuprop.verification import Verification

STYLE = """
:root { color-scheme: light dark; --line: #8884; --same: 145; --bad: 5 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em }
h2 { margin: 2em 0 .3em } h3 { margin: 1.5em 0 .3em; font-size: 1em }
.verdict { display: inline-block; padding: .1em .7em; border-radius: .3em; color: #fff; background: #777 }
.verdict.s0 { background: #1a7f37 } .verdict.s1 { background: #cf222e }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } tbody tr:hover { outline: 1px solid }
th, td { text-align: left; padding: .1em .8em; border-bottom: 1px solid var(--line) } th { font-weight: 600 }
td.r { text-align: right; background: hsl(var(--hue) 75% 50% / .3) } td.bad { font-weight: 700 }
.scroll { overflow-x: auto } pre { overflow-x: auto; padding: 1em; border: 1px solid var(--line); border-radius: .3em }
"""


def page(results: Sequence[Verification]) -> str:
    """The page of these results, as HTML."""
    return "\n".join(_page(results))


def _page(results: Sequence[Verification]) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width">\n<title>gpuprop verify</title>'
    yield f"<style>{STYLE}</style>\n<h1>gpuprop verify</h1>"
    yield (f"<p>The same training runs on two backends. A number is a tensor's distance to the reference in float64, "
           f"divided by the noise: by what the reference's own runs in other orders are from it, or by {FLOOR} units "
           f"in the last place if that is more. Up to {LIMIT:g} is what rounding does.</p>")
    for result in results:
        yield from _section(result)
    yield f"<h2>Environment</h2>\n<pre>{escape(environment.text(environment.info()))}</pre>\n</html>"


def _section(result: Verification) -> Iterator[str]:
    from gpuprop.verification import WORDS

    yield f'<h2>{escape(result.name)} <span class="verdict s{result.status}">{WORDS[result.status]}</span></h2>'
    yield f"<p>{escape(result.candidate)} against {escape(result.reference)}, {result.steps} steps, seed {result.seed}"
    if result.first:
        yield f"<br>The first to differ is <b>{escape(result.first)}</b>"
    for note in result.notes:
        yield f"<br>{escape(note)}"
    for what in dict.fromkeys(e.what for e in result.exact):
        found = [e.same for e in result.exact if e.what == what]
        yield f"<br>{what}: {sum(found)} of {len(found)} the same bit for bit"
    yield "</p>"
    for dtype in dict.fromkeys(row.dtype for row in result.rows):
        yield from _table(dtype, [row for row in result.rows if row.dtype == dtype])


def _table(dtype: str, rows: Sequence[Row]) -> Iterator[str]:
    steps = range(1 + max(row.step for row in rows))
    at = {(row.layer, row.phase, row.what, row.step): row for row in rows}
    yield f'<h3>{dtype}</h3>\n<div class="scroll"><table><thead><tr><th>layer<th>phase<th>tensor'
    yield "".join(f"<th>step {i}" for i in steps) + "<tbody>"
    for layer, phase, what in dict.fromkeys((row.layer, row.phase, row.what) for row in rows):
        cells = "".join(_cell(at.get((layer, phase, what, i))) for i in steps)
        yield f"<tr><td>{escape(layer)}<td>{phase}<td>{escape(what)}{cells}"
    yield "</table></div>"


def _cell(row: Row | None) -> str:
    if row is None:
        return "<td>"
    told = "0" if row.ratio == 0 else f"{row.ratio:.2g}"
    share = min(max(math.log10(max(row.ratio, 1e-9)) / (2 * math.log10(LIMIT)), 0), 1)  # of the way to LIMIT squared
    hue = f"calc(var(--same) + {share:.2f} * (var(--bad) - var(--same)))"
    return f'<td class="r{" bad" * (not row.same)}" style="--hue:{hue}" title="{escape(str(row))}">{told}'
