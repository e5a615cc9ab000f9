"""Trees: nested tuples, lists and dicts.  Any other value is a leaf."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def tree_map(f: Callable, tree: Any) -> Any:
    """A tree of the same structure with `f(leaf)` in place of each leaf.

    Containers keep their types, such as OrderedDict and named tuples.  None is a leaf.
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
    """True for a Mapping such as a dict, but not for an array-like one."""
    return isinstance(value, Mapping) and not hasattr(value, "shape")


def rebuilt(container: Any, values: Any) -> Any:
    """A container of the same type as `container` with `values`: its new items, or a new dict."""
    if isinstance(container, dict):
        result = copy.copy(container)  # keeps what is no item, such as a defaultdict's factory
        result.update(values)
        return result
    cls: Any = type(container)
    is_named_tuple = hasattr(cls, "_fields")
    return cls(*values) if is_named_tuple else cls(values)
