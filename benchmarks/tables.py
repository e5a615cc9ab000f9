"""README's table of results, from the stored ones: ``python -m benchmarks.tables`` writes it anew."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS, README = Path(__file__).parent / "results", ROOT / "README.md"
BLOCK = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- end of results -->)", re.S)


def table() -> str:
    """What each example reached, a mean over its seeds, and what there is to compare it with."""
    lines = ["| example | data and model | measured | seeds | beside |", "|---|---|---|---|---|"]
    for row in json.loads((RESULTS / "examples.json").read_text()):
        values, name = row["values"], row["example"]
        mean = f"{statistics.mean(values):.{row['decimals']}f}"
        lines.append(f"| [{name}](examples/{name}.py) | {row['what']} | {row['measure']}: {mean} | {len(values)} "
                     f"| {row['beside']} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """README with the table as it has to be."""
    return BLOCK.sub(lambda _: table(), README.read_text(encoding="utf-8"), count=1)


if __name__ == "__main__":
    README.write_text(page(), encoding="utf-8")
