"""Locks that a forked process can use, even if another thread held them at the time of the fork.

Only the thread that forks exists in the new process: a lock that another thread held would stay
locked for ever.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def new_lock() -> threading.Lock:
    """A `threading.Lock` that is released in a forked process."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def new_rlock() -> threading.RLock:
    """A `threading.RLock` that is released in a forked process."""
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def _release_all() -> None:
    for lock in list(_locks):
        lock._at_fork_reinit()  # as `threading` and `logging` do


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_all)
