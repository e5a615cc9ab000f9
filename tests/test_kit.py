"""The kit is checked too: planted faults, each of which it must catch, and a stranger's backend, which it must take."""

import os
import subprocess
import sys
import textwrap

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
    check_kernel,
    check_parity,
    check_second,
    check_training,
    floats,
    integers,
    pointwise,
)

x, y = floats(4, 5), floats(5)
BATCHES = [(floats(6, 4).astype("float32"), integers(3, 6)) for _ in range(6)]


class TestOps:
    """One op with each fault."""

    def test_none(self):
        check_grad(gpuprop.multiply, x, y)
        check_second(gpuprop.multiply, x, y)
        check_parity(gpuprop.multiply, x, y, backend="strict")

    def test_wrong_sign(self):
        @op
        def faulty(xp, x1: Array, x2: Array):
            return x1 - x2, (lambda d: d, lambda d: d)

        with pytest.raises(AssertionError, match=r"faulty.*the gradient along a direction is"):
            check_grad(faulty, x, y)

    def test_missing_unbroadcast(self):
        """The engine sums by shape alone what broadcasting spread: a pullback that drops an axis itself is caught."""
        @op
        def faulty(xp, x1: Array, x2: Array):
            return x1 * x2, (lambda d: d * x2, lambda d: (d * x1)[0])

        with pytest.raises(AssertionError, match="gradient"):
            check_grad(faulty, x, y)

    def test_float64_leak_forwards(self):
        @op
        def faulty(xp, x: Array):
            return x * xp.full((), 2.0, "float64"), (lambda d: d * 2,)

        with pytest.raises(AssertionError, match=r"output 0.*float64|is float64"):
            check_parity(Row(_with_reference(faulty, lambda xp, x: x * 2), x), backend="strict")

    def test_float64_leak_backwards(self):
        @op
        def faulty(xp, x: Array):
            return x * 2, (lambda d: d * xp.full((), 2.0, "float64"),)

        check_grad(faulty, x)
        with pytest.raises(AssertionError, match="a pullback answers in float64"):
            check_parity(faulty, x, backend="strict")

    def test_hidden_synchronisation(self):
        @op
        def faulty(xp, x: Array):
            scale = float(x.max())
            return x / scale * scale, (lambda d: d,)

        with pytest.raises(AssertionError, match=r"the host waited for the device.*faulty"):
            check_parity(faulty, x, backend="strict")

    def test_mutated_input(self):
        @op
        def faulty(xp, x: Array):
            y = x
            y *= 2
            return y, (lambda d: d * 2,)

        with pytest.raises(AssertionError, match="changed its input"):
            check_grad(faulty, x)

    def test_swapped_pullbacks(self):
        @op
        def faulty(xp, x1: Array, x2: Array):
            return x1 * x2, (lambda d: d * x1, lambda d: d * x2)

        with pytest.raises(AssertionError, match="gradient"):
            check_grad(faulty, x, floats(4, 5))

    def test_wrong_second_order(self):
        """A pullback that reads a constant made outside has the right gradient and a wrong Hessian."""
        @op
        def faulty(xp, x: Array):
            slope = raw(3 * x * x) if isinstance(x, Tensor) else 3 * x * x
            return x**3, (lambda d: d * slope,)

        check_grad(faulty, x)
        with pytest.raises(AssertionError, match="gradient along"):
            check_second(faulty, x)


def _with_reference(faulty, definition):
    """`faulty` as what a backend runs, `definition` under generic(): the check compares the two."""
    @op
    def both(xp, x: Array):
        return definition(xp, x), (lambda d: d * 2,)

    both.faster(lambda xp, x: faulty.fn(xp, x))
    return both


class TestTwins:
    rows = pointwise(F.relu)

    def check(self, twin):
        check_kernel("strict", "gpuprop:relu", self.rows, twin)

    def test_right(self):
        self.check(lambda xp, input, inplace=False: F.relu.fn(xp, input))

    def test_wrong_on_negative_strides(self):
        def twin(xp, input, inplace=False):
            a = input if not input.ndim or input.strides[-1] > 0 else input[..., ::-1]
            return xp.maximum(a, 0), (lambda d: d * (input > 0),)

        with pytest.raises(AssertionError, match="negative strides"):
            self.check(twin)

    def test_wrong_on_empty_input(self):
        def twin(xp, input, inplace=False):
            return xp.maximum(input, 0) if input.size else xp.zeros((1,), input.dtype), (lambda d: d * (input > 0),)

        with pytest.raises(AssertionError, match="shape"):
            self.check(twin)

    def test_wrong_gradient(self):
        with pytest.raises(AssertionError, match="gradient 0"):
            self.check(lambda xp, input, inplace=False: (xp.maximum(input, 0), (lambda d: d,)))

    def test_none_there(self):
        with pytest.raises(ValueError, match="no twin of"):
            check_kernel("strict", "gpuprop:relu", self.rows)


@kernel
def count_on(xp, counter: Array):
    counter += 1


class TestTraining:
    """A step with each fault of steps, which one op cannot show."""


    def make(self, fault=None):
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.25), nn.Linear(4, 4), nn.Linear(4, 3))
        model[3].weight = model[0].weight  # tied
        optimizer = optim.Adam(model.parameters(), lr=0.05)
        loss_of = nn.CrossEntropyLoss()
        made = Tensor(gpuprop.zeros(()).data)

        def step(inputs, labels):
            optimizer.zero_grad()
            loss = loss_of(model(inputs), labels)
            if fault == "stale counter":
                loss = loss * (1 + 0.1 * fault_state["python count"])
                fault_state["python count"] += 1
            if fault == "hidden synchronisation":
                loss = loss * (1 + 0 * loss.item())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if fault == "baked-in learning rate":
                lr = optimizer.param_groups[0]["lr"]
                for p in model.parameters():
                    p.data[...] -= lr * p.grad
                    p.touch()
            else:
                optimizer.step()
            count_on(made)
            if fault == "tied weight split" and model[3].weight is model[0].weight:
                model[3].weight = Parameter(model[0].weight.data.copy())
            return loss

        fault_state = {"python count": 0}
        return model, optimizer, step

    def test_none(self, recorder):
        check_training(self.make, BATCHES, backend=recorder)

    @pytest.mark.parametrize("fault, found", [
        ("baked-in learning rate", "captured"), ("stale counter", "captured"),
        ("hidden synchronisation", "waited for the device"), ("tied weight split", "was tied to"),
    ])
    @pytest.mark.filterwarnings("ignore:.*run as it is, not captured")
    def test_planted(self, fault, found):
        with pytest.raises((AssertionError, gpuprop.testing.CaptureError), match=found):
            check_training(lambda: self.make(fault), BATCHES)


class TestThirdParty:
    """A package of somebody else's: registered by its entry point, tested against an installed gpuprop in one line."""

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
                    return lift(value(*args, **kwargs))
                if isinstance(value, np.ufunc):
                    call.at = value.at
                return call

        def lift(out):
            if isinstance(out, tuple | list):
                return type(out)(map(lift, out))
            return np.asarray(out).view(Array) if isinstance(out, np.ndarray | np.generic) else out

        class DummyBackend(Backend):
            name, xp, array_type = "dummy", Namespace(), Array
            kernels = {}

            def asarray(self, value, dtype=None):
                return np.asarray(value, dtype).view(Array)

            def _to_numpy(self, array):
                return np.array(array, subok=False)

            def check(self, condition, message):
                get_backend("numpy").check(condition, message)
    """

    @pytest.mark.parametrize("fault", [None, "sign"])
    def test_in_one_line(self, fault, tmp_path):
        (tmp_path / "gpuprop_dummy.py").write_text(textwrap.dedent(self.BACKEND) + textwrap.dedent("""
            def relu(xp, input, inplace=False):
                return xp.maximum(input, 0), (lambda d: -d * (input > 0),)
            DummyBackend.kernels = {"gpuprop:relu": relu}
        """) * (fault is not None))
        info = tmp_path / "gpuprop_dummy-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gpuprop-dummy\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[gpuprop.backends]\ndummy = gpuprop_dummy:DummyBackend\n")
        (tmp_path / "test_dummy.py").write_text(
            'import gpuprop.testing\ntest_backend = gpuprop.testing.conformance("dummy")\n')
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "GPUPROP"))}
        env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        only = ["-k", "relu or matmul or cross_entropy or softmax"]
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *only], cwd=tmp_path,
                              env=env, capture_output=True, text=True)
        if fault is None:
            assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:]
        else:
            assert done.returncode == 1 and "gradient 0" in done.stdout, done.stdout[-3000:]
