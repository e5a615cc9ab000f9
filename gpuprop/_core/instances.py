"""Find the live objects of a class, so that `capture` can find who uses a recording's memory."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

from gpuprop._core.locks import new_rlock

# `instances` holds this lock while it references all objects of a class.  Code that tests whether
# an array is still referenced acquires it, to not count these references.
instances_lock = new_rlock()


@contextlib.contextmanager
def instances(cls: type) -> Iterator[list[Any]]:
    """All live objects of a class and its subclasses; the list is emptied at the end of the block.

    This does not call `gc.get_objects`, which would also reference objects that other threads are
    still building and can break them.  The referrers of a class are its objects and little else.
    """
    classes: list[type] = [cls]
    for base in classes:  # the loop also visits the subclasses that it appends
        classes += set(base.__subclasses__()) - set(classes)
    with instances_lock:
        found = gc.get_referrers(*classes)
        found[:] = [value for value in found if issubclass(type(value), cls)]
        try:
            yield found
        finally:
            found.clear()
