"""Write files completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from gpuprop._core.checks import as_choice, as_path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def replacing(path: str | os.PathLike, binary: bool = False) -> Iterator[IO]:
    """Open a draft for writing; it replaces the file at `path` when the block has succeeded.

    If the block raises, or the process is killed, an existing file is unchanged.  If several
    threads or processes write one path, the last one that finishes wins.  The new file has the mode
    and, if possible, the owner of the old one.  Of a symbolic link the target is replaced.  The
    file is on the disk when the block has ended.  A device or a pipe is written to directly.
    Missing parent folders are created.

    Drafts, ``.NAME.*.draft`` beside the file, that killed processes left are removed.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from gpuprop.io import replacing
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/notes.txt") as file:
    ...         _ = file.write("all or nothing")
    ...     Path(folder, "notes.txt").read_text()
    'all or nothing'
    """
    as_choice("replacing: binary", binary, (False, True))
    options: Any = {"mode": "wb"} if binary else {"mode": "w", "encoding": "utf-8", "newline": ""}
    path = as_path("replacing: path", path)
    try:
        old = _status(path)
        if old is not None and not stat.S_ISREG(old.st_mode):
            with path.open(**options) as file:  # raises for a folder
                yield file
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        if old is not None and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, "the file is read-only", str(target))
        _remove_stale_drafts(target)
        with _draft(target, old) as (draft, descriptor):
            with open(descriptor, **options) as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            draft.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        error.add_note(f"while writing {path}: nothing was written; an existing file is unchanged")
        raise


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


# A draft is locked while it is written, and the system releases the lock of a killed process.  Its
# name cannot be guessed, and O_EXCL refuses an existing file or symbolic link.


@contextlib.contextmanager
def _draft(target: Path, old: os.stat_result | None) -> Iterator[tuple[Path, int]]:
    """A new file beside `target`, locked until the block ends, and its descriptor.

    It has the mode and owner of the `old` file.  The block closes the descriptor.
    """
    draft = lock = None
    try:
        while True:
            draft = target.with_name(f"{_draft_prefix(target)}{secrets.token_hex(8)}.draft")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            descriptor = os.open(draft, flags, 0o666 if old is None else 0o600)
            if _lock(descriptor):
                break
            os.close(descriptor)
        if fcntl is not None:  # Windows has no modes, and does not rename an open file
            lock = os.dup(descriptor)
            if old is not None:
                _copy_owner_and_mode(old, descriptor)
        yield draft, descriptor
    finally:
        if draft is not None:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def _draft_prefix(target: Path) -> str:
    return f".{target.name[:50]}."  # at most 202 of the 255 bytes of a file name


def _lock(descriptor: int) -> bool:
    """Lock a new draft.  False if `_remove_stale_drafts` of another process was faster."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return os.fstat(descriptor).st_nlink > 0


def _remove_stale_drafts(target: Path) -> None:
    """Remove the drafts that no process has locked."""
    if fcntl is None:
        return
    pattern = f"{glob.escape(_draft_prefix(target))}{'[0-9a-f]' * 16}.draft"
    for name in glob.glob(pattern, root_dir=target.parent):
        draft = target.with_name(name)
        with contextlib.suppress(OSError):
            descriptor = os.open(draft, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                draft.unlink()
            finally:
                os.close(descriptor)


def _copy_owner_and_mode(old: os.stat_result, descriptor: int) -> None:
    mode = stat.S_IMODE(old.st_mode)
    try:
        os.fchown(descriptor, old.st_uid, old.st_gid)
    except OSError:  # only the superuser may give a file away
        mode &= ~(stat.S_ISUID | stat.S_ISGID)
        try:
            os.fchown(descriptor, -1, old.st_gid)
        except OSError:
            mode &= ~0o070 | (mode & 0o007) << 3  # another group gets no more than all others
    with contextlib.suppress(OSError):  # a file system without modes
        os.fchmod(descriptor, mode)


def _sync_folder(folder: Path) -> None:
    """Write the new name to the disk, where the platform can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
