"""Trees: nested tuples, lists and dicts, of arrays for example."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def tree_map(f: Callable, tree: Any) -> Any:
    """The same tree with `f(leaf)` in place of each leaf.

    A container keeps its type: a dict may be an OrderedDict, a tuple a named tuple.  None is a
    leaf.
    """
    if isinstance(tree, tuple | list):
        return rebuilt(tree, [tree_map(f, value) for value in tree])
    if is_mapping(tree):
        return rebuilt(tree, {key: tree_map(f, value) for key, value in tree.items()})
    return f(tree)


def tree_leaves(tree: Any) -> Iterator[Any]:
    """The leaves of a tree, in order."""
    if isinstance(tree, tuple | list):
        for value in tree:
            yield from tree_leaves(value)
    elif is_mapping(tree):
        for value in tree.values():
            yield from tree_leaves(value)
    else:
        yield tree


def is_mapping(value: Any) -> bool:
    """True for a dict and its like; a structured array is none."""
    return isinstance(value, Mapping) and not hasattr(value, "shape")


def rebuilt(container: Any, values: Any) -> Any:
    """`values` in a container of the same type as `container`, whose own contents are replaced."""
    if isinstance(container, dict):
        made = copy.copy(container)  # a defaultdict needs more than its items
        made.update(values)
        return made
    make: Any = type(container)
    return make(*values) if hasattr(make, "_fields") else make(values)
