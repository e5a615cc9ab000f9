"""The results of `verify` as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from gpuprop import _environment
from gpuprop.verification._comparison import FLOOR, LIMIT, TensorComparison

if TYPE_CHECKING:
    from gpuprop.verification import Verification

STYLE = """
:root { color-scheme: light dark; --line: #8884; --same: 145; --bad: 5 }
body {
  font: 15px/1.5 system-ui, sans-serif;
  max-width: 70em; margin: 2em auto; padding: 0 1em;
}
h2 { margin: 2em 0 .3em }
h3 { margin: 1.5em 0 .3em; font-size: 1em }
.verdict {
  display: inline-block; padding: .1em .7em; border-radius: .3em;
  color: #fff; background: #777;
}
.verdict.s0 { background: #1a7f37 }
.verdict.s1 { background: #cf222e }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
tbody tr:hover { outline: 1px solid }
th, td { text-align: left; padding: .1em .8em; border-bottom: 1px solid var(--line) }
th { font-weight: 600 }
td.r { text-align: right; background: hsl(var(--hue) 75% 50% / .3) }
td.bad { font-weight: 700 }
.scroll { overflow-x: auto }
pre {
  overflow-x: auto; padding: 1em; border: 1px solid var(--line); border-radius: .3em;
}
"""


def html_report(results: Sequence[Verification]) -> str:
    """One HTML page with these results and the environment."""
    return "\n".join(_page(results))


def _page(results: Sequence[Verification]) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width">\n<title>gpuprop verify</title>'
    yield f"<style>{STYLE}</style>\n<h1>gpuprop verify</h1>"
    yield (f"<p>Each training run is done on two backends. A number is the ratio of a tensor's "
           f"difference from the reference in float64 to the rounding noise. The noise is the "
           f"largest difference of the reference from its own runs in other summation orders, but "
           f"at least {FLOOR} units in the last place. Ratios up to {LIMIT:g} are "
           f"attributed to rounding.</p>")
    for result in results:
        yield from _section(result)
    environment = _environment.format_info(_environment.info())
    yield f"<h2>Environment</h2>\n<pre>{escape(environment)}</pre>\n</html>"


def _section(result: Verification) -> Iterator[str]:
    verdict = f'<span class="verdict s{result.status}">{result.verdict}</span>'
    yield f"<h2>{escape(result.name)} {verdict}</h2>"
    steps = "1 step" if result.steps == 1 else f"{result.steps} steps"
    yield (f"<p>{escape(result.candidate)} compared with {escape(result.reference)}, {steps}, "
           f"seed {result.seed}")
    if result.first_difference:
        yield f"<br>First difference: <b>{escape(result.first_difference)}</b>"
    for line in (*result.notes, *result.bitwise_summary()):
        yield f"<br>{escape(line)}"
    yield "</p>"
    for dtype in dict.fromkeys(t.dtype for t in result.tensors):
        yield from _table(dtype, [t for t in result.tensors if t.dtype == dtype])


def _table(dtype: str, tensors: Sequence[TensorComparison]) -> Iterator[str]:
    steps = range(1 + max(t.step for t in tensors))
    by_cell = {(t.layer, t.phase, t.tensor, t.step): t for t in tensors}
    yield f'<h3>{dtype}</h3>\n<div class="scroll"><table><thead><tr>'
    yield "<th>layer<th>phase<th>tensor" + "".join(f"<th>step {i}" for i in steps) + "<tbody>"
    for layer, phase, tensor in dict.fromkeys((t.layer, t.phase, t.tensor) for t in tensors):
        cells = "".join(_cell(by_cell.get((layer, phase, tensor, i))) for i in steps)
        yield f"<tr><td>{escape(layer)}<td>{phase}<td>{escape(tensor)}{cells}"
    yield "</table></div>"


def _cell(comparison: TensorComparison | None) -> str:
    if comparison is None:
        return "<td>"
    ratio = comparison.ratio
    text = "0" if ratio == 0 else f"{ratio:.2g}"
    # The color goes from green, at a ratio of 1, to red, at LIMIT squared.
    fraction = math.log10(max(ratio, 1e-9)) / (2 * math.log10(LIMIT))
    fraction = min(max(fraction, 0), 1)
    hue = f"calc(var(--same) + {fraction:.2f} * (var(--bad) - var(--same)))"
    classes = "r" if comparison.same else "r bad"
    title = escape(str(comparison))
    return f'<td class="{classes}" style="--hue:{hue}" title="{title}">{text}'
