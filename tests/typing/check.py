"""Do type checkers know the public functions of gpuprop, and catch wrong calls?

mypy and pyright must report an error on each marked line of wrong.py, on no other, and on no line
of right.py.  No public function, class or constant may be `Any` to mypy.  `make types` runs it.
"""

import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
MODULES = """
    gpuprop gpuprop.amp gpuprop.backend gpuprop.data gpuprop.decoding gpuprop.diagnosis
    gpuprop.functional gpuprop.io gpuprop.models gpuprop.nn gpuprop.nn.init gpuprop.nn.utils
    gpuprop.nn.utils.rnn gpuprop.optim gpuprop.optim.lr_scheduler gpuprop.optim.swa_utils
    gpuprop.random gpuprop.testing gpuprop.training gpuprop.training.metrics gpuprop.verification
""".split()
ANY_ON_PURPOSE = {"gpuprop.Array"}  # whatever an op takes as an array


def run(*command: str) -> str:
    """The standard output of a Python module, run in the root of the project."""
    python = [sys.executable, "-m"]
    root = HERE.parents[1]
    return subprocess.run([*python, *command], cwd=root, capture_output=True, text=True).stdout


def by_mypy(file: Path) -> set[int]:
    """The lines with errors."""
    found = re.findall(rf"{file.name}:(\d+): error", run("mypy", str(file)))
    return {int(line) for line in found}


def by_pyright(file: Path) -> set[int]:
    """The lines with errors."""
    report = json.loads(run("basedpyright", "--outputjson", "--level", "error", str(file)))
    errors = [d for d in report["generalDiagnostics"] if d["severity"] == "error"]
    return {d["range"]["start"]["line"] + 1 for d in errors}


def marked(file: Path) -> set[int]:
    """The lines that must have errors."""
    lines = file.read_text().splitlines()
    return {i for i, line in enumerate(lines, 1) if line.endswith("# error")}


def public_names() -> list[str]:
    return [f"{module}.{name}" for module in MODULES
            for name in sorted(importlib.import_module(module).__all__)]


def unknown_to_mypy(names: list[str], scratch: Path) -> list[str]:
    """The names whose type is Any."""
    imports = [f"import {module}" for module in MODULES]
    questions = [f"reveal_type({name})" for name in names]
    scratch.write_text("\n".join([*imports, *questions, ""]))
    answer = rf'{scratch.name}:(\d+): note: Revealed type is "(.*)"'
    revealed = re.findall(answer, run("mypy", str(scratch)))
    types = {int(line) - len(imports) - 1: words for line, words in revealed}
    unknown = [name for i, name in enumerate(names) if types.get(i, "Any") == "Any"]
    return sorted(set(unknown) - ANY_ON_PURPOSE)


def problems(scratch: Path) -> Iterator[str]:
    for file in (HERE / "right.py", HERE / "wrong.py"):
        for checker, lines in (("mypy", by_mypy(file)), ("pyright", by_pyright(file))):
            for line in sorted(lines ^ marked(file)):
                what = "reports an error that is none" if line in lines else "misses an error"
                yield f"{file.name}:{line}: {checker} {what}"
    for name in unknown_to_mypy(public_names(), scratch):
        yield f"{name} is Any to mypy"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = list(problems(Path(folder) / "names.py"))
    print("\n".join(found) or "type checkers know the public functions of gpuprop")
    sys.exit(bool(found))
