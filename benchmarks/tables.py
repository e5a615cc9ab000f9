"""Writes the README's table from stored results: ``python -m benchmarks.tables``."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS, README = Path(__file__).parent / "results", ROOT / "README.md"
BLOCK = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- end of results -->)", re.S)


def table() -> str:
    """The mean result of each example over its seeds, and a reference value."""
    lines = ["| example | data and model | measured | seeds | reference |", "|---|---|---|---|---|"]
    for row in json.loads((RESULTS / "examples.json").read_text()):
        name = row["example"]
        values = row["values"]
        mean = f"{statistics.mean(values):.{row['decimals']}f}"
        cells = [f"[{name}](examples/{name}.py)", row["what"], f"{row['measure']}: {mean}",
                 str(len(values)), row["beside"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The README with the current table."""
    return BLOCK.sub(lambda _: table(), README.read_text(encoding="utf-8"), count=1)


if __name__ == "__main__":
    README.write_text(page(), encoding="utf-8")
