"""A device that is not there: arrays on the host that behave as CuPy's do wherever NumPy is lax.

They refuse to become NumPy arrays and to meet them, wrap indices out of range, leave new memory poisoned, answer a
reduction with a 0-d array, add in another order, count what waits for the device, and can be recorded and replayed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import EllipsisType
from typing import Any

import numpy as np

from gpuprop._core import extras
from gpuprop._core.backend import Backend, CaptureError
from gpuprop._core.instruments import waits
from gpuprop._core.registry import get_backend
from gpuprop.testing._cupy_semantics import ATOMIC, READINGS, at, getitem, of_bfloat16, setitem
from gpuprop.testing._recording import Recording, caller, leaves, owner

# ---- which names there are, and what they take -----------------------------------------------------------------------

# NumPy's names that CuPy 14 has not.
ABSENT = {
    "numpy": """
        False_ ScalarType True_ asmatrix block bmat busday_count busday_offset busdaycalendar bytes_ char character
        clongdouble complex256 core ctypeslib datetime64 datetime_as_string datetime_data dtypes einsum_path emath
        errstate f2py flexible float128 frompyfunc fromregex geomspace get_include getbufsize geterr geterrcall
        histogram_bin_edges info insert is_busday isnat little_endian longdouble ma matrix matvec memmap nanpercentile
        nanquantile ndenumerate nditer nested_iters object_ polyder polydiv polyint rec recarray record sctypeDict
        setbufsize seterr seterrcall show_runtime spacing str_ strings test timedelta64 typecodes unstack vecdot vecmat
        void""".split(),
    "numpy.linalg": "diagonal matrix_norm multi_dot outer svdvals tensordot test trace vecdot vector_norm".split(),
    "numpy.fft": ["test"],
}
MODULES = {"linalg", "fft", "lib", "stride_tricks"}
LIBRARY = "dot tensordot einsum inner vdot".split()  # cuBLAS, which CuPy refuses while capturing
WAITS = """argpartition argwhere array2string array_repr array_str bincount choose compress delete extract flatnonzero
           histogram histogram2d histogramdd intersect1d nanmax nanmin nonzero percentile place putmask quantile
           ravel_multi_index setdiff1d setxor1d sliding_window_view tril_indices trim_zeros triu_indices union1d unique
           unravel_index""".split()
HOST = """broadcast_shapes can_cast common_type issubdtype iscomplexobj isrealobj isscalar may_share_memory
          min_scalar_type ndim promote_types result_type shape size""".split()  # answered by shapes and dtypes alone
SHAPED = "arange empty eye full identity indices linspace logspace ones tri tril_indices triu_indices zeros".split()
SEQUENCES = """atleast_1d atleast_2d atleast_3d broadcast_arrays column_stack concat concatenate dstack hstack ix_
               meshgrid select stack vstack""".split()
SCALARS = "polygamma einsum".split()  # their first argument may be a number
PAIRS = "dot inner outer tensordot vdot".split()  # their second argument is an array too
VALUES = """append choose clip copyto fill full full_like put put_along_axis searchsorted take take_along_axis
            where""".split()  # none of their arguments is a list
HOSTED = """array_split broadcast_to dsplit expand_dims hsplit moveaxis reshape split squeeze swapaxes tile transpose
            vsplit""".split()  # their arguments but for the first are the host's
UNKNOWN = {"device", "initial", "like", "subok", "where"}  # arguments that CuPy's functions do not take


# ---- the machine ----------------------------------------------------------------------------------------------------


class Machine:
    """What runs on the devices that are not there: every call of every array of one class goes through `call`."""

    def __init__(self, array_type: Any, devices: int = 2) -> None:
        self.array_type, self.devices = array_type, devices
        self.syncs: list[str] = []  # what waited for a device, and where
        self._thread = threading.local()

    @property
    def device(self) -> int:
        return getattr(self._thread, "device", 0)

    @device.setter
    def device(self, index: int) -> None:
        if not 0 <= index < self.devices:
            raise RuntimeError(f"cudaErrorInvalidDevice: invalid device ordinal {index}")
        self._thread.device = index

    @property
    def recording(self) -> Recording | None:
        return getattr(self._thread, "recording", None)

    @contextlib.contextmanager
    def record(self) -> Iterator[Recording]:
        """Write down the calls this thread makes inside the block."""
        if self.recording is not None:
            raise CaptureError("this thread is recording already")
        self._thread.recording = recording = Recording(self.new, self.array_type)
        try:
            yield recording
        finally:
            self._thread.recording = None
            recording.end()

    def sync(self, what: str) -> None:
        """Say that the host waits for the device here."""
        self.forbid(what, "waits for the device, which a captured step cannot do")
        waits(f"{what} in {caller()}")
        self.syncs.append(f"{what} in {caller()}")

    def forbid(self, what: str, why: str = "cannot be captured") -> None:
        """Refuse a call while recording."""
        if self.recording is not None:
            self.recording.refused.append(f"{what} in {caller()} {why}")
            raise CaptureError(self.recording.refused[-1])

    def new(self, raw: np.ndarray, device: int | None = None) -> Any:
        if raw.dtype.kind not in "biufcV":
            raise ValueError(f"Unsupported dtype {raw.dtype}")
        return self.array_type._of(raw, self.device if device is None else device)

    def asarray(self, value: Any, dtype: Any = None, copy: bool = False) -> Any:
        """A device array of host data: only numbers need no copy from the host."""
        if self.owns(value):
            same = dtype is None or value.dtype == dtype
            return value if same and not copy else value.astype(dtype or value.dtype)
        parts = list(leaves_of([value])) if isinstance(value, list | tuple) else []
        if any(map(self.owns, parts)):
            for part in parts:
                self.check(part)
            if len(parts) > 8:
                self.forbid("a table of pointers from the host")
        if np.isscalar(value) or any(map(self.owns, parts)):
            return self.call("asarray", np.array, (value, dtype))
        host = np.array(value, dtype)
        if host.size:
            self.forbid("a copy from the host")
        return self.new(host)

    def ufunc(self, ufunc: np.ufunc, args: tuple, kwargs: dict) -> Any:
        """Call a ufunc, on arrays and numbers only."""
        if kwargs.keys() - {"out", "dtype", "casting"}:
            raise TypeError(f"Wrong arguments {sorted(kwargs)}")
        for a in args:
            self.check(a, numbers=True)
        if ufunc is np.matmul:
            self.forbid("matmul by cuBLAS")
            if any(a.dtype.name == "bfloat16" and a.ndim > 2 for a in args if self.owns(a)):
                raise TypeError("CuPy's @ takes no bfloat16 of more than two dimensions: use xp.matmul")
        return self.call(ufunc.__name__, READINGS.get(ufunc.__name__, ufunc), args, kwargs)

    def function(self, name: str, fn: Callable, args: tuple, kwargs: dict) -> Any:
        """Call one of the namespace's functions, if a device takes what it is given."""
        unknown = UNKNOWN & kwargs.keys()
        if unknown and name != "copyto":
            raise TypeError(f"{name}() got an unexpected keyword argument {unknown.pop()!r}")
        if self._waits(name, args, kwargs):
            self.sync(name)
        host = args[:1] if name == "full" else args if name in SHAPED else args[1:] if name in HOSTED else ()
        if any(map(self.owns, leaves_of(host))):
            raise TypeError(f"{name}(): a device array cannot be interpreted as an integer")
        if args and name not in SHAPED and name not in SEQUENCES:
            self.check(args[0], numbers=name in SCALARS)
        if name in ("sort", "argsort") and kwargs.get("kind") not in (None, "stable"):
            raise ValueError("kind can only be None or 'stable'")
        if name in PAIRS and len(args) > 1:
            self.check(args[1])
        if name in VALUES:
            for a in args[1:]:
                if isinstance(a, list | tuple):
                    raise TypeError(f"Unsupported type {type(a)}")
        return self.call(name, fn, args, kwargs)

    def _waits(self, name: str, args: tuple, kwargs: dict) -> bool:
        """Does the host wait in CuPy's function, given these arguments?"""
        rest = (*args[1:], *kwargs.values())
        return (name in WAITS or (name == "where" and not rest) or (name == "average" and "weights" in kwargs)
                or (name in ("repeat", "fill") and any(map(self.owns, rest))))

    def check(self, value: Any, numbers: bool = False) -> None:
        if not self.owns(value) and not (numbers and (np.isscalar(value) or value is None)):
            raise TypeError(f"Unsupported type {type(value)}")

    def key(self, key: Any) -> tuple:
        """An index as a tuple; a list and a NumPy array are refused, for they'd be copied to the device each time."""
        keys = key if isinstance(key, tuple) else (key,)
        for k in keys:
            if not isinstance(k, int | np.integer | slice | StrictArray | EllipsisType | None):
                raise TypeError(f"Unsupported type {type(k)} as an index")
        if has_mask(keys):
            self.sync("indexing by a boolean mask")
        return keys

    def owns(self, value: Any) -> bool:
        return type(value) is self.array_type  # not a subclass: it has a machine of its own

    def call(self, name: str, fn: Callable, args: tuple, kwargs: dict | None = None) -> Any:
        """``fn(*args, **kwargs)`` on the memory of the arrays; new arrays are on this thread's device."""
        given: list[Any] = []
        raw_args = self._raw(args, given)
        fn = of_bfloat16(name, fn, raw_args)
        raw_kwargs = {k: self._raw(v, given) for k, v in (kwargs or {}).items()}
        recording = self.recording
        if recording is not None:
            recording.before(g._a for g in given)
        with np.errstate(all="ignore"):  # a device warns of nothing
            result = fn(*raw_args, **raw_kwargs)
        made: dict[int, np.ndarray] = {}
        found, views = self._wrap(result, given, made)
        computed = bool(made) or not views
        if computed:
            self._check_devices(given)
        if recording is not None:
            recording.write(name, fn, raw_args, raw_kwargs, made, computed)
        return found

    def _raw(self, value: Any, given: list) -> Any:
        if self.owns(value):
            given.append(value)
            return value._a
        if isinstance(value, tuple | list):
            return type(value)(self._raw(v, given) for v in value)
        if isinstance(value, np.ndarray | StrictArray):
            raise TypeError(f"Unsupported type {type(value)}")
        return value

    def _wrap(self, result: Any, given: list, made: dict[int, np.ndarray]) -> tuple[Any, int]:
        """The result in device arrays, and how many of them are views of what was given; `made` takes the new ones."""
        arrays, views = [], 0
        for i, raw in enumerate(leaves(result)):
            array = next((g for g in given if g._a is raw), None)
            viewed = None
            if array is None and raw.base is not None:  # else it is new, for sure
                viewed = next((g for g in given if np.may_share_memory(g._a, raw) or _empty_view(g._a, raw)), None)
            if array is None:
                array = self.new(raw, None if viewed is None else viewed._device)
                if viewed is None:
                    made[i] = raw
            views += viewed is not None
            arrays.append(array)
        return _replaced(result, iter(arrays)), views

    def _check_devices(self, given: list) -> None:
        for g in given:
            if g._device != self.device:
                raise ValueError(f"The device where the array resides ({g._device}) is different from the current "
                                 f"device ({self.device}). Peer access is unavailable between these devices.")


def _empty_view(a: np.ndarray, view: np.ndarray) -> bool:
    """Is it a view of `a` in which nothing is left to share?"""
    return view.size == 0 and view.base is not None and owner(view) is owner(a)


def leaves_of(args: Any) -> Iterator[Any]:
    for a in args:
        if isinstance(a, tuple | list):
            yield from leaves_of(a)
        else:
            yield a


def has_mask(keys: tuple) -> bool:
    return any(isinstance(k, bool) or (isinstance(k, StrictArray) and k.dtype == bool) for k in keys)


def _replaced(result: Any, arrays: Iterator) -> Any:
    if isinstance(result, tuple):
        return tuple(_replaced(r, arrays) for r in result)
    if isinstance(result, list):
        return [_replaced(r, arrays) for r in result]
    return next(arrays) if isinstance(result, np.ndarray | np.generic | bool) else result


# ---- the arrays -----------------------------------------------------------------------------------------------------


class StrictArray:
    """An array on a device that is not there.  A subclass has a machine of its own and does not mix with its base."""

    __slots__ = ("__weakref__", "_a", "_device")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]
    machine: Machine
    _a: np.ndarray
    _device: int

    def __init_subclass__(cls) -> None:
        cls.machine = Machine(cls)

    @classmethod
    def _of(cls, raw: np.ndarray, device: int) -> Any:
        self = object.__new__(cls)
        self._a, self._device = raw, device
        return self

    shape = property(lambda self: self._a.shape)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    dtype = property(lambda self: self._a.dtype)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    strides = property(lambda self: self._a.strides)
    flags = property(lambda self: self._a.flags)
    device = property(lambda self: self._device)
    T = property(lambda self: self.transpose())
    mT = property(lambda self: self.swapaxes(-1, -2))
    real = property(lambda self: self.machine.call("real", np.real, (self,)))
    imag = property(lambda self: self.machine.call("imag", READINGS["imag"], (self,)))

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use the backend's to_numpy() "
                        "(gpuprop.asnumpy) to construct a NumPy array explicitly.")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *args: Any, **kwargs: Any) -> Any:
        if len(kwargs.get("out", ())) == 1:
            kwargs["out"], = kwargs["out"]
            self.machine.check(kwargs["out"])
        run = Ufunc(self.machine, ufunc)
        return (run if method == "__call__" else getattr(run, method))(*args, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        return self.machine.call("getitem", getitem, (self, self.machine.key(key)))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.machine.check(value, numbers=True)
        self.machine.call("setitem", setitem, (self, self.machine.key(key), value))

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Iterator:
        return (self[i] for i in range(len(self)))

    def _read(self, how: Callable, what: str) -> Any:
        """A value of the device, on the host."""
        self.machine.sync(what)
        return how(self._a)

    def __bool__(self) -> bool:
        return self._read(bool, "bool()")

    def __int__(self) -> int:
        return self._read(int, "int()")

    def __float__(self) -> float:
        return self._read(float, "float()")

    def __complex__(self) -> complex:
        return self._read(complex, "complex()")

    def __repr__(self) -> str:
        return self._read(repr, "repr()")

    def __str__(self) -> str:
        return self._read(str, "str()")

    def __format__(self, spec: str) -> str:
        return self._read(lambda a: format(a, spec), "format()")

    def item(self) -> Any:
        return self._read(np.ndarray.item, "item()")

    def tolist(self) -> Any:
        return self._read(np.ndarray.tolist, "tolist()")

    def __copy__(self) -> Any:
        return self.copy()

    def __deepcopy__(self, memo: dict) -> Any:
        return self.copy()

    def __reduce__(self) -> tuple:
        return type(self)._of, (self._read(np.copy, "pickling"), self._device)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a device array has no attribute {name!r}")


def _operator(ufunc: np.ufunc, reflected: bool = False) -> Callable:
    def operate(self: Any, other: Any) -> Any:
        if getattr(other, "__array_ufunc__", self) is None:  # a Tensor does this itself
            return NotImplemented
        return self.machine.ufunc(ufunc, (other, self) if reflected else (self, other), {})

    return operate


def _in_place(ufunc: np.ufunc) -> Callable:
    def operate(self: Any, other: Any) -> Any:
        if getattr(other, "__array_ufunc__", self) is None:
            return NotImplemented
        return self.machine.ufunc(ufunc, (self, other), {"out": self})

    return operate


def _unary(ufunc: np.ufunc) -> Callable:
    return lambda self: self.machine.ufunc(ufunc, (self,), {})


def _method(name: str) -> Callable:
    fn = READINGS.get(f"ndarray.{name}") or READINGS.get(name) or getattr(np.ndarray, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if name in LIBRARY:
            self.machine.forbid(f"{name} by cuBLAS")
        if name in ("sort", "partition") and not self.flags.c_contiguous:
            raise NotImplementedError("Sorting non-contiguous array is not supported.")
        return self.machine.function(name, fn, (self, *args), kwargs)

    return method


def _power(self: Any, other: Any) -> Any:
    """``**``, for which CuPy has short cuts; of bfloat16 they answer in float64."""
    short = type(other) is float and other in (0.5, 2.0, -1.0) and self.dtype.name == "bfloat16"
    return _operator(np.power)(self.astype("float64") if short else self, other)


BINARY = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "floordiv": np.floor_divide,
          "mod": np.remainder, "divmod": np.divmod, "pow": np.power, "and": np.bitwise_and, "or": np.bitwise_or,
          "xor": np.bitwise_xor, "lshift": np.left_shift, "rshift": np.right_shift}
METHODS = """all any argmax argmin argpartition argsort astype clip conj copy cumprod cumsum diagonal dot fill flatten
             max mean min nonzero partition prod put ravel repeat reshape round searchsorted sort squeeze std sum
             swapaxes take trace transpose var view""".split()


def _give_operators(cls: Any) -> None:
    for word, ufunc in BINARY.items():
        setattr(cls, f"__{word}__", _operator(ufunc))
        setattr(cls, f"__r{word}__", _operator(ufunc, reflected=True))
        if ufunc.nout == 1:
            setattr(cls, f"__i{word}__", _in_place(ufunc))
    cls.__pow__ = _power
    cls.__matmul__, cls.__rmatmul__ = _operator(np.matmul), _operator(np.matmul, reflected=True)
    for word, name in {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
                       "ne": "not_equal"}.items():
        setattr(cls, f"__{word}__", _operator(getattr(np, name)))
    for word, unary in {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}.items():
        setattr(cls, f"__{word}__", _unary(unary))
    for name in METHODS:
        setattr(cls, name, _method(name))


_give_operators(StrictArray)
StrictArray.machine = Machine(StrictArray)


# ---- the namespace --------------------------------------------------------------------------------------------------


class Ufunc:
    """One of the namespace's ufuncs."""

    def __init__(self, machine: Machine, ufunc: np.ufunc) -> None:
        self._machine, self._ufunc = machine, ufunc
        self.__name__ = ufunc.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._machine.ufunc(self._ufunc, args, kwargs)

    def at(self, a: Any, index: Any, values: Any = None) -> None:
        name, key = self.__name__, self._machine.key(index)
        if name not in ATOMIC:
            raise NotImplementedError(f"`{name}.at` is not supported yet")
        masked = has_mask(key)
        if not masked and not any(map(self._machine.owns, key)):  # nothing is scattered
            view = a[key]
            self(view, values, out=view)
            return
        if not masked and a.dtype.name not in ATOMIC[name].split():
            raise TypeError(f"cupy.{name}.at only supports {ATOMIC[name]} as data type, not {a.dtype}")
        self._machine.check(values, numbers=True)
        self._machine.call(f"{name}.at", at(self._ufunc, masked), (a, key, values))

    def reduce(self, a: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return self._over("sum", "prod", "reduce")(a, axis, dtype, out, keepdims)

    def accumulate(self, a: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
        return self._over("cumsum", "cumprod", "accumulate")(a, axis, dtype, out)

    def _over(self, added: str, multiplied: str, method: str) -> Callable:
        """What CuPy has for the reductions of two ufuncs; it has no others."""
        name = {"add": added, "multiply": multiplied}.get(self.__name__)
        if name is None:
            raise NotImplementedError(f"`{self.__name__}.{method}` is not supported yet")
        return lambda *args: self._machine.function(name, READINGS[name], args, {})

    def outer(self, a: Any, b: Any) -> Any:
        return self._machine.function(f"{self.__name__}.outer", self._ufunc.outer, (a, b), {})


class Namespace:
    """``xp``: NumPy's names as CuPy has them, and whatever names its owner adds."""

    def __init__(self, machine: Machine, module: Any = np, **own: Any) -> None:
        self._machine, self._module = machine, module
        vars(self).update(own)

    def __getattr__(self, name: str) -> Any:
        value = vars(self)[name] = self._find(name)
        return value

    def _find(self, name: str) -> Any:
        module, machine = self._module, self._machine
        value = getattr(module, name, None)
        known = value is not None or name == "newaxis"
        if not known or name.startswith("_") or name in ABSENT.get(module.__name__, ()):
            raise AttributeError(f"CuPy's {module.__name__.replace('numpy', 'cupy')} has no {name!r}")
        if isinstance(value, type(np)):
            if name not in MODULES:
                raise AttributeError(f"xp.{name} is not for code that runs on every backend")
            return Namespace(machine, value)
        if name == "ndarray":
            return machine.array_type
        if name in ("asarray", "array", "asanyarray"):
            return lambda value, dtype=None, copy=name == "array": machine.asarray(value, dtype, bool(copy))
        if isinstance(value, np.ufunc):
            return Ufunc(machine, value)
        return value if isinstance(value, type) or not callable(value) else self._function(name, value)

    def _function(self, name: str, fn: Callable) -> Callable:
        machine, top = self._machine, self._module is np
        if name in HOST:
            return lambda *args, **kwargs: fn(*machine._raw(args, []), **kwargs)
        fn = READINGS.get(name, fn) if top else fn
        library = name in LIBRARY if top else self._module is np.linalg and name != "norm"

        def function(*args: Any, **kwargs: Any) -> Any:
            if library:
                machine.forbid(f"{name} by a CUDA library")
            return machine.function(name, fn, args, kwargs)

        return function


class StrictBackend(Backend):
    """The backend ``"strict"``: NumPy's arithmetic, CuPy's refusals.  `syncs` lists what waited for the device."""

    name, array_type, machine, records = "strict", StrictArray, StrictArray.machine, True
    priority = -1  # a tool for tests

    def __init__(self) -> None:
        own = {name: _extra(self.machine, name) for name in (*extras.NAMES, "matmul")}
        self.xp = Namespace(self.machine, **{**own, "check": self.check})

    @property
    def syncs(self) -> list[str]:
        return self.machine.syncs

    def asarray(self, value: Any, dtype: Any = None) -> Any:
        if self.machine.owns(value) and value.device != self.device():
            self.machine.forbid("a copy from another device")
            value = self.machine.new(value._a.copy())
        return self.machine.asarray(value, dtype)

    def _to_numpy(self, array: Any) -> np.ndarray:
        self.machine.check(array)
        self.machine.sync("to_numpy()")
        return array._a.copy()

    def _read_flags(self, flags: Any) -> np.ndarray:
        self.machine.forbid("reading the flags of check()")
        return flags._a.copy()

    def _synchronize(self) -> None:
        self.machine.sync("synchronize()")

    def record(self) -> contextlib.AbstractContextManager[Recording]:
        return self.machine.record()

    def device_count(self) -> int:
        return self.machine.devices

    def device(self) -> int:
        return self.machine.device

    def device_of(self, array: Any) -> int:
        return array.device

    def use_device(self, index: int) -> None:
        self.machine.device = index


def _extra(machine: Machine, name: str) -> Callable:
    """One of the names that are the backend's own, as the NumPy backend computes it."""
    def extra(*args: Any, **kwargs: Any) -> Any:
        return machine.function(name, READINGS.get(name) or getattr(get_backend("numpy").xp, name), args, kwargs)

    return extra
