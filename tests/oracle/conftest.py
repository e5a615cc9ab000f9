"""What was compared, and what PyTorch has and gpuprop has not, below the tests' own summary."""

from __future__ import annotations

from collections import defaultdict
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    compared: dict[str, list] = defaultdict(list)
    absent: dict[str, list] = {}
    for report in terminalreporter.stats.get("passed", ()):
        for kind, value in report.user_properties if report.when == "call" else ():
            if kind.startswith("absent "):
                absent[kind.removeprefix("absent ")] = value
            else:
                compared[kind].append(value)
    for kind, pairs in sorted(compared.items()):
        names = {name for name, _ in pairs}
        terminalreporter.write_line(f"{kind}: {len(names)} compared in {sum(n for _, n in pairs)} samples")
    for kind, names in sorted(absent.items()):
        terminalreporter.write_line(f"{kind}: {len(names)} of PyTorch's have no counterpart here: {grouped(names)}")


def grouped(names: list[str]) -> str:
    """``linalg (3), a, b``: names in one line, those of a namespace as their number."""
    spaces: dict[str, int] = defaultdict(int)
    for name in names:
        spaces[name.rpartition(".")[0]] += 1
    plain = [n for n in names if "." not in n]
    return ", ".join([f"{space}.* ({n})" for space, n in spaces.items() if space] + plain)
