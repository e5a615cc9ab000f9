"""After pytest's summary, report what was compared, and which of PyTorch's names gpuprop lacks."""

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
        samples = sum(n for _, n in pairs)
        terminalreporter.write_line(f"{kind}: {len(names)} compared in {samples} samples")
    for kind, names in sorted(absent.items()):
        terminalreporter.write_line(
            f"{kind}: {len(names)} exist in PyTorch only: {summarize(names)}")


def summarize(names: list[str]) -> str:
    """Names in one line; those of a submodule are counted: ``linalg.* (3), a, b``."""
    counts: dict[str, int] = defaultdict(int)
    for name in names:
        counts[name.rpartition(".")[0]] += 1
    plain = [name for name in names if "." not in name]
    return ", ".join([f"{module}.* ({n})" for module, n in counts.items() if module] + plain)
