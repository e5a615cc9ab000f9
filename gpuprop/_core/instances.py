"""The objects of a class that exist: what capture asks before it replays memory that somebody may hold."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any

looking = threading.RLock()  # who asks whether an array is held must not meet those that `instances` holds


@contextlib.contextmanager
def instances(cls: type) -> Iterator[list[Any]]:
    """All objects of a class that there are, inside the block, which keeps none of them.

    `gc.get_objects` holds every object for a moment, and another thread's that is still being made then breaks; what
    refers to a class is its objects and few others.
    """
    every: list[type] = [cls]
    for known in every:
        every += set(known.__subclasses__()) - set(every)
    with looking:
        found = gc.get_referrers(*every)
        found[:] = [value for value in found if issubclass(type(value), cls)]
        try:
            yield found
        finally:
            found.clear()
