"""Error notes with layers and shapes, `summary`, `debug` and `no_sync`."""

import sys

import numpy as np
import pytest

import gpuprop
from gpuprop import functional as F
from gpuprop import nn, optim
from gpuprop._core.instruments import parameter_changed
from gpuprop._core.mode import current
from gpuprop.diagnosis import _nan
from gpuprop.nn import _module
from gpuprop.nn._locate import MAX_LAYERS, MAX_OPS


class Net(nn.Module):
    """An MLP.  Without `fits` the last layer of the body takes one feature too few."""

    def __init__(self, fits=False):
        last = nn.Linear(5 if fits else 4, 3)
        self.body = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), last)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        doubled = x * 2
        return self.head(self.body(doubled))


def notes(error):
    return "\n".join(error.value.__notes__).splitlines()


class TestShapes:
    def test_modules_shapes_and_ops(self, backend):
        with pytest.raises(ValueError, match=r"5 features.*takes 4") as error:
            Net()(gpuprop.ones((2, 6)))
        assert notes(error) == [
            "in Net.body.2: Linear(in_features=4, out_features=3, bias=True)",
            "  tensors in Net: x (2, 6), doubled (2, 6)",
            "  tensors in Net.body: input (2, 5)",
            "  tensors in Net.body.2: input (2, 5)",
            "  computed by: body.0 linear (2, 5), tanh (2, 5)",
        ]

    def test_without_a_graph(self, backend):
        with gpuprop.no_grad(), pytest.raises(ValueError, match="5 features") as error:
            Net()(gpuprop.ones((2, 6)))
        assert notes(error)[1:] == [
            "  tensors in Net: x (2, 6), doubled (2, 6)",
            "  tensors in Net.body: input (2, 5)",
            "  tensors in Net.body.2: input (2, 5)",
        ]

    def test_op_on_two_branches(self):
        class Joined(nn.Module):
            def __init__(self):
                self.left = nn.Linear(4, 3)
                self.right = nn.Linear(4, 2)

            def forward(self, x):
                a = self.left(x)
                b = self.right(x)
                return a + b

        with pytest.raises(ValueError, match="broadcast") as error:
            Joined()(gpuprop.ones((2, 4)))
        assert notes(error) == [
            "in Joined: Joined()",
            "  tensors in Joined: x (2, 4), a (2, 3), b (2, 2)",
            "  computed by: right linear (2, 2)",
        ]

    def test_long_history_is_truncated(self):
        model = nn.Sequential(*[nn.Tanh() for _ in range(30)], nn.Linear(3, 1))
        x = gpuprop.ones((2, 2)).requires_grad_()
        with pytest.raises(ValueError, match="features") as error:
            model(x)
        assert notes(error)[-1].count("tanh") == MAX_OPS

    def test_argument_that_is_no_tensor(self):
        with pytest.raises(TypeError, match=r"Flatten.*is None") as error:
            nn.Flatten()(None)
        assert notes(error) == ["in Flatten: Flatten(start_dim=1, end_dim=-1)"]

    def test_forward_is_a_lambda(self):
        layer = nn.Linear(3, 2)
        layer.forward = lambda x: F.linear(x, layer.weight)
        with pytest.raises(ValueError, match="features") as error:
            layer(gpuprop.ones((4, 4)))
        assert notes(error)[1] == "  tensors in Linear: argument 0 (4, 4)"


class Around(nn.Module):
    """A module that calls another one."""

    def __init__(self, inner):
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def nest(depth, wrap=Around):
    model = nn.Linear(3, 3)
    for _ in range(depth):
        model = wrap(model)
    return model


class TestNests:
    """The note of an error in nested modules: its work and its length are linear in the depth."""

    @pytest.fixture(autouse=True)
    def deep_calls(self):
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(20_000)
        yield
        sys.setrecursionlimit(limit)

    @pytest.fixture
    def visits(self, monkeypatch):
        """The modules whose submodules are listed, once for each listing."""
        visited = []
        listing = _module.child_modules

        def child_modules(module):
            visited.append(module)
            return listing(module)

        monkeypatch.setattr(_module, "child_modules", child_modules)
        return visited

    @pytest.mark.parametrize("wrap", [
        Around,
        lambda inner: nn.Sequential(inner),
        lambda inner: nn.Sequential(nn.Sequential(nn.Tanh(), nn.Tanh()), inner),
    ], ids=["attribute", "sequential", "siblings"])
    def test_the_work_is_linear(self, wrap, visits):
        work = []
        for depth in (50, 100, 200):  # Python 3.12 allows 300
            model = nest(depth, wrap)
            visits.clear()
            with pytest.raises(ValueError, match="features") as error:
                model(gpuprop.ones((2, 4)))
            path = notes(error)[0].removeprefix("in ").partition(":")[0]
            assert model.get_submodule(path.partition(".")[2]) is [*model.modules()][-1]
            assert len(notes(error)) <= MAX_LAYERS + 2
            work.append(len(visits) / depth)
        assert max(work) < 1.2 * min(work) < 15

    def test_a_shared_module_has_the_name_under_which_it_was_called(self):
        shared = nn.Linear(3, 3)
        model = nn.Sequential(nn.Sequential(nn.Linear(4, 3), shared), nn.Tanh(), Around(shared))
        model[2].forward = lambda x: model[2].inner(gpuprop.ones(2, 5))
        with pytest.raises(ValueError, match="features") as error:
            model(gpuprop.ones((2, 4)))
        assert notes(error)[0].startswith("in Sequential.2.inner: Linear(")

    def test_a_module_that_contains_itself(self):
        model = Around(nn.Linear(3, 3))
        model.inner.around = model
        assert [name for name, _ in model.named_modules()] == ["", "inner"]
        assert [*model.state_dict()] == ["inner.weight", "inner.bias"]
        with pytest.raises(ValueError, match="features") as error:
            model(gpuprop.ones((2, 4)))
        assert notes(error)[0].startswith("in Around.inner: Linear(")

    def test_a_module_that_calls_itself(self, visits):
        class Recursive(nn.Module):
            def __init__(self):
                self.layer = nn.Linear(3, 3)

            def forward(self, x, depth):
                return self(x, depth - 1) if depth else self.layer(x)

        with pytest.raises(ValueError, match="features") as error:
            Recursive()(gpuprop.ones((2, 4)), 200)
        assert notes(error)[0].startswith("in Recursive.layer: Linear(")
        assert len(visits) < 10

    def test_modules_that_are_shared_at_every_level(self):
        class Twice(nn.Module):
            def __init__(self, inner):
                self.first = self.second = inner

        assert len([*nest(1000, Twice).modules()]) == 1001
        assert len([*nest(1000, Twice).parameters()]) == 2

    def test_an_error_that_a_module_handles_and_replaces(self):
        class Replaces(Around):
            def forward(self, x):
                try:
                    return self.inner(x)
                except ValueError as error:
                    raise KeyError("wrong") from error

        with pytest.raises(KeyError) as error:
            nn.Sequential(Replaces(nn.Linear(3, 3)))(gpuprop.ones((2, 4)))
        assert notes(error)[0] == "in Sequential.0: Replaces()"
        assert error.value.__cause__.__notes__[0].startswith("in Sequential.0.inner: Linear(")


class TestSummary:
    def test_table(self, backend):
        summary = gpuprop.summary(Net(fits=True), (7, 6))
        assert [tuple(row) for row in summary.rows] == [
            ("Net", "Net", (7, 2), 0),
            ("body", "Sequential", (7, 3), 0),
            ("body.0", "Linear", (7, 5), 35),
            ("body.1", "Tanh", (7, 5), 0),
            ("body.2", "Linear", (7, 3), 18),
            ("head", "Linear", (7, 2), 8),
        ]
        assert (summary.parameters, summary.trainable, summary.bytes) == (61, 61, 244)
        lines = str(summary).splitlines()
        assert lines[0].split() == ["layer", "class", "output", "parameters"]
        assert lines[4].split() == ["body.0", "Linear", "(7,", "5)", "35"]
        assert lines[-1] == "61 parameters, 61 trainable, 0.000244 MB with buffers"

    def test_state_is_preserved(self, backend):
        class Restless(nn.Module):
            def __init__(self):
                self.inner = nn.Dropout(0.5, rng=gpuprop.random.Generator(3))
                self.layer = nn.Linear(4, 4)
                self.register_buffer("count", gpuprop.zeros(()))

            def forward(self, x):
                self.count.data[...] += 1
                return self.layer(F.dropout(self.inner(x))) + gpuprop.random.normal(x.shape)

        model = Restless()
        model.inner.eval()
        F.dropout(gpuprop.ones(8))  # the default generator now has a counter on the device
        default_generator = gpuprop.random.default_generator
        before = default_generator.get_state()
        own_before = model.inner.rng.get_state()
        state = model.state_dict()
        gpuprop.summary(model, (3, 4))
        gpuprop.summary(model, (5, 4))
        assert default_generator.get_state() == before
        assert model.inner.rng.get_state() == own_before
        assert model.count.item() == 0
        assert model.training and not model.inner.training
        assert all(p.grad is None for p in model.parameters())
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(value, state[name])

    def test_modes_are_restored_after_an_error(self):
        model = Net()
        with pytest.raises(ValueError, match="5 features"):
            gpuprop.summary(model, (7, 6))
        assert all(m.training for m in model.modules())

    def test_several_inputs_and_dtypes(self, backend):
        class Pick(nn.Module):
            def forward(self, x, index):
                return {"picked": x[index], "both": (x, index)}

        summary = gpuprop.summary(Pick(), (5, 2), (3,), dtype=["float64", "int64"])
        assert summary.rows[0].output == {"picked": (3, 2), "both": [(5, 2), (3,)]}

    def test_shared_tied_and_unused_layers(self):
        class Model(nn.Module):
            def __init__(self):
                self.a = nn.Linear(3, 3)
                self.b = nn.Linear(3, 3, bias=False)
                self.b.weight = self.a.weight
                self.unused = nn.Linear(3, 1).requires_grad_(False)

            def forward(self, x):
                return self.b(self.a(self.a(x)))

        summary = gpuprop.summary(Model(), (2, 3))
        assert (summary.parameters, summary.trainable) == (16, 12)
        assert summary.rows[-1].output is None and "-" in str(summary).splitlines()[5]


class Log(nn.Module):
    def __init__(self, shift):
        self.layer = nn.Linear(3, 3)
        self.shift = shift

    def forward(self, x):
        return gpuprop.log(self.layer(x) + self.shift)


class LogarithmicRule(optim.Optimizer):
    @staticmethod
    @gpuprop.pointwise
    def update_kernel(xp, p, g, lr):
        p -= lr * xp.log(g - 1)  # NaN for g = 0


class TestNan:
    def test_forward(self, backend):
        model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Log(100), Log(-100)))
        message = r"forward pass of log in Sequential\.1\.1, .*finite inputs"
        with pytest.raises(FloatingPointError, match=message), gpuprop.debug(nan=True):
            model(gpuprop.ones((2, 3)))

    def test_backward(self, backend):
        class Root(nn.Module):
            def forward(self, x):
                return gpuprop.sqrt(x * 0)

        x = gpuprop.ones((2, 3)).requires_grad_()
        message = (r"backward pass of multiply \(gradient of 'x1'\) in Root, .*infinity"
                   r".*backward pass of sqrt \(gradient of 'x'\) in Root")
        with pytest.raises(FloatingPointError, match=message), gpuprop.debug(nan=True):
            Root()(x).sum().backward()

    def test_update(self, backend):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
        optimizer = LogarithmicRule(model[1].parameters(), {"lr": 0.1})
        message = r"update of 1\.weight, .*finite inputs"
        with pytest.raises(FloatingPointError, match=message), gpuprop.debug(nan=True):
            (model(gpuprop.ones((2, 3))) * 0).sum().backward()
            optimizer.step()

    def test_data(self, backend):
        x = gpuprop.tensor(np.array([[1, np.nan, 1]], "float32"))
        message = r"forward pass of linear in Linear, .*inputs that already contained NaN"
        with pytest.raises(FloatingPointError, match=message), gpuprop.debug(nan=True):
            nn.Linear(3, 2)(x)

    def test_name_is_the_public_function(self, backend):
        x = gpuprop.full((1, 1, 2, 2), np.nan)
        raises = pytest.raises(FloatingPointError, match="forward pass of avg_pool2d,")
        with raises, gpuprop.debug(nan=True):
            F.avg_pool2d(x, 2)

    def test_joint_pullback_and_ops_with_many_arrays_and_outputs(self, backend):
        x = gpuprop.ones((2, 4)).requires_grad_()
        with gpuprop.debug(nan=True):
            first, second = gpuprop.split(gpuprop.concatenate([x, x]), 2)
            loss = F.cross_entropy(first * 2 + second, gpuprop.tensor([0, 1]))
            loss.backward()
        assert x.grad is not None and current.get().inspect is None

    def test_infinity_alone_does_not_raise(self, backend):
        with gpuprop.debug(nan=True):
            assert gpuprop.exp(gpuprop.full(3, 1000.0)).tolist() == [float("inf")] * 3

    def test_device_flags_are_read_when_they_are_full(self, monkeypatch):
        monkeypatch.setattr(_nan, "FLAG_ROWS", 4)
        done = 0
        raises = pytest.raises(FloatingPointError, match="forward pass of log,")
        with gpuprop.use("strict"), raises, gpuprop.debug(nan=True):
            with gpuprop.no_sync():
                gpuprop.log(gpuprop.full(3, -1.0))
            for _ in range(10):
                gpuprop.exp(gpuprop.ones(3))
                done += 1
        assert done == 3

    def test_note_on_another_error(self, backend):
        with pytest.raises((AssertionError, FloatingPointError)) as error, gpuprop.debug(nan=True):
            assert gpuprop.log(gpuprop.full((), -1.0)).item() > 0
        text = str(error.value) + "".join(getattr(error.value, "__notes__", ()))
        assert "forward pass of log" in text

    def test_captured_steps_run_uncaptured(self):
        with gpuprop.use("strict"):
            step = gpuprop.capture(lambda x: gpuprop.log(x))
            for _ in range(3):
                step(gpuprop.ones(3))
            with pytest.raises(FloatingPointError, match="log"), gpuprop.debug(nan=True):
                step(gpuprop.full(3, -1.0))

    def test_debug_ends_with_its_block(self, backend):
        for _ in range(2):
            with pytest.raises(FloatingPointError), gpuprop.debug(nan=True):
                gpuprop.log(gpuprop.full(3, -1.0))
            assert current.get().inspect is None and not parameter_changed.is_watched
            with np.errstate(all="ignore"):
                assert np.isnan(gpuprop.log(gpuprop.full(3, -1.0)).numpy()).all()


class TestNoSync:
    @pytest.mark.parametrize("read", [
        lambda t: t.item(),
        lambda t: t.numpy(),
        lambda t: t.tolist(),
        float,
        bool,
        int,
        repr,
        gpuprop.asnumpy,
        lambda t: nn.ParameterList([gpuprop.Parameter(t)]).state_dict(),
    ])
    def test_reading_a_tensor_raises(self, read, backend):
        t = gpuprop.ones(())
        with gpuprop.no_sync(), pytest.raises(RuntimeError, match="wait for the device"):
            read(t)
        read(t)

    def test_synchronize_raises(self, backend):
        with gpuprop.no_sync(), pytest.raises(RuntimeError, match=r"synchronize\(\).*wait"):
            backend.synchronize()

    def test_training_step(self, backend):
        model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2))
        optimizer = optim.AdamW(model.parameters())
        x = np.ones((5, 4), np.float32)
        y = np.array([0, 1, 0, 1, 1])
        with gpuprop.no_sync():
            for _ in range(2):
                optimizer.zero_grad()
                F.cross_entropy(model(gpuprop.tensor(x)), gpuprop.tensor(y)).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()

    def test_copy_to_a_device(self):
        x = gpuprop.ones(3)
        with gpuprop.no_sync():
            x.to("strict")

    def test_method_of_a_device_array(self):
        raises = pytest.raises(RuntimeError, match=r"float\(\) in TestNoSync")
        with gpuprop.use("strict"), gpuprop.no_sync(), raises:
            float(gpuprop.ones(()).data)


def test_debug_checks_indices_immediately(backend):
    logits = gpuprop.ones((2, 3))
    with gpuprop.debug(), pytest.raises(IndexError):
        F.cross_entropy(logits, gpuprop.tensor([0, 5]))


@pytest.mark.parametrize(("call", "words"), [
    (lambda: gpuprop.summary(None, (1, 2)), "model must be a Module, got None"),
    (lambda: gpuprop.summary(nn.Linear, (1, 2)), "construct it"),
    (lambda: gpuprop.summary(nn.Linear(2, 2), 5), "input_shapes .* got 5"),
    (lambda: gpuprop.summary(nn.Linear(2, 2), np.ones((1, 2))), "input_shapes"),
    (lambda: gpuprop.summary(nn.Linear(2, 2), (1, 2.5)), "got 2.5"),
    (lambda: gpuprop.summary(nn.Linear(2, 2), (1, -2)), "got -2"),
    (lambda: gpuprop.summary(nn.Linear(2, 2), (1, 2), dtype=["float32"] * 2), "each of the 1"),
    (lambda: gpuprop.debug(nn.Linear(2, 2)), "nan must be True or False"),
])
def test_refused_arguments(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()
