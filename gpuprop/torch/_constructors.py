"""What `inspect.signature` tells of classes whose metaclass has a `__call__`."""

from __future__ import annotations

from typing import Any


class ConstructorSignature:
    """``__signature__`` of a metaclass: that of a class's constructor.

    Without it, `inspect.signature` describes the metaclass's `__call__`, which takes anything.  A
    class that has a ``__signature__`` of its own keeps it.
    """

    def __get__(self, cls: Any, metaclass: type) -> Any:
        if cls is None:
            raise AttributeError("__signature__")  # of the metaclass itself
        import inspect  # most programs do not ask

        found = inspect.signature(cls.__init__)
        return found.replace(parameters=[*found.parameters.values()][1:])
