"""The simulated devices of the strict backend, and their arrays."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import EllipsisType
from typing import Any

import numpy as np

from gpuprop._core.backend import CaptureError, owner_of
from gpuprop._core.instruments import waits
from gpuprop._core.tree import tree_leaves, tree_map
from gpuprop.testing._cupy_semantics import (
    ATOMIC,
    CUPY_FUNCTIONS,
    floats_keep,
    getitem,
    setitem,
    ufunc_at,
    with_bfloat16_rules,
)
from gpuprop.testing._recording import Recording, caller, result_arrays

# ---- CuPy's names and their arguments ------------------------------------------------------------

# NumPy's names that CuPy 14 does not have.
ABSENT = {
    "numpy": """
        False_ ScalarType True_ asmatrix block bmat busday_count busday_offset busdaycalendar bytes_
        char character clongdouble complex256 core ctypeslib datetime64 datetime_as_string
        datetime_data dtypes einsum_path emath errstate f2py flexible float128 frompyfunc fromregex
        geomspace get_include getbufsize geterr geterrcall histogram_bin_edges info insert is_busday
        isnat little_endian longdouble ma matrix matvec memmap nanpercentile nanquantile ndenumerate
        nditer nested_iters object_ polyder polydiv polyint rec recarray record sctypeDict
        setbufsize seterr seterrcall show_runtime spacing str_ strings test timedelta64 typecodes
        unstack vecdot vecmat void""".split(),
    "numpy.linalg": """
        diagonal matrix_norm multi_dot outer svdvals tensordot test trace vecdot
        vector_norm""".split(),
    "numpy.fft": ["test"],
}
MODULES = {"linalg", "fft", "lib", "stride_tricks"}
# Functions that call cuBLAS, which CuPy does not allow while capturing.
CUBLAS = "dot tensordot einsum inner vdot".split()
# Functions in which the host waits for the device.
WAITS = """argpartition argwhere array2string array_repr array_str bincount choose compress delete
           extract flatnonzero histogram histogram2d histogramdd intersect1d nanmax nanmin nonzero
           percentile place putmask quantile ravel_multi_index setdiff1d setxor1d
           sliding_window_view tril_indices trim_zeros triu_indices union1d unique
           unravel_index""".split()
# Functions of shapes and dtypes, computed by the host.
HOST = """broadcast_shapes can_cast common_type issubdtype iscomplexobj isrealobj isscalar
          may_share_memory min_scalar_type ndim promote_types result_type shape size""".split()
# Functions without array arguments.
CREATION = """arange empty eye full identity indices linspace logspace ones tri tril_indices
              triu_indices zeros""".split()
# Functions whose arguments may be lists of arrays.
SEQUENCES = """atleast_1d atleast_2d atleast_3d broadcast_arrays column_stack concat concatenate
               dstack hstack ix_ meshgrid select stack vstack""".split()
# Functions whose first argument may be a number or string.
SCALARS = "polygamma einsum".split()
# Functions whose second argument must be an array too.
PAIRS = "dot inner outer tensordot vdot".split()
# Functions that do not accept lists.
NO_LISTS = """append choose clip copyto fill full full_like put put_along_axis searchsorted take
              take_along_axis where""".split()
# Functions whose arguments, except the first, must be on the host.
HOST_ARGUMENTS = """array_split broadcast_to dsplit expand_dims hsplit moveaxis reshape split
                    squeeze swapaxes tile transpose vsplit""".split()
# Arguments that CuPy's functions do not have.
UNKNOWN_ARGUMENTS = {"device", "initial", "like", "subok", "where"}


# ---- the simulated devices -----------------------------------------------------------------------


class Machine:
    """The simulated devices of one array class.  All calls on its arrays go through `call`."""

    def __init__(self, array_type: Any, devices: int = 2) -> None:
        self.array_type = array_type
        self.devices = devices
        self.syncs: list[str] = []  # waits for a device, with the code that waited
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
        """Record the calls of this thread inside the block."""
        if self.recording is not None:
            raise CaptureError("this thread is recording already")
        self._thread.recording = recording = Recording(self.new, self.array_type)
        try:
            yield recording
        finally:
            self._thread.recording = None
            recording.end()

    def sync(self, what: str) -> None:
        """Declare that the host waits for the device here."""
        self.forbid(what, "waits for the device, which a captured step cannot do")
        waits(f"{what} in {caller()}")
        self.syncs.append(f"{what} in {caller()}")

    def forbid(self, what: str, why: str = "cannot be captured") -> None:
        """Raise CaptureError while recording."""
        if self.recording is not None:
            self.recording.errors.append(f"{what} in {caller()} {why}")
            raise CaptureError(self.recording.errors[-1])

    def new(self, raw: np.ndarray, device: int | None = None) -> Any:
        if raw.dtype.kind not in "biufcV":
            raise ValueError(f"Unsupported dtype {raw.dtype}")
        return self.array_type._of(raw, self.device if device is None else device)

    def asarray(self, value: Any, dtype: Any = None, copy: bool = False) -> Any:
        """A device array of `value`.  Host data other than a number are copied to the device."""
        if self.owns(value):
            same_dtype = dtype is None or value.dtype == dtype
            return value if same_dtype and not copy else value.astype(dtype or value.dtype)
        elements = list(tree_leaves(value)) if isinstance(value, list | tuple) else []
        has_arrays = any(map(self.owns, elements))
        if has_arrays:
            for element in elements:
                self.check(element)
            if len(elements) > 8:
                self.forbid("a table of pointers from the host")
        if np.isscalar(value) or has_arrays:
            return self.call("asarray", np.array, (value, dtype))
        host = np.array(value, dtype)
        if host.size:
            self.forbid("a copy from the host")
        return self.new(host)

    def ufunc(self, ufunc: np.ufunc, args: tuple, kwargs: dict) -> Any:
        """Call a ufunc.  Its operands must be arrays of the device or numbers."""
        if kwargs.keys() - {"out", "dtype", "casting"}:
            raise TypeError(f"Wrong arguments {sorted(kwargs)}")
        for a in args:
            self.check(a, numbers=True)
        if ufunc is np.matmul:
            self.forbid("matmul by cuBLAS")
            if any(a.dtype.name == "bfloat16" and a.ndim > 2 for a in args if self.owns(a)):
                raise TypeError("CuPy's @ does not support bfloat16 of more than two dimensions: "
                                "use xp.matmul")
        return self.call(ufunc.__name__, CUPY_FUNCTIONS.get(ufunc.__name__, ufunc), args, kwargs)

    def function(self, name: str, fn: Callable, args: tuple, kwargs: dict) -> Any:
        """Call a function of the namespace, if CuPy accepts these arguments."""
        unknown = UNKNOWN_ARGUMENTS & kwargs.keys()
        if unknown and name != "copyto":
            raise TypeError(f"{name}() got an unexpected keyword argument {unknown.pop()!r}")
        if self._waits(name, args, kwargs):
            self.sync(name)
        host_arguments = _host_arguments(name, args)
        if host_arguments and any(map(self.owns, tree_leaves(host_arguments))):
            raise TypeError(f"{name}(): a device array cannot be interpreted as an integer")
        if args and name not in CREATION and name not in SEQUENCES:
            self.check(args[0], numbers=name in SCALARS)
        if name in ("sort", "argsort") and kwargs.get("kind") not in (None, "stable"):
            raise ValueError("kind can only be None or 'stable'")
        if name in PAIRS and len(args) > 1:
            self.check(args[1])
        if name in NO_LISTS:
            for a in args[1:]:
                if isinstance(a, list | tuple):
                    raise TypeError(f"Unsupported type {type(a)}")
        return self.call(name, fn, args, kwargs)

    def _waits(self, name: str, args: tuple, kwargs: dict) -> bool:
        """True if the host waits in CuPy's function, for these arguments."""
        others = (*args[1:], *kwargs.values())
        if name == "where":
            return not others
        if name == "average":
            return "weights" in kwargs
        if name in ("repeat", "fill"):
            return any(map(self.owns, others))
        return name in WAITS

    def check(self, value: Any, numbers: bool = False) -> None:
        """Raise unless `value` is an array of the device or, with `numbers`, a number or None."""
        if not self.owns(value) and not (numbers and (np.isscalar(value) or value is None)):
            raise TypeError(f"Unsupported type {type(value)}")

    def key(self, key: Any) -> tuple:
        """An index as a tuple.  Lists and NumPy arrays raise: each use would copy them anew."""
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
        """``fn(*args, **kwargs)`` on the memory of the arrays.

        New arrays are on this thread's device.
        """
        inputs: list[Any] = []
        raw_args = self._raw(args, inputs)
        fn = with_bfloat16_rules(name, fn, raw_args)
        raw_kwargs = {k: self._raw(v, inputs) for k, v in (kwargs or {}).items()}
        recording = self.recording
        if recording is not None:
            recording.before_call(i._a for i in inputs)
        with np.errstate(all="ignore"):  # CuPy does not warn
            raw_result = fn(*raw_args, **raw_kwargs)
        new: dict[int, np.ndarray] = {}
        result, views = self._wrap(raw_result, inputs, new)
        computed = bool(new) or not views
        if computed:
            self._check_devices(inputs)
        if recording is not None:
            recording.add_call(name, fn, raw_args, raw_kwargs, new, computed)
        return result

    def _raw(self, value: Any, inputs: list) -> Any:
        """`value` with the memory of device arrays in their place; these are added to `inputs`."""
        if self.owns(value):
            inputs.append(value)
            return value._a
        if isinstance(value, tuple | list):
            return type(value)(self._raw(v, inputs) for v in value)
        if isinstance(value, np.ndarray | StrictArray):
            raise TypeError(f"Unsupported type {type(value)}")
        return value

    def _wrap(self, result: Any, inputs: list, new: dict[int, np.ndarray]) -> tuple[Any, int]:
        """The result as device arrays, and the number of views of inputs among them.

        New arrays are added to `new`, by their position in the result.
        """
        arrays = []
        views = 0
        for position, raw in enumerate(result_arrays(result)):
            array = next((i for i in inputs if i._a is raw), None)
            if array is None:
                viewed = next((i for i in inputs if _is_view(raw, i._a)), None)
                if viewed is None:
                    array = self.new(raw)
                    new[position] = raw
                else:
                    array = self.new(raw, viewed._device)
                    views += 1
            arrays.append(array)
        if not isinstance(result, tuple | list):
            return (arrays[0] if arrays else result), views
        remaining = iter(arrays)
        return tree_map(lambda leaf: next(remaining) if _is_array(leaf) else leaf, result), views

    def _check_devices(self, inputs: list) -> None:
        for i in inputs:
            if i._device != self.device:
                raise ValueError(
                    f"The device where the array resides ({i._device}) is different from the "
                    f"current device ({self.device}). Peer access is unavailable between these "
                    f"devices.")


def _host_arguments(name: str, args: tuple) -> tuple:
    """The arguments that must be on the host."""
    if name == "full":
        return args[:1]
    if name in CREATION:
        return args
    return args[1:] if name in HOST_ARGUMENTS else ()


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | np.generic | bool)


def _is_view(view: np.ndarray, a: np.ndarray) -> bool:
    if view.base is None:
        return False
    return np.may_share_memory(a, view) or (view.size == 0 and owner_of(view) is owner_of(a))


def has_mask(keys: tuple) -> bool:
    """True if an index contains a boolean mask."""
    return any(isinstance(k, bool) or (isinstance(k, StrictArray) and k.dtype == bool)
               for k in keys)


# ---- ufuncs ------------------------------------------------------------------------------------


class Ufunc:
    """A ufunc of the namespace."""

    def __init__(self, machine: Machine, ufunc: np.ufunc) -> None:
        self._machine = machine
        self._ufunc = ufunc
        self.__name__ = ufunc.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._machine.ufunc(self._ufunc, args, kwargs)

    def at(self, a: Any, index: Any, values: Any = None) -> None:
        name = self.__name__
        key = self._machine.key(index)
        if name not in ATOMIC:
            raise NotImplementedError(f"`{name}.at` is not supported yet")
        masked = has_mask(key)
        if not masked and not any(map(self._machine.owns, key)):  # a view: CuPy needs no atomics
            view = a[key]
            self(view, values, out=view)
            return
        if not masked and a.dtype.name not in ATOMIC[name].split():
            raise TypeError(f"cupy.{name}.at only supports {ATOMIC[name]} as data type, "
                            f"not {a.dtype}")
        self._machine.check(values, numbers=True)
        self._machine.call(f"{name}.at", ufunc_at(self._ufunc, masked), (a, key, values))

    def reduce(self, a: Any, axis: Any = 0, dtype: Any = None, out: Any = None,
               keepdims: bool = False) -> Any:
        fn = self._function_for("reduce", {"add": "sum", "multiply": "prod"})
        return fn(a, axis, dtype, out, keepdims)

    def accumulate(self, a: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
        fn = self._function_for("accumulate", {"add": "cumsum", "multiply": "cumprod"})
        return fn(a, axis, dtype, out)

    def _function_for(self, method: str, functions: dict[str, str]) -> Callable:
        """The function that computes a method.  CuPy has these methods for two ufuncs only."""
        name = functions.get(self.__name__)
        if name is None:
            raise NotImplementedError(f"`{self.__name__}.{method}` is not supported yet")
        return lambda *args: self._machine.function(name, CUPY_FUNCTIONS[name], args, {})

    def outer(self, a: Any, b: Any) -> Any:
        return self._machine.function(f"{self.__name__}.outer", self._ufunc.outer, (a, b), {})


# ---- arrays --------------------------------------------------------------------------------------


class StrictArray:
    """An array on a simulated device.

    A subclass has its own devices, and its arrays cannot be used together with those of its base.
    """

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
        self._a = raw
        self._device = device
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
    imag = property(lambda self: self.machine.call("imag", CUPY_FUNCTIONS["imag"], (self,)))

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use the backend's "
                        "to_numpy() (gpuprop.asnumpy) to construct a NumPy array explicitly.")

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

    def _read(self, convert: Callable, what: str) -> Any:
        """A value on the host, for which it waits."""
        self.machine.sync(what)
        return convert(self._a)

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
        if getattr(other, "__array_ufunc__", self) is None:  # a Tensor has its own operators
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
    fn = CUPY_FUNCTIONS.get(f"ndarray.{name}") or CUPY_FUNCTIONS.get(name)
    fn = fn or getattr(np.ndarray, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if name in CUBLAS:
            self.machine.forbid(f"{name} by cuBLAS")
        if name in ("sort", "partition") and not self.flags.c_contiguous:
            raise NotImplementedError("Sorting non-contiguous array is not supported.")
        return self.machine.function(name, fn, (self, *args), kwargs)

    return method


def _power(self: Any, other: Any) -> Any:
    """``**``.  CuPy computes these exponents separately, where floats widen bfloat16 in float64."""
    special = type(other) is float and other in (0.5, 2.0, -1.0)
    widens = special and self.dtype.name == "bfloat16" and not floats_keep(self.dtype)
    base = self.astype("float64") if widens else self
    return _operator(np.power)(base, other)


ARITHMETIC = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "truediv": np.true_divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "divmod": np.divmod,
    "pow": np.power,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "lshift": np.left_shift,
    "rshift": np.right_shift,
}
COMPARISONS = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
}
UNARY = {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}
METHODS = """all any argmax argmin argpartition argsort astype clip conj copy cumprod cumsum
             diagonal dot fill flatten max mean min nonzero partition prod put ravel repeat reshape
             round searchsorted sort squeeze std sum swapaxes take trace transpose var
             view""".split()


def _add_operators_and_methods(cls: Any) -> None:
    for name, ufunc in ARITHMETIC.items():
        setattr(cls, f"__{name}__", _operator(ufunc))
        setattr(cls, f"__r{name}__", _operator(ufunc, reflected=True))
        if ufunc.nout == 1:
            setattr(cls, f"__i{name}__", _in_place(ufunc))
    cls.__pow__ = _power
    cls.__matmul__ = _operator(np.matmul)
    cls.__rmatmul__ = _operator(np.matmul, reflected=True)
    for name, ufunc in COMPARISONS.items():
        setattr(cls, f"__{name}__", _operator(ufunc))
    for name, ufunc in UNARY.items():
        setattr(cls, f"__{name}__", _unary(ufunc))
    for name in METHODS:
        setattr(cls, name, _method(name))


_add_operators_and_methods(StrictArray)
StrictArray.machine = Machine(StrictArray)
