"""Expressions to compare two backends with, by group.

They use ``xp``, the names that `arrays` returns, `put` for ``x[key] = value`` and `iop` for
``x += y``.
"""

import re

import ml_dtypes
import numpy as np

BF16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = ["float16", "bfloat16", "float32", "float64"]
INTEGERS = ["int32", "int64", "uint8", "uint64"]
ALL = [*FLOATS, *INTEGERS, "bool"]
FEW = ["bfloat16", "float16", "float32", "int64", "uint8", "bool"]

PAIRS = [(a, b) for a in FEW for b in FEW if a != b] + [
    ("float64", "float32"),
    ("float32", "float64"),
    ("int32", "int64"),
    ("int32", "float16"),
    ("bfloat16", "float64"),
    ("uint64", "bfloat16"),
    ("bfloat16", "int32"),
    ("int64", "uint64"),
    ("uint64", "float32"),
    ("uint8", "uint64"),
]


def dtype_of(name):
    return BF16 if name == "bfloat16" else np.dtype(name)


def arrays(name, other):
    """Host arrays of dtype `name`, except `z`, whose dtype is `other`, and indices and masks."""
    rng = np.random.default_rng(0)

    def data(dtype, *shape, low=-3.0, high=3.0):
        dtype = dtype_of(dtype)
        if dtype.kind == "b":
            return rng.random(shape) < 0.5
        if dtype.kind in "iu":
            lowest = 0 if dtype.kind == "u" else int(low * 3)
            return rng.integers(lowest, int(high * 3), shape).astype(dtype)
        return rng.uniform(low, high, shape).astype(dtype)

    special = data(name, 3, 4)
    if special.dtype.kind not in "biu":
        special[0, 1], special[2, 3], special[1, 0] = np.nan, np.inf, -np.inf
    positive = lambda dtype: np.maximum(data(dtype, 3, 4, low=0.5), 1).astype(dtype_of(dtype))
    mask = np.array([[1, 0, 1, 1], [0, 1, 1, 1], [0, 0, 1, 0]], bool)
    return {
        "x": data(name, 3, 4),
        "y": positive(name),
        "z": positive(other),
        "u": data(name, 3, 4, low=-0.9, high=0.9),
        "g": special,
        "s": data(name, low=0.5),
        "r": data(name, 4),
        "t": data(name, 2, 3, 4),
        "q": data(name, 4, 4),
        "e": data(name, 0, 4),
        "b": data(name, 70, 33),
        "long": data(name, 300),
        "ordered": np.sort(data(name, 9)),
        # Indices: in range, 2-d, out of range, for the second axis, narrow, 0-d; and a float.
        "i": np.array([0, 2, -1]),
        "i2": np.array([[1, 0, 2, 1], [3, 3, -1, 0], [0, 1, 2, 3]]),
        "o": np.array([1, 5, -7]),
        "k": np.array([1, 0, 2, 1]),
        "small": np.array([0, 1, 1], "uint8"),
        "n": np.array(2),
        "f": np.array(0.5),
        "m": mask,
        "mr": np.array([True, False, True]),
    }


UNARY = """abs absolute arccos arccosh arcsin arcsinh arctan arctanh cbrt ceil conj cos cosh deg2rad
    degrees digamma erf erfc erfinv exp exp2 expm1 fabs fix floor isfinite isinf isnan isneginf
    isposinf i0 lgamma log log10 log1p log2 logical_not nan_to_num negative positive rad2deg radians
    reciprocal rint round sigmoid sign signbit sin sinc sinh sqrt square tan tanh trunc invert
    bitwise_not angle real imag frexp modf bitwise_count iscomplex isreal""".split()
BINARY = """add arctan2 bitwise_and bitwise_or bitwise_xor copysign divide divmod equal float_power
    floor_divide fmax fmin fmod gcd greater greater_equal heaviside hypot lcm ldexp left_shift less
    less_equal logaddexp logaddexp2 logical_and logical_or logical_xor maximum minimum mod multiply
    nextafter not_equal power remainder right_shift subtract true_divide""".split()
REDUCE = "sum prod max min mean var std argmax argmin any all".split()
MORE_REDUCE = """amax amin average median nanargmax nanargmin nanmax nanmean nanmin nanprod nanstd
    nansum nanvar ptp count_nonzero""".split()
AT = "add subtract maximum minimum multiply bitwise_and bitwise_or".split()
EXPONENTS = "2 3 0 1 2.0 0.5 -1.0 -0.5 3.0 0.0 1.0".split()
NUMBERS = """2 -1 300 2**40 2.5 1e300 True np.nan 1j np.float16(2) np.float32(2.5) np.float64(2.5)
    np.int64(2) np.uint8(2) np.int32(-1) np.bool_(True) bf16(2.5)""".split()


def _split(codes):
    """Expressions separated by "|" or newlines.  The operator ``|`` is written "!"."""
    parts = [part.strip() for part in re.split(r"[|\n]", codes)]
    return [part.replace(" ! ", " | ").replace("'!'", "'|'") for part in parts if part]


def _for_each(words, placeholder, codes):
    """All expressions with the first word in place of the placeholder, then with the next."""
    return [re.sub(rf"\b{placeholder}\b", word, code) for word in words for code in _split(codes)]


_GROUPS = {  # name: dtypes, expressions
    "unary": (ALL, ["xp.polygamma(1, y)", *_for_each(UNARY, "F", "xp.F(u)")]),
    "unary of special values": (FLOATS, [f"xp.{f}(g)" for f in UNARY if f != "i0"]),
    "powers": (ALL, [
        *_for_each(EXPONENTS, "P", "(y ** P)|xp.power(y, P)|iop(y, '**', P)"),
        *_split("2 ** y|2.0 ** y|0.5 ** y|x ** True|y ** s|y ** y"),
    ]),
    "binary": (ALL, _for_each(BINARY, "F", "xp.F(x, y)")),
    "operators": (ALL, """
        x + y|x - y|x * y|x / y|x // y|x % y|y ** y|x & y|x ! y|x ^ y|x << y|x >> y|x < y|x <= y
        x > y|x >= y|x == y|x != y|-x|+x|~x|abs(x)|divmod(x, y)|x @ y.T|r @ r|x @ r|r @ x.T|t @ y.T
        t @ t.swapaxes(1, 2)|x @ s|x @ x|iop(x, '+', y)|iop(x, '-', y)|iop(x, '*', y)|iop(x, '/', y)
        iop(x, '//', y)|iop(x, '%', y)|iop(y, '**', y)|iop(x, '&', y)|iop(x, '!', y)|iop(x, '^', y)
        iop(x, '<<', y)|iop(x, '>>', y)|x + s|s + s|s * x|r + x|e + e|e * 2|e + r|x + e|x + y.T
        x + r[:3]|x.T + y.T|x[::-1] * y[:, ::-1][::2][:1]|iop(s, '+', x)|iop(r, '+', x)
        iop(x, '+', r)|iop(e, '+', r)|x + None|x == None|x + 'a'|x + [1]|x < [1]|x + (1,)
        x[0] - x[0, 0]|-x[::-1].T|x + x.T[0]|abs(s)|~m|m & (x > 0)|m + m|m - m|m * x|x - m|-m
        x * (y > 1)
        """),
    "reductions": (ALL, _for_each(REDUCE, "F", """
        x.F()|xp.F(x)|x.F(0)|x.F(axis=-1)|xp.F(t, axis=1, keepdims=True)|x.F(keepdims=True)|s.F()
        x.F(2)|e.F()|e.F(1)|x.T.F(1)|x.F(out=s)|g.F()|g.F(0)|b.F()|b.F(0)|x.F(where=m)
        x.F(initial=0)|xp.F([1, 2])|xp.F(2.0)|x.F(axis=1.5)|x.F(axis=None)
        """)),
    "reductions of several axes": (FEW, _for_each(REDUCE, "F", """
        t.F((0, 2))|t.F(axis=(0, -1), keepdims=True)|t.F((0, 0))|x.F(())|e.F(0)
        """)),
    "reductions to a dtype": (FEW, [
        *_for_each("sum prod mean var std cumsum".split(), "F", """
            x.F(dtype='float32')|x.F(dtype='float64')|x.F(dtype='int64')|x.F(0, 'float32')
            x.F(dtype='float16')|x.T.F(dtype=x.dtype)|x.F(0, None, y[0])
            """),
        *_split("x.var(ddof=1)|x.std(0, ddof=1)|x[:1].var(0, ddof=1)"),
    ]),
    "more reductions": (FEW, _for_each(MORE_REDUCE, "F", """
        xp.F(x)|xp.F(x, axis=1)|xp.F(g, axis=0)|xp.F(e)|xp.F(s)
        """)),
    "methods of ufuncs": (FEW, """
        xp.add.reduce(x)|xp.add.reduce(x, 1)|xp.add.reduce(x, axis=None)|xp.multiply.reduce(x)
        xp.maximum.reduce(x)|xp.add.accumulate(x)|xp.multiply.accumulate(x, 1)
        xp.maximum.accumulate(x)|xp.add.outer(r, r)|xp.subtract.outer(r, x)|xp.add.outer(r, 2)
        xp.logical_and.reduce(x)|xp.bitwise_or.reduce(x)|xp.exp.at(x, i)|xp.add(x, y, x)
        xp.add(x, y, out=x)|xp.add(x, y, out=(x,))|xp.add(x, y, dtype='float32')|xp.exp(x, out=x)
        xp.add(x, y, where=m)|xp.add(x)|xp.exp(x, y, x)|xp.add(x, y, casting='unsafe')
        xp.add(x, y, foo=1)|xp.add(x, y, s)|xp.add(x, y, out=x[:1])|xp.exp(x, dtype='float64')
        xp.add(x, y, subok=True)|xp.add(2, 3)|xp.exp(2.0)|xp.exp(True)|xp.exp([1.0])|xp.exp(None)
        xp.exp('a')|xp.add(x, None)|xp.add(x, [1])|xp.exp(x=x)|xp.maximum(x, y, dtype='int64')
        xp.less(x, y, out=x)|xp.less(x, y, out=m)|xp.add(m, m, out=x)
        """),
    "ufunc.at": (ALL, _for_each(AT, "F", """
        xp.F.at(x, i, y)|xp.F.at(x, small, y[0])|xp.F.at(x, o, 1)|xp.F.at(x, (i, i), 1)
        xp.F.at(x, (slice(None), i), 1)|xp.F.at(x, m, 1)|xp.F.at(x, 0, 1)|xp.F.at(x, [0], 1)
        xp.F.at(x, i, y[:2])|xp.F.at(x, i, 2.5)
        """)),
    "scans and sorts": (ALL, """
        x.cumsum()|xp.cumsum(x, 0)|xp.cumsum(x, axis=1)|xp.cumprod(y, axis=1)|xp.cumprod(y, 0)
        x.cumprod()|xp.cumsum(e, 0)|xp.cumsum(e)|xp.cumsum(s)|xp.cumsum(x, 2)|xp.cumsum(b, 0)
        xp.cumsum(b)|x.cumsum(0, out=x)|xp.cumsum([1])|xp.cumsum(t, -2)|xp.nancumsum(g, 1)
        xp.diff(x)|xp.diff(x, axis=0)|xp.diff(x, 2)|xp.ediff1d(r)|xp.gradient(r)|xp.cummax(x)
        xp.sort(x)|xp.sort(x, 0)|xp.sort(x, axis=None)|xp.sort(g, 1)|xp.sort(s)|xp.sort(e)
        xp.sort(b, 0)|xp.sort(x, 5)|xp.argsort(x, kind='stable')|xp.argsort(x, 0, 'stable')
        xp.argsort(x, axis=None, kind='stable')|xp.argsort(e)|xp.argsort(g, 1, kind='stable')
        xp.argsort(s)|x.argsort(kind='stable')|x.sort()|x.sort(0)|x.T.sort()|xp.argsort(x, 7)
        xp.sort([1])|xp.sort(x, kind='stable')|xp.sort(x, kind='quicksort')
        xp.argsort(x[::-1].T, kind='stable')|xp.sort(xp.partition(x, 2)[:, :2])
        xp.sort(x[0][xp.argpartition(x[0], 2)[:2]])|xp.partition(x, 9)|xp.lexsort(x)
        xp.searchsorted(ordered, x)|xp.searchsorted(ordered, x, side='right')
        ordered.searchsorted(x)|xp.searchsorted(ordered, 1)|xp.searchsorted(ordered, [1, 2])
        xp.digitize(x, ordered)|xp.searchsorted(x, r)|xp.searchsorted(ordered, s)
        xp.searchsorted(ordered, r, 'left')|xp.sort_complex(r)|xp.unique(x)
        xp.unique(k, return_inverse=True)|xp.bincount(k)|xp.bincount(k, minlength=9)|xp.bincount(x)
        xp.histogram(x, 3)[0]|xp.trapezoid(r)|xp.argpartition(r, 2).shape|xp.partition(r, 2).shape
        xp.reshape(x, (n, -1))|xp.broadcast_to(r, (n, 4))|xp.tile(r, n)|xp.expand_dims(r, n)
        """),
    "reading by index": (ALL, """
        x[0]|x[-1]|x[3]|x[-4]|x[0, 1]|x[0, 4]|x[0, 0, 0]|x[:, 1]|x[1:]|x[::-1]|x[:, ::2]|x[..., 1]
        x[None]|x[:, None]|x[...]|x[()]|s[()]|s[...]|s[0]|s[None]|x[True]|x[False]|x[i]|x[:, i]
        x[i, i]|x[i, :2]|x[..., i]|x[i, None]|x[o]|x[:, o]|x[o, o]|x[small]|x[i.astype('int32')]
        x[n]|x[n, n]|x[:, n]|x[m]|x[mr]|x[:, mr]|x[mr, 1]|x[m, 0]|x[mr, i]|x[~mr, i[:1]]|x[f]
        x[x.astype('float32')]|x[[0, 1]]|x[[True, False, True]]|x[0, [1]]|x[1.0]|x['a']|x[i2]
        x[i[:, None], k]|x[e.astype('int64')]|x[i, k]|t[i[:2], :, k[:2]]|t[:, i, k[:3]]
        t[0, i, k[:3]]|t[..., 0, :]|t[0, :, i]|t[i[:1], ..., k]|e[i]|e[0]|e[:, 0]|x[10:]
        x[slice(None, None, 0)]|x[np.array([0])]|x[np.int64(1)]|x[np.array(1)]|x[xp.asarray(True)]
        x[m[0, 0]]|x[(0, slice(1, 3))]|x[[0, 1], [1, 2]]|x[()][0]|x[..., ...]|x[s]|len(x)|len(s)
        [a for a in x]|[a for a in s]|list(r)|x in [x]|1 in r|x.T[0]|x.item(0)|x.item()|s.item()
        x[None, i]|x[i, None, i]|x[..., None, i]|x[i < 0]|x[xp.asarray([0, 1])]|x.flat[0]
        x.flat[1:3]|bool(s)|int(s)|float(s)|complex(s)|bool(x)|float(x)|x.tolist()|range(n)
        [1, 2, 3][n]|hash(x)|str(s)|f'{s}'|repr(x) != ''
        """),
    "writing by index": (ALL, """
        put(x, 0, 1)|put(x, 0, r)|put(x, 0, y)|put(x, slice(None), 2.5)|put(x, slice(None), -1)
        put(x, ..., s)|put(x, (0, 0), s)|put(x, (0, 0), r[:1])|put(x, m, 0)|put(x, mr, r)
        put(x, m, x[m])|put(x, m, y)|put(x, i, 1)|put(x, i, y)|put(x, i[:2], y[:2])|put(x, o, 3)
        put(x, (slice(None), o), 3)|put(x, (i, i), 1)|put(x, (i, i), r[:3])|put(x, i, r[:3])
        put(x, 5, 1)|put(x, [0], 1)|put(x, 0, [1, 2, 3, 4])|put(x, 0, np.ones(4))|put(x, 0, None)
        put(x, f, 1)|put(x, slice(1, 2), e)|put(e, 0, 1)|put(e, slice(None), r)
        put(x, slice(5, 9), 1)|put(x, (n, n), 1)|put(x, n, r)|put(x, None, 1)|put(x, (None, 0), r)
        put(x, True, 1)|put(x, small, 1)|put(x, slice(None), x.astype('float64'))
        put(x, slice(None), y.astype('int64'))|put(x, 0, np.float64(1.5))|put(x, 0, np.int64(3))
        put(x, 0, True)|put(x, 0, 'a')|put(x, i, 2.5)|put(s, (), 1)|put(s, ..., 2)|put(s, 0, 1)
        put(x[:, 1:], 0, 1)|put(x.T, 0, 7)|put(x[::-1], 0, r)|put(t, (slice(None), i), y[0])
        put(t, (..., 0), 1)|put(x, 0, 1j)|put(x, mr, 1)|put(x, (mr, 0), 1)
        put(x, (slice(None), k > 0), 1)|put(x, (mr, i[:2]), 1)|put(xp.broadcast_to(r, (3, 4)), 0, 1)
        x.fill(2)|x.fill(2.5)|x.fill(s)|x.fill(r)|put(x, 0, 300)|put(x, i, -1)
        put(x, slice(None), y.T)|put(x, (i, slice(0, 2)), y[:, :2])|put(x, ([0], [1]), 1)
        x.fill([1])|x.fill('a')
        """),
    "take and put": (ALL, """
        long[small]|xp.take(long, small)|xp.take_along_axis(long, small, 0)|put(long, small, 1)
        xp.put_along_axis(long, small, 1, 0)|xp.index_add(long, small, r[:3])|long[small - 3]
        xp.take(x, i)|xp.take(x, i, 0)|xp.take(x, i, axis=1)|xp.take(x, o, 0)|xp.take(x, 1, 1)
        xp.take(x, [0, 1], 0)|xp.take(x, n, 0)|x.take(i)|x.take(i2, 1)|xp.take(x, small, 1)
        xp.take(x, i, 5)|xp.take(e, i, 0)|xp.take(x, f)|xp.take(x, i, 0, mode='clip')
        xp.take(x, o, 0, mode='wrap')|xp.take(x, i, out=r[:3])|xp.take([1], i)|xp.take(x, 99)
        xp.take_along_axis(x, i2, 1)|xp.take_along_axis(x, i2, -1)|xp.take_along_axis(x, i2, axis=0)
        xp.take_along_axis(x, i2[:, :1], 1)|xp.take_along_axis(x, i, 0)
        xp.take_along_axis(x, i2, None)|xp.take_along_axis(x, small, 1)
        xp.take_along_axis(x, i2 + 9, 1)|xp.take_along_axis(x, i2, 3)|xp.take_along_axis(r, i, 0)
        xp.take_along_axis(x, f, 0)|xp.take_along_axis(x, i2 * 1.0, 0)
        xp.put_along_axis(x, i2, 1, 1)|xp.put_along_axis(x, i2[:, :1], y[:, :1], 1)
        xp.put_along_axis(x, i2[:, :1] + 9, 1, 1)|xp.put_along_axis(x, i2[:1], 1, 0)
        xp.put_along_axis(r, i, y[0, :3], 0)|xp.put_along_axis(x, i2, [1], 1)
        xp.put_along_axis(x, i2[:, :1], 2.5, 1)|xp.put(x, i, 1)|xp.put(x, i, r[:3])|xp.put(x, o, 1)
        x.put(i, 1)|xp.put(x, i, 1, mode='clip')|xp.putmask(x, m, 1)|xp.putmask(x, m, y)
        xp.place(x, m, r)|xp.choose(k, x[:3])|xp.choose(i2 % 3, [x, y, x])|xp.compress(mr, x, 0)
        xp.extract(m, x)|xp.select([m, ~m], [x, y])|xp.diagonal(x)|xp.select([m], [x], 7)
        xp.select([m, m], [x, 1])|xp.copyto(x, y)|xp.copyto(x, 2)|xp.copyto(x, r)
        xp.copyto(x, y, where=m)|xp.where(m, x, y)|xp.where(m, x, 0)|xp.where(m, 0, x)
        xp.where(m, x, 2.5)|xp.where(m, x, s)|xp.where(m, x, r)|xp.where(m, 1, 0)
        xp.where(m, 1.0, 0)|xp.where(m, x, y.astype('float32'))|xp.where(x, x, y)
        xp.where(True, x, y)|xp.where(1, x, y)|xp.where(m, True, x)|xp.where(m, x, np.float32(1))
        xp.where(m, x, np.float64(1))|xp.where(m, x)|xp.where(m, x, np.inf)|xp.where(m, x, -1)
        xp.where(m)|xp.where([True], x, y)|xp.where(m, x, [0])|xp.where(m, x, None)
        xp.where(mr[:, None], x, y)|xp.where(e > 0, e, 0)|xp.where(x > 0, x, x * 2)
        xp.where(m, x, 300)|xp.where(s > 0, x, y)|xp.clip(x, 0, 1)|xp.clip(x, 1, None)
        xp.clip(x, None, 2)|xp.clip(x, 0.5, 1.5)|xp.clip(x, s, None)|x.clip(0, 1)|xp.clip(x, -1, 1)
        xp.clip(x, r, r)|xp.clip(x, None, None)|xp.clip(x, 2, 1)|xp.clip(x, y, y)|xp.clip(g, -1, 1)
        xp.clip(x, 0, 1, out=x)|x.clip(min=0)|xp.clip(x, min=0, max=2)|xp.clip(2, 0, 1)
        xp.clip(x, 0, np.float64(2))|xp.clip(x, 0, 300)|xp.clip(x, a_min=0, a_max=1)
        xp.clip(x, [0], 1)|xp.clip(x, 0, np.ones(4))|xp.clip(x, 0, m)|xp.nonzero(x)|x.nonzero()
        xp.argwhere(x)|xp.flatnonzero(x)|xp.nonzero(s)|xp.isin(x, r)|xp.fill_diagonal(x, 1)
        xp.nan_to_num(g, nan=1.0, posinf=2.0, neginf=-1.0)|xp.nan_to_num(g, nan=1, posinf=2)
        xp.nan_to_num(x, copy=False)|xp.index_add(x, i, y)|xp.index_add(x, i, y, 0)
        xp.index_add(x, k, x, 1)|xp.index_add(x, small, y)|xp.index_add(x, i[:0], x[:0])
        xp.index_add(x, i, y.astype('float32'))|xp.index_add(x, i, y[:2])|xp.index_add(x, o, y)
        """),
    "shapes and products": (ALL, """
        x.reshape(4, 3)|x.reshape((4, -1))|x.reshape(-1)|x.reshape(5, 5)|x.T.reshape(12)
        x.reshape([4, 3])|e.reshape(-1)|x.reshape(-1, -1)|x.reshape(4, 3, order='F')
        xp.reshape(x, (2, 6))|x.ravel()|x.T.ravel()|x.flatten()|xp.ravel(x)|x.transpose()
        x.transpose(1, 0)|x.transpose((1, 0))|x.transpose(0, 0)|t.transpose(2, 0, 1)
        xp.transpose(t, (1, 0, 2))|x.transpose(None)|t.transpose(0, 1)|x.swapaxes(0, 1)
        x.swapaxes(0, 2)|xp.swapaxes(t, 0, -1)|xp.moveaxis(t, 0, -1)|xp.moveaxis(t, (0, 1), (1, 0))
        xp.rollaxis(t, 2)|x.T|t.T|t.mT|r.mT|xp.matrix_transpose(t)|xp.permute_dims(t, (2, 1, 0))
        x[None].squeeze()|x[None].squeeze(0)|x.squeeze(0)|xp.squeeze(x[None], axis=0)
        x[None].squeeze((0,))|xp.expand_dims(x, 0)|xp.expand_dims(x, (0, 3))|xp.expand_dims(x, 7)
        xp.broadcast_to(r, (3, 4))|xp.broadcast_to(x, (2, 3, 4))|xp.broadcast_to(x, (3, 5))
        xp.broadcast_to(s, (2, 2))|xp.broadcast_arrays(x, r)|xp.broadcast_to(2, (3,))
        xp.concatenate([x, y])|xp.concatenate([x, y], 1)|xp.concatenate([x, y], axis=None)
        xp.concatenate((x, y[:0]))|xp.concatenate([x, r])|xp.concatenate([])
        xp.concatenate([x, x.astype('float64')])|xp.concatenate([x, y], axis=2)
        xp.concatenate([x] * 12)|xp.concatenate([s, s])|xp.concatenate([x, [1]])|xp.concatenate(t)
        xp.concatenate([x, y.T])|xp.stack([x, y])|xp.stack([x, y], 1)|xp.stack([x, y], axis=-1)
        xp.stack([x, r])|xp.stack([s, s])|xp.stack([x] * 12)|xp.stack([])|xp.stack([x, 1])
        xp.vstack([x, r])|xp.hstack([x, y])|xp.hstack([r, r])|xp.dstack([x, y])
        xp.column_stack([r, r])|xp.concat([x, y])|xp.append(x, y)|xp.append(x, y, 0)
        xp.split(x, 2, 1)|xp.split(x, 2)|xp.split(x, [1], 0)|xp.array_split(x, 2)|xp.hsplit(x, 2)
        xp.vsplit(x, 3)|xp.split(x, k[:1])|xp.dsplit(t, 2)|xp.flip(x)|xp.flip(x, 0)
        xp.flip(x, axis=(0, 1))|xp.flip(x, 4)|xp.fliplr(x)|xp.flipud(x)|xp.rot90(x)|xp.roll(x, 1)
        xp.roll(x, 1, 0)|xp.roll(x, (1, 2), (0, 1))|xp.roll(x, -5, 1)|xp.roll(x, n)|xp.tile(x, 2)
        xp.tile(x, (2, 1, 3))|xp.repeat(x, 2)|xp.repeat(x, 2, 1)|xp.repeat(x, 3, axis=0)
        xp.repeat(x, [1, 2, 0], 0)|xp.repeat(x, i % 3, 0)|xp.repeat(x, [2], 0)
        xp.repeat(x, (1, 2, 0), 0)|x.repeat(2)|xp.repeat(x, np.array([1, 2, 3]), 0)|xp.repeat(x, -1)
        xp.repeat(x, n, 0)|xp.repeat(x, 2.5, 0)|xp.pad(x, 1)|xp.pad(x, ((1, 0), (0, 2)))
        xp.pad(x, 1, mode='edge')|xp.pad(x, 1, constant_values=3)|xp.pad(x, (1, 2), mode='reflect')
        xp.pad(x, 1, mode='wrap')|xp.pad(x, 1, mode='symmetric')|xp.tril(x)|xp.triu(x)|xp.tril(x, 1)
        xp.triu(t, -1)|xp.tril(q, k=-1)|xp.tril(r)|xp.diag(r)|xp.diag(q)|xp.diagonal(q)
        xp.diagonal(t, 0, 1, 2)|xp.diagonal(x, offset=1)|q.diagonal()|q.trace()|xp.trace(q)
        xp.diagflat(r)|xp.vander(r)|xp.atleast_1d(s)|xp.atleast_2d(r)|xp.atleast_3d(x)|xp.copy(x)
        x.copy()|xp.ascontiguousarray(x.T)|xp.trim_zeros(r)
        xp.lib.stride_tricks.as_strided(x, (2, 2), x.strides)
        xp.lib.stride_tricks.sliding_window_view(r, 2)|x.view('uint8')|x.view('int32')
        x.view(x.dtype)|x.view()|x[:, ::2].view('uint8')|xp.resize(x, (2, 2))|xp.delete(r, 1)
        x.view('float16')|x.nbytes|x.strides|x.itemsize|x.ndim|x.size|x.shape|x.dtype == y.dtype
        x.flags.c_contiguous|x.T.flags.c_contiguous|x.real|x.imag|x.conj()|xp.array_equal(x, x)
        xp.allclose(x, x)|xp.isclose(x, y)|xp.array_equiv(x, x)|xp.may_share_memory(x, x)|x.round()
        x.round(1)|xp.round(x, 1)|xp.around(x)|xp.packbits(m)|xp.unpackbits(small)|xp.kron(r, r)
        xp.cross(x[:, :3], y[:, :3])|x.dot(y.T)|xp.dot(r, r)|xp.dot(x, 2)|xp.vdot(r, r)
        xp.inner(r, r)|xp.outer(r, r)|xp.tensordot(x, y, 2)|xp.tensordot(x, y.T, 1)
        xp.matmul(x, y.T)|xp.matmul(t, y.T)|xp.matmul(t, t.swapaxes(1, 2))|xp.matmul(r, r)
        xp.matmul(x, r)|xp.matmul(x, y)|xp.matmul(r, x.T)|xp.matmul(x, s)|xp.matmul(e.T, e)
        xp.matmul(e, q)|xp.matmul(q[None], t)|xp.matmul(b, b.T)|xp.matmul(x, 2)|xp.matmul(t, r)
        xp.matmul(r, t.swapaxes(1, 2))|xp.matmul(x, [1])|xp.matmul(t, t)
        xp.matmul(x, y.T, dtype='float32')|xp.matmul(t, y.T, dtype='float32')
        xp.matmul(r, r, dtype='float64')|xp.einsum('ij,kj->ik', x, y)|xp.einsum('ii', q)
        xp.linalg.norm(x)|xp.linalg.norm(x, axis=1)|xp.average(x, weights=x)|xp.split(x, i)
        xp.split(x, n)|xp.outer(r, 2)|xp.inner(r, 2)|xp.vdot(r, 2)|xp.tensordot(r, 2, 0)
        xp.meshgrid(r, r)|xp.ix_(i, k)
        """),
    "dtypes": (ALL, [f"x.astype('{t}')" for t in ALL if t != "bfloat16"] + _split("""
        x.astype(bf16)|x.astype(x.dtype)|x.astype(x.dtype, copy=False)|x.astype('complex64')
        x.astype(float)|x.astype(int)|x.astype(bool)|x.astype('nonsense')|x.astype('S4')
        x.astype(object)|xp.astype(x, 'float32')|x.astype('float32', order='C')
        x.astype('float32', copy=False)|x.astype()|xp.result_type(x, 1)|xp.result_type(x, y)
        xp.promote_types(x.dtype, 'float32')|xp.can_cast(x.dtype, 'float64')|xp.zeros_like(x)
        xp.ones_like(x)|xp.full_like(x, 2)|xp.full_like(x, 2.5)|xp.empty_like(x).shape
        xp.zeros_like(x, dtype='float32')|xp.zeros_like(x, shape=(2,))|xp.full_like(x, s)
        xp.full_like(x, 2, dtype='float64')|xp.zeros_like([1, 2])|xp.zeros_like(2.0)
        xp.ones_like(x.T)|xp.full_like(x, -1)|xp.full_like(x, 300)|xp.full_like(x, np.nan)
        xp.asarray(x) is x|xp.asarray(x, 'float32')|xp.array(x)|xp.array(x, copy=False)
        xp.asarray(x, x.dtype) is x|xp.asanyarray(x) is x|xp.asarray([x, y])|xp.array([s, s])
        xp.array([s, 1])|xp.array([[s, s], [s, s]])|xp.asarray([x] * 12)|xp.array([x, x], 'float32')
        xp.array((s, s))|xp.array([r, x[0]])|xp.array([r, s])|xp.issubdtype(x.dtype, np.floating)
        xp.ndim(x)|xp.shape(x)|xp.size(x)|xp.iscomplexobj(x)|xp.isscalar(x)|type(x) is xp.ndarray
        isinstance(x, xp.ndarray)|np.exp(y)|np.add(x, y)|np.sum(x)|np.concatenate([x, y])
        np.where(m, x, y)|np.asarray(x)|np.add(x, np.ones((3, 4)))|np.maximum(x, 0)
        x + np.ones((3, 4))|x + xp.uint64(2)|np.ones((3, 4)) + x|np.float32(2) * x
        np.float64(2) * x|np.int64(2) * x
        x * np.ones(())|np.array(x)|np.matmul(x, y.T)|x * np.bool_(True)|copy.copy(x)
        copy.deepcopy(x)|pickle.loads(pickle.dumps(x))|x.ctypes|x.foo
        """)),
    "creation": (["float32"], """
        xp.zeros(3)|xp.zeros((2, 3), 'float16')|xp.zeros((2,), dtype=bf16)|xp.ones(2, int)
        xp.ones((), 'bool')|xp.zeros(-1)|xp.zeros(2.5)|xp.zeros('a')|xp.zeros([2, 3])
        xp.zeros(np.int64(3))|xp.zeros(n)|xp.zeros((n, 2))|xp.zeros(3, 'nonsense')
        xp.zeros(3, object)|xp.zeros(3, 'S3')|xp.zeros(3, 'complex64')|xp.zeros(3, order='F')
        xp.zeros(3, foo=1)|xp.zeros()|xp.full(3, 2)|xp.full(3, 2.5)|xp.full(3, True)
        xp.full(3, 2, dtype='float32')
        xp.full((2, 2), 2, 'float32')|xp.full(3, 2, bf16)|xp.full(3, s)|xp.full(2, [1, 2])
        xp.full((), np.inf)|xp.full(3, np.float32(2))|xp.full(3, x)|xp.full((3, 4), x)
        xp.full(3, 2.5, int)|xp.full(3, None)|xp.arange(4)|xp.arange(1, 4)
        xp.arange(4, dtype='float32')|xp.arange(0, 1, 0.25)|xp.arange(4.0)|xp.arange(-3)
        xp.arange(5, 0, -2)|xp.arange(3, dtype=bf16)|xp.arange(3, dtype='bool')|xp.arange(s)
        xp.arange(4, dtype='uint8')|xp.arange(0, 3, 0)|xp.arange('a')|xp.linspace(0, 1, 5)
        xp.linspace(0, 1, 5, dtype='float32')|xp.linspace(0, 1, 5, endpoint=False)
        xp.linspace(0, 1, 0)|xp.linspace(s, 1, 5)|xp.logspace(0, 1, 3)|xp.eye(3)|xp.eye(2, 3, 1)
        xp.eye(3, dtype='float32')|xp.identity(2)|xp.tri(3)|xp.tri(3, 4, 1, dtype='bool')
        xp.indices((2, 3))|xp.tril_indices(3)|xp.triu_indices(3)
        xp.meshgrid(xp.arange(2), xp.arange(3))|xp.asarray(2)|xp.asarray(2.5)|xp.asarray(True)
        xp.asarray([1, 2])|xp.asarray([[1.0], [2.0]])|xp.asarray(np.ones(3))|xp.asarray('a')
        xp.asarray(None)|xp.asarray(2, 'float32')|xp.asarray(np.float32(2))
        xp.asarray([1, 2], 'float32')|xp.asarray([1, [2]])|xp.array(2.5)
        xp.array([x[0, 0], x[0, 1]])|xp.asarray(1j)|xp.asarray(2**63)|xp.asarray(2**64)
        xp.asarray(np.array(['a']))|xp.asarray(2, dtype=bf16)|xp.asarray(np.ones(3, bf16))
        xp.array([1, 2], dtype=bf16)|xp.asarray([])|xp.asarray(range(3))
        xp.asarray(np.ones(3), dtype='float32')|xp.asarray(300, 'uint8')|xp.asarray([300], 'uint8')
        xp.asarray(-1, 'uint64')|xp.empty(3).shape|xp.empty((2, 3), 'int64').dtype|xp.empty(n)
        xp.broadcast_shapes((3, 1), (4,))|xp.broadcast_shapes((3,), (4,))|xp.zeros((2, 3)).dtype
        xp.pi|xp.e|xp.inf|xp.nan|xp.newaxis is None|xp.float32(2)|xp.dtype('float32')
        xp.float32 is np.float32|xp.iinfo('int32').max|xp.finfo('float32').eps|xp.bool_ is np.bool_
        xp.int64(3)|xp.polyval(r, 2)|xp.poly1d|xp.finfo(bf16).eps
        xp.fromfunction(lambda i, j: i + j, (2, 2))|xp.frombuffer(b'1234', 'uint8')|xp.random.rand
        xp.check(m == m, 'not to be')|xp.nosuch|xp.linalg.nosuch
        """),
    "two dtypes": (ALL, """
        x + z|x * z|x / z|x // z|x % z|y ** z|x < z|x == z|x & z|x >> z|iop(x, '+', z)
        iop(x, '*', z)|iop(x, '/', z)|xp.maximum(x, z)|xp.arctan2(x, z)|xp.where(m, x, z)
        xp.concatenate([x, z])|xp.stack([x, z])|put(x, 0, z[0])|put(x, i, z)|xp.matmul(x, z.T)
        xp.clip(x, z, None)|xp.copyto(x, z)|xp.hypot(x, z)|xp.logical_and(x, z)|x - z[0, 0]
        xp.full_like(x, z[0, 0])|xp.add(x, x, out=z)|xp.searchsorted(ordered, z)
        xp.add.at(x, i, z)|xp.result_type(x, z)|xp.promote_types(x.dtype, z.dtype)
        xp.can_cast(x.dtype, z.dtype)|xp.copysign(x, z)|xp.ldexp(x, z)|xp.append(x, z)
        x.astype(z.dtype)|x.sum(dtype=z.dtype)|x.sum(0, out=z[0])|x.cumsum(dtype=z.dtype)
        xp.take(x, z.astype('int64') % 3)
        """),
    "array and number": (ALL, _for_each(NUMBERS, "N", """
        x + N|N - x|x * N|x / N|N / y|x // N|y ** N|x % N|x < N|x == N|xp.maximum(x, N)
        xp.where(m, x, N)|xp.clip(x, None, N)|iop(x, '+', N)|iop(x, '*', N)|iop(x, '/', N)
        put(x, 0, N)|xp.full_like(x, N)|x & N|s * N|xp.power(y, N)|xp.add(N, N)|xp.copysign(x, N)
        """)),
}


def calls(group):
    """Tuples (dtype, dtype of `z`, expressions)."""
    dtypes, codes = _GROUPS[group]
    codes = _split(codes) if isinstance(codes, str) else codes
    pairs = PAIRS if group == "two dtypes" else [(dtype, dtype) for dtype in dtypes]
    return [(*pair, codes) for pair in pairs]


GROUPS = list(_GROUPS)
