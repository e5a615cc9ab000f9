"""The checks of gpuprop.testing: each must find the errors that are injected here."""

import itertools
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop import Array, Tensor, nn, op, optim
from gpuprop._core.graph import raw
from gpuprop._core.ops import kernel
from gpuprop._core.tensor import Parameter
from gpuprop.testing import (
    Row,
    check_grad,
    check_half,
    check_integers,
    check_kernel,
    check_parity,
    check_second,
    check_training,
    distinct,
    floats,
    integers,
    pointwise,
)

x = floats(4, 5)
y = floats(5)
BATCHES = [(floats(6, 4).astype("float32"), integers(3, 6)) for _ in range(6)]


class TestOps:
    def test_correct_op(self):
        check_grad(gpuprop.multiply, x, y)
        check_second(gpuprop.multiply, x, y)
        check_parity(gpuprop.multiply, x, y, backend="strict")

    def test_check_grad_accepts_any_function_and_tensors(self):
        weight = gpuprop.tensor(np.array([0.5, -1.5], "float32"))
        check_grad(lambda x, w, scale: gpuprop.tanh(x * w).sum() * scale, x[:, :2], weight, scale=2)

    def test_check_grad_of_order_2(self):
        check_grad(gpuprop.multiply, x, y, order=2)
        with pytest.raises(ValueError, match="order must be 1 or 2"):
            check_grad(gpuprop.multiply, x, y, order=3)

    def test_check_grad_needs_a_floating_array(self):
        with pytest.raises(ValueError, match="no floating array"):
            check_grad(gpuprop.multiply, integers(3, 4), 2.0)

    def test_wrong_sign(self):
        @op
        def faulty(xp, x1: Array, x2: Array):
            return x1 - x2, (lambda d: d, lambda d: d)

        with pytest.raises(AssertionError, match=r"faulty.*gradient along a random direction"):
            check_grad(faulty, x, y)

    def test_missing_unbroadcast(self):
        """The engine sums gradients of broadcast inputs.  Here a pullback drops an axis itself."""
        @op
        def faulty(xp, x1: Array, x2: Array):
            return x1 * x2, (lambda d: d * x2, lambda d: (d * x1)[0])

        with pytest.raises(AssertionError, match="gradient"):
            check_grad(faulty, x, y)

    def test_output_in_float64(self):
        @op
        def faulty(xp, x: Array):
            return x * xp.full((), 2.0, "float64"), (lambda d: d * 2,)

        with pytest.raises(AssertionError, match=r"output 0.*float64"):
            check_parity(Row(_with_definition(faulty, lambda xp, x: x * 2), x), backend="strict")

    def test_gradient_in_float64(self):
        @op
        def faulty(xp, x: Array):
            return x * 2, (lambda d: d * xp.full((), 2.0, "float64"),)

        check_grad(faulty, x)
        with pytest.raises(AssertionError, match="pullback returns float64"):
            check_parity(faulty, x, backend="strict")

    def test_half_type_rounded_twice(self):
        """The error is too large for one rounding, but not for a product and its pullback."""
        @op(half="exact")
        def faulty(xp, x: Array):
            ten = xp.full_like(x, 10)
            return x + ten - ten, (lambda d: d,)

        @op(precision="low")
        def product(xp, x: Array):
            ten = xp.full_like(x, 10)
            return x + ten - ten, (lambda d: d,)

        x = np.array([1, 0.03])
        check_parity(product, x, backend="strict", dtype="bfloat16")
        with pytest.raises(AssertionError, match=r"faulty.*bfloat16: output 0"):
            check_parity(faulty, x, backend="strict", dtype="bfloat16")

    def test_hidden_synchronization(self):
        @op
        def faulty(xp, x: Array):
            scale = float(x.max())
            return x / scale * scale, (lambda d: d,)

        with pytest.raises(AssertionError, match=r"the host waited for the device.*faulty"):
            check_parity(faulty, x, backend="strict")

    def test_modified_input(self):
        @op
        def faulty(xp, x: Array):
            y = x
            y *= 2
            return y, (lambda d: d * 2,)

        with pytest.raises(AssertionError, match="modified its input"):
            check_grad(faulty, x)

    def test_swapped_pullbacks(self):
        @op
        def faulty(xp, x1: Array, x2: Array):
            return x1 * x2, (lambda d: d * x1, lambda d: d * x2)

        with pytest.raises(AssertionError, match="gradient"):
            check_grad(faulty, x, floats(4, 5))

    def test_wrong_second_order(self):
        """A constant in the pullback has the right gradient but a wrong second-order gradient."""
        @op
        def faulty(xp, x: Array):
            slope = raw(3 * x * x) if isinstance(x, Tensor) else 3 * x * x
            return x**3, (lambda d: d * slope,)

        check_grad(faulty, x)
        with pytest.raises(AssertionError, match="second-order gradient"):
            check_second(faulty, x)
        with pytest.raises(AssertionError, match="second-order gradient"):
            check_grad(faulty, x, order=2)


class TestTypes:
    """Bodies that compute in the narrow type of an operand."""

    halves = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])

    @staticmethod
    def check(faulty, *args, dtype, message):
        for backend in ("numpy", "strict"):
            with pytest.raises(AssertionError, match=message):
                check_half(faulty, *args, backend=backend, dtype=dtype)

    @halves
    def test_a_sum_in_a_half_type(self, dtype):
        @op(half="exact")
        def faulty(xp, x: Array):
            total = x[0]
            for row in x[1:]:
                total = total + row
            shape = x.shape
            return total, (lambda d: xp.broadcast_to(d, shape),)

        self.check(faulty, x, dtype=dtype, message="output 0")

    @halves
    def test_a_gradient_summed_in_a_half_type(self, dtype):
        @op(half="exact")
        def faulty(xp, x: Array, bias: Array):
            def of_bias(d):
                total = d[0]
                for row in d[1:]:
                    total = total + row
                return total

            return x + bias, (lambda d: d, of_bias)

        self.check(faulty, x, y, dtype=dtype, message="gradient 1")

    def test_a_sum_behind_a_refused_attempt(self):
        """Refused on a device, a call leaves flags of `check` that fail the next call."""
        @op(half="exact")
        def faulty(xp, x: Array, index: Array):
            xp.check(index < 3, "index is not below 3")
            xp.check(index < 4, "index is not below 4")
            total, shape = x[0], x.shape
            for row in x[1:]:
                total = total + row
            return total + xp.take(x, index, axis=0).sum(), (
                lambda d: xp.broadcast_to(d, shape), None)

        self.check(faulty, x, np.array([0, 2]), dtype="bfloat16", message="output 0")

    def test_a_square_that_overflows(self):
        @op(half="exact")
        def faulty(xp, x: Array):
            norm = (x * x).mean(axis=-1, keepdims=True) ** 0.5
            return x / norm, (lambda d: d / norm,)

        self.check(faulty, x, dtype="float16", message="output 0")

    def test_an_index_in_a_narrow_type(self):
        @op
        def faulty(xp, x: Array, index: Array):
            columns = x.shape[1]
            flat = index * columns + 1
            return xp.take(x.reshape(-1), flat), None

        for backend in ("numpy", "strict"):
            with pytest.raises((AssertionError, OverflowError), match=r"as u?int8|out of bounds"):
                check_integers(faulty, x, integers(3, 4), backend=backend)

    def test_an_integer_that_widens_a_float(self):
        @op
        def faulty(xp, x1: Array, x2: Array):
            return x1 * x2, (lambda d: d * x2, lambda d: d * x1)

        for backend in ("numpy", "strict"):
            with pytest.raises(AssertionError, match="is float64, expected float32"):
                check_integers(faulty, x, y, backend=backend)

    def test_correct_ops(self):
        for backend in ("numpy", "strict"):
            check_integers(gpuprop.take, x, integers(20, 3), backend=backend)
            check_integers(gpuprop.multiply, x, y, backend=backend)
            for dtype in ("float16", "bfloat16"):
                check_half(F.linear, x, floats(3, 5), floats(3), backend=backend, dtype=dtype)

    def test_distinct(self):
        rows = pointwise(gpuprop.multiply, 2)
        assert len(distinct(rows)) < len(rows)
        assert all(a.size for row in distinct(rows) for a in row.arrays())
        options = [Row(gpuprop.sum, x, axis=axis) for axis in (0, 1, 0)]
        assert distinct(options) == options[:2]


def _with_definition(faulty, definition):
    """An op whose portable version is `faulty`, and whose definition is `definition`."""
    @op
    def both(xp, x: Array):
        return definition(xp, x), (lambda d: d * 2,)

    both.faster(lambda xp, x: faulty.fn(xp, x))
    return both


class TestOverrides:
    rows = pointwise(F.relu)

    def check(self, override):
        check_kernel("strict", "gpuprop:relu", self.rows, override)

    def test_correct(self):
        self.check(lambda xp, input, inplace=False: F.relu.fn(xp, input))

    def test_wrong_for_negative_strides(self):
        def override(xp, input, inplace=False):
            a = input if not input.ndim or input.strides[-1] > 0 else input[..., ::-1]
            return xp.maximum(a, 0), F.relu.fn(xp, input)[1]

        with pytest.raises(AssertionError, match="negative strides"):
            self.check(override)

    def test_wrong_for_empty_input(self):
        def override(xp, input, inplace=False):
            out = xp.maximum(input, 0) if input.size else xp.zeros((1,), input.dtype)
            return out, F.relu.fn(xp, input)[1]

        with pytest.raises(AssertionError, match="shape"):
            self.check(override)

    def test_wrong_gradient(self):
        with pytest.raises(AssertionError, match="gradient 0"):
            self.check(lambda xp, input, inplace=False: (xp.maximum(input, 0), (lambda d: d,)))

    def test_absent(self):
        with pytest.raises(ValueError, match="no override of 'gpuprop:relu'"):
            check_kernel("strict", "gpuprop:relu", self.rows)

    def test_unknown_op(self):
        with pytest.raises(ValueError, match="no op or kernel 'gpuprop:rleu'"):
            check_kernel("strict", "gpuprop:rleu", self.rows)


@kernel
def increment(xp, counter: Array):
    counter += 1


class TestTraining:
    """Errors of a training step, which checks of single ops cannot find."""

    def make(self, error=None):
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.25), nn.Linear(4, 4),
                              nn.Linear(4, 3))
        model[3].weight = model[0].weight  # tied
        optimizer = optim.Adam(model.parameters(), lr=0.05)
        loss_fn = nn.CrossEntropyLoss()
        device_count = Tensor(gpuprop.zeros(()).data)
        python_count = itertools.count()

        def step(inputs, labels):
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), labels)
            if error == "python counter":
                loss = loss * (1 + 0.1 * next(python_count))
            if error == "hidden synchronization":
                loss = loss * (1 + 0 * loss.item())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if error == "constant learning rate":
                lr = optimizer.param_groups[0]["lr"]
                for p in model.parameters():
                    p.data[...] -= lr * p.grad
                    p.touch()
            else:
                optimizer.step()
            increment(device_count)
            if error == "tied weight split" and model[3].weight is model[0].weight:
                model[3].weight = Parameter(model[0].weight.data.copy())
            return loss

        return model, optimizer, step

    def test_correct_step(self, recorder):
        check_training(self.make, BATCHES, backend=recorder)

    @pytest.mark.parametrize("error, message", [
        ("constant learning rate", "captured"),
        ("python counter", "captured"),
        ("hidden synchronization", "waited for the device"),
        ("tied weight split", "no longer tied"),
    ])
    @pytest.mark.filterwarnings("ignore:.*captur")
    def test_error_is_found(self, error, message):
        with pytest.raises((AssertionError, gpuprop.testing.CaptureError), match=message):
            check_training(lambda: self.make(error), BATCHES)


class TestThirdParty:
    """A backend package with an entry point, whose test is one line."""

    BACKEND = """
        import numpy as np
        from gpuprop.backend import Backend, get_backend

        class Array(np.ndarray):
            pass

        class Namespace:
            def __getattr__(self, name):
                value = getattr(get_backend("numpy").xp, name)
                if not callable(value) or isinstance(value, type) or isinstance(value, type(np)):
                    return value
                def call(*args, **kwargs):
                    return wrap(value(*args, **kwargs))
                if isinstance(value, np.ufunc):
                    call.at = value.at
                return call

        def wrap(out):
            if isinstance(out, tuple | list):
                return type(out)(map(wrap, out))
            return np.asarray(out).view(Array) if isinstance(out, np.ndarray | np.generic) else out

        class DummyBackend(Backend):
            name, xp, array_type = "dummy", Namespace(), Array
            kernels = {}

            def asarray(self, value, dtype=None):
                return np.asarray(value, dtype).view(Array)

            def _to_numpy(self, array):
                return np.array(array, subok=False)

            def check(self, condition, message, values=None):
                get_backend("numpy").check(condition, message, values)
    """

    WRONG_RELU = """
        def relu(xp, input, inplace=False):
            return xp.maximum(input, 0), (lambda d: -d * (input > 0),)
        DummyBackend.kernels = {"gpuprop:relu": relu}
    """

    @pytest.mark.parametrize("correct", [True, False])
    def test_conformance(self, correct, tmp_path):
        source = textwrap.dedent(self.BACKEND)
        if not correct:
            source += textwrap.dedent(self.WRONG_RELU)
        (tmp_path / "gpuprop_dummy.py").write_text(source)
        info = tmp_path / "gpuprop_dummy-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: gpuprop-dummy\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            "[gpuprop.backends]\ndummy = gpuprop_dummy:DummyBackend\n")
        (tmp_path / "test_dummy.py").write_text(
            "import gpuprop.testing\n"
            'test_backend = gpuprop.testing.conformance("dummy")\n')
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "GPUPROP"))}
        paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
        env["PYTHONPATH"] = os.pathsep.join(paths)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                   "-k", "relu or matmul or cross_entropy or softmax"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        if correct:
            assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:]
        else:
            assert done.returncode == 1 and "gradient 0" in done.stdout, done.stdout[-3000:]
