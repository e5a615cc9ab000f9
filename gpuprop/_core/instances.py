"""The live objects of a class.  `capture` uses them to find references to a recording's memory."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any

# Held while `instances` holds references to all objects of a class.  Code that tests whether an
# array is still referenced takes it, so that it does not count the references of `instances`.
instances_lock = threading.RLock()


@contextlib.contextmanager
def instances(cls: type) -> Iterator[list[Any]]:
    """All live objects of a class and its subclasses; the list is emptied at the end of the block.

    `gc.get_objects` would hold references to every object, and another thread's half-built object
    can break then.  `gc.get_referrers` of a class returns its objects and little else.
    """
    classes: list[type] = [cls]
    for known in classes:
        classes += set(known.__subclasses__()) - set(classes)
    with instances_lock:
        found = gc.get_referrers(*classes)
        found[:] = [value for value in found if issubclass(type(value), cls)]
        try:
            yield found
        finally:
            found.clear()
