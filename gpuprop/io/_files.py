"""Atomic writing of files: completely or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replacing(path: str | os.PathLike, binary: bool = False) -> Iterator[IO]:
    """Open a temporary file for writing; it replaces `path` when the block ends without an error.

    If the block raises, an existing file is unchanged.  Missing parent folders are created.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from gpuprop.io import replacing
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/notes.txt") as file:
    ...         _ = file.write("all or nothing")
    ...     Path(folder, "notes.txt").read_text()
    'all or nothing'
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    options: Any = {"mode": "wb"} if binary else {"mode": "w", "encoding": "utf-8", "newline": ""}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open(**options) as file:
            yield file
        temporary.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.add_note(f"while writing {target}: nothing was written; an existing file is "
                           f"unchanged")
        raise
