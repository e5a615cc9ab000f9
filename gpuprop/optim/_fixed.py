"""Lists and dicts that a user reads, and whose changes would have no effect: they raise instead."""

from __future__ import annotations

from typing import Any

CHANGES = """__setitem__ __delitem__ __iadd__ __imul__ __ior__ append extend insert remove pop
    popitem clear sort reverse update setdefault""".split()


def fixed(base: type, remedy: str) -> Any:
    """A subclass of list or dict whose methods that change it raise TypeError with a remedy.

    Copies and pickles are of the class `base`.
    """
    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(remedy)

    def reduce(self: Any, protocol: Any) -> tuple:
        return base, (base(self),)

    members = {name: refuse for name in CHANGES if hasattr(base, name)}
    members |= {"__reduce_ex__": reduce, "__setattr__": refuse}
    return type(f"Fixed{base.__name__.title()}", (base,), members)


Groups = fixed(list, "param_groups is not changed by assignments or as a list, which the optimizer "
                     "would not see: call optimizer.add_param_group({...}), or create a new "
                     "optimizer")
PARAMS_STAY = ("the params of a group do not change: call optimizer.add_param_group({...}) to add "
               "parameters, or create a new optimizer")
Params = fixed(list, PARAMS_STAY)
State = fixed(dict, "optimizer.state is a view: write into its arrays, as in "
                    "state[p]['exp_avg'][...] = values, or call optimizer.load_state_dict(...)")
