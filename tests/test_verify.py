"""`gpuprop verify`: honest runs pass, and planted faults are found and named."""

import contextlib
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from tested_backends import BACKENDS

import gpuprop
from gpuprop import functional as F
from gpuprop import nn, optim
from gpuprop._array.activation import relu
from gpuprop._cli import main
from gpuprop._core.backend import Unavailable
from gpuprop._core.ops import forget_choices
from gpuprop._core.registry import _classes, default_backend, get_backend
from gpuprop.data import ArrayDataset
from gpuprop.functional._activation import gelu
from gpuprop.functional._dropout import drop
from gpuprop.random import default_generator
from gpuprop.verification import DIFFERS, NOTHING, SAME
from gpuprop.verification._builtin_runs import RUNS, mlp, trained
from gpuprop.verification._measure import distance
from gpuprop.verification._page import page
from gpuprop.verification._reorder import Order, Products
from gpuprop_numpy import NumpyBackend

CANDIDATE = BACKENDS[-1]
pytestmark = [pytest.mark.gpu] * (CANDIDATE == "cupy")
HEAD = (10, 48)  # the weight of the mlp's last layer, number 6


def verify(make_run=mlp, steps=1, **options):
    return gpuprop.verify(make_run, candidate=CANDIDATE, steps=steps, **options)


@contextlib.contextmanager
def planted(op, twin):
    """The candidate has this twin of an op."""
    backend = get_backend(CANDIDATE)
    before, backend.kernels = backend.kernels, {**backend.kernels, op.spec.name: twin}
    forget_choices()
    try:
        yield
    finally:
        backend.kernels = before
        forget_choices()


def here():
    """Is this the candidate's run?"""
    return default_backend().name == CANDIDATE


class TestHonest:
    @pytest.mark.parametrize("name", RUNS)
    def test_built_in_runs_are_the_same(self, name):
        result = verify(RUNS[name], steps=3)
        assert result, str(result)
        assert (result.status, result.first, result.steps, result.notes) == (SAME, "", 3, [])
        assert {row.dtype for row in result.rows} == {"float64", "float32"}
        assert {e.what for e in result.exact} == {"initial weights", "batches", "dropout masks"}
        assert str(result).endswith(": the same run")

    @pytest.mark.parametrize("seed", [0, 3, 7])
    def test_rounding_that_the_run_amplifies(self, seed):
        """RMSprop divides small gradients by themselves, so that one other order of rows does not tell enough."""
        def make_run():
            model = nn.Sequential(nn.Linear(50, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 128), nn.ReLU(),
                                  nn.Linear(128, 10))
            data = gpuprop.random.normal((256, 50)).numpy(), gpuprop.random.integers(0, 10, 256).numpy()
            return trained(model, F.cross_entropy, optim.RMSprop(model.parameters()), ArrayDataset(*data), 32)

        result = verify(make_run, steps=4, seed=seed)
        assert result, str(result)

    def test_random_numbers_are_left_as_they_were(self):
        before = default_generator.get_state()
        verify()
        assert default_generator.get_state() == before

    def test_what_is_looked_at(self):
        places = [(row.phase, row.layer, row.what) for row in verify().rows if row.dtype == "float64"]
        assert places[:3] == [("forward", "0", "output"), ("forward", "1", "output"), ("forward", "2", "output")]
        assert places[7:14] == [
            ("forward", "the step", "result"), ("backward", "6", "gradient of output"),
            ("backward", "6", "gradient of weight"), ("backward", "6", "gradient of bias"),
            ("backward", "6", "gradient of input"), ("backward", "5", "gradient of input"),
            ("backward", "4", "gradient of input")]
        assert places[-1] == ("update", "6", "update of bias")

    def test_a_captured_step(self):
        def make_run():
            model, step, batches = mlp()
            return model, gpuprop.capture(step), batches

        assert verify(make_run, steps=4)


def linear_with(change):
    """The candidate's linear, changed in the last layer."""
    def linear(xp, input, weight, bias=None):
        out, pullbacks = F.linear.fn(xp, input, weight, bias)
        return change(out, pullbacks) if weight.shape == HEAD else (out, pullbacks)

    return planted(F.linear, linear)


def kinked():
    """One row's activation is 2**-26, before a ReLU; in float32 it is 0 if it is added up in halves."""
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.ReLU())
    model[0].weight.data[...] = 1
    x = np.array([[1, 2.0**-25, -1, -(2.0**-26)], [1, 2, 3, 4]], np.float32)

    def step(x):
        model(x).sum().backward()

    return model, step, [(gpuprop.tensor(x),)]


def test_two_sides_of_a_kink_are_both_right(monkeypatch):
    monkeypatch.setattr("gpuprop.verification.ORDERS", ())
    result = verify(kinked)
    assert result, str(result)
    monkeypatch.setattr("gpuprop.verification.with_gradients_of", lambda reference, point: reference)
    assert "layer 1, backward, gradient of input: step 0, float32" in verify(kinked).first


class TestPlanted:
    def differs(self, match, make_run=mlp, **options):
        result = verify(make_run, **options)
        assert result.status == DIFFERS and not result
        assert match in result.first
        assert result.first in str(result)
        return result

    @pytest.mark.parametrize("i, what", [(0, "input"), (1, "weight"), (2, "bias")])
    def test_a_wrong_gradient_in_one_layer(self, i, what):
        def change(out, pullbacks):
            wrong = lambda dy: pullbacks[i](dy) * 1.000001
            return out, (*pullbacks[:i], wrong, *pullbacks[i + 1:])

        with linear_with(change):
            self.differs(f"layer 6, backward, gradient of {what}: step 0, float64")

    def test_a_wrong_gradient_of_an_activation(self):
        def wrong(xp, input, approximate="none"):
            out, _ = gelu.fn(xp, input, approximate=approximate)
            return out, (lambda dy: dy * (input > 0),)

        with planted(gelu, wrong):
            self.differs("layer 4, backward, gradient of input: step 0")

    def test_a_wrong_gradient_at_a_kink(self):
        """In float32 only, where the kink alone would do no harm."""
        def wrong(xp, input, inplace=False):
            out, (pullback,) = relu.fn(xp, input)
            return out, (lambda dy: pullback(dy) * (1 + 0.001 * (dy.dtype == "float32")),)

        with planted(relu, wrong):
            self.differs("layer 1, backward, gradient of input: step 0, float32", kinked)

    def test_a_float16_leak(self):
        rounded = lambda a: a.astype("float16").astype(a.dtype)
        with linear_with(lambda out, pullbacks: (rounded(out), pullbacks)):
            result = self.differs("layer 6, forward, output: step 0, float64")
        assert any(row.dtype == "float32" and row.layer == "6" and not row.same for row in result.rows)

    def test_a_float16_leak_in_float32_only(self):
        rounded = lambda a: a.astype("float16").astype(a.dtype) if a.dtype == "float32" else a
        with linear_with(lambda out, pullbacks: (rounded(out), pullbacks)):
            self.differs("layer 6, forward, output: step 0, float32")

    def test_an_output_that_stays_in_float16(self):
        def make_run():
            model, _, batches = mlp()
            if here():
                model[6].register_forward_hook(lambda module, args, out: out.astype("float16"))
            return model, lambda x, y: F.cross_entropy(model(x), y), batches

        self.differs(", and it is float16", make_run)

    def test_a_float32_constant_in_a_float64_run(self):
        with linear_with(lambda out, pullbacks: (out + (out * 0 + 0.1).astype("float32") - 0.1, pullbacks)):
            self.differs("layer 6, forward, output: step 0, float64")

    def test_another_seed(self):
        def make_run():
            gpuprop.manual_seed(int(here()))
            return mlp()

        self.differs("initial weights, 0.weight: step 0, not the same bit for bit", make_run)

    def test_another_seed_after_the_weights(self):
        def make_run():
            run = mlp()
            gpuprop.manual_seed(int(here()))
            return run

        self.differs("batches, batch 0: step 0", make_run)

    def test_other_dropout_masks(self):
        def wrong(xp, input, rng_key, p):
            return drop.fn(xp, input, rng_key + 1, p)

        with planted(drop, wrong):
            self.differs("dropout masks, 2: step 0, not the same bit for bit")

    def test_another_update(self):
        def make_run():
            model, step, batches = mlp()
            return model, lambda *batch: [step(*batch), self.nudge(model[3].bias)][0], batches

        self.differs("layer 3, update, update of bias: step 0", make_run)

    def nudge(self, p):
        if here():
            p.data[...] = p.data * (1 + 1e-9)

    def test_a_fault_of_a_later_step(self):
        def make_run():
            model, step, batches = mlp()
            count = iter(range(9))
            return model, lambda *batch: step(*batch) * (1 + 1e-6 * (next(count) == 2 and here())), batches

        self.differs("layer the step, forward, result: step 2", make_run, steps=3)

    def test_a_nan(self):
        with linear_with(lambda out, pullbacks: (out / (out != out[0, 0]), pullbacks)):
            result = self.differs("layer 6, forward, output: step 0, float64, ratio inf")
        assert "infinite" in json.dumps(result.plain()) and "Infinity" not in json.dumps(result.plain())

    def test_layers_that_are_not_called(self):
        def make_run():
            model, step, batches = mlp()
            if here():
                model[4] = nn.Sequential(nn.GELU(), nn.Identity(), nn.Tanh())
            return model, step, batches

        self.differs("layer 4, forward, output: step 0", make_run)

    def test_an_error_says_where_it_was(self):
        def make_run():
            model, _, batches = mlp()
            return model, lambda x, y: 1 / (not here()), batches

        with pytest.raises(ZeroDivisionError) as error:
            verify(make_run)
        assert error.value.__notes__ == [f"in the run on {CANDIDATE!r}, in float64"]


class Block(nn.Module):
    """What makes recording hard: a tied layer called twice, a residual, a buffer, several outputs, a layer unused."""

    def __init__(self):
        self.layer, self.side, self.unused = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.scale = gpuprop.Parameter(np.ones(6, np.float32))
        self.same = nn.Identity()
        self.register_buffer("mean", gpuprop.zeros(6))

    def forward(self, x):
        if self.training:
            self.mean.data[...] = self.mean.data * 0.9 + x.data.mean(axis=0) * 0.1
        y = self.layer(self.same(self.layer(x))) + self.side(x)
        return {"y": y * self.scale, "label": y.argmax(axis=-1)}, (x,)


def block_run():
    model = nn.Sequential(nn.Linear(4, 6), Block())
    model[0].bias.requires_grad_(False)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(batch):
        optimizer.zero_grad()
        out, _ = model(batch["x"])
        for half in (out["y"] ** 2).mean(), out["y"].sum() * 0.01:
            half.backward(retain_graph=True)
        optimizer.step()
        return {"nothing": None}

    x = gpuprop.random.normal((3, 8, 4))
    return model, step, [{"x": x[i]} for i in range(3)]


class TestRecording:
    def test_a_hard_model_is_the_same(self):
        result = verify(block_run, steps=3)
        assert result, str(result)
        names = {f"{row.layer} {row.what}" for row in result.rows}
        assert {"1.layer output", "1.layer (call 2) output", "1 output 0", "1 output 1", "1 gradient of scale",
                "1 gradient of scale (backward 2)", "1 change of buffer mean", "0 update of bias"} <= names
        assert not {"0 gradient of bias", "1.same output", "1.unused output", "1 output 2"} & names

    def test_the_gradient_of_an_input_is_that_of_the_innermost_first_layer_that_takes_it(self):
        names = [(row.layer, row.what) for row in verify(block_run).rows if row.phase == "backward"]
        assert ("1.layer", "gradient of input") in names
        assert not {("1", "gradient of input"), ("1.side", "gradient of input"), ("0", "gradient of output")} & {*names}

    def test_batches_with_more_than_arrays(self):
        def make_run():
            model = nn.Linear(3, 1)

            def step(x, options):
                assert isinstance(options["times"], int) and options["name"] is None
                loss = model(x).sum() * options["times"]
                loss.backward()
                return loss.item()

            return model, step, [(gpuprop.ones((5, 3)), {"times": 2, "name": None})]

        assert verify(make_run)

    def test_the_other_way_round(self):
        assert gpuprop.verify(block_run, reference=CANDIDATE, candidate="numpy", steps=2)

    def test_host_batches_and_loaders_of_one_array(self):
        def make_run():
            model = nn.Linear(3, 1)

            def step(x):
                loss = model(gpuprop.tensor(x)).sum()
                loss.backward()
                return loss

            return model, step, iter(np.ones((2, 5, 3), np.float32))

        assert verify(make_run, steps=9).steps == 2


class TestRows:
    def test_they_are_found_again(self):
        order, a = Order(4, 1), np.arange(4 * 6 * 8.0).reshape(4, 6, 8)
        assert distance(order.moved(a), a) > 0
        for form in (lambda a: a, lambda a: a.reshape(24, 8), lambda a: np.moveaxis(a, 0, 1),
                     lambda a: a.reshape(4, 48)[:, 0], lambda a: np.sort(a, axis=0).mean(axis=0)):
            assert min(distance(c, form(a)) for c in order.undone(form(order.moved(a)))) == 0

    @pytest.mark.parametrize("a, b", [((3, 5), (5, 2)), ((5,), (5, 2)), ((3, 5), (5,)), ((2, 3, 5), (2, 5, 4)),
                                      ((5,), (5,))])
    def test_products_in_another_order(self, a, b, rng):
        a, b = rng.standard_normal(a), rng.standard_normal(b)
        xp = Products(get_backend("numpy"), np.random.default_rng(0))
        np.testing.assert_allclose(xp.matmul(a, b), np.matmul(a, b), rtol=1e-13, atol=1e-14)
        assert xp.exp is np.exp

    def test_dropout_follows_its_row_wherever_that_is(self):
        def make_run():
            model = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.5))

            def step(x):
                y = model(x.swapaxes(0, 1))
                loss = (F.dropout(y, 0.5) ** 2).mean()
                loss.backward()
                return loss

            return model, step, [(gpuprop.random.normal((4, 9, 5)),)]

        result = verify(make_run)
        assert result and not result.notes
        assert [e.name for e in result.exact if e.what == "dropout masks"] == ["1", ""]

    @pytest.mark.parametrize("n", [6, 5])
    def test_an_order_that_matters_or_is_not_known_is_said(self, n):
        def make_run():
            model = nn.Linear(3, 2)

            def step(x, y):
                loss = (model(x - x[0]) ** 2).mean() + y.sum()
                loss.backward()
                return loss

            return model, step, [(gpuprop.random.normal((6, 3)), gpuprop.random.normal((n, 3)))]

        result = verify(make_run)
        assert result and "the order of the rows has a meaning" in result.notes[0]


class TestNothing:
    def test_the_same_backend_twice(self):
        result = gpuprop.verify(mlp, reference="numpy", candidate="numpy")
        assert not result and result.status == NOTHING and result.steps == 0
        assert "both runs would be on 'numpy'" in str(result)

    def test_no_batches(self):
        assert verify(lambda: (nn.Linear(1, 1), None, [])).notes == ["there are no batches"]

    def test_a_backend_that_cannot_be_used(self, monkeypatch):
        class Absent(NumpyBackend):
            is_available = classmethod(lambda cls: Unavailable("no usable CUDA device"))

        monkeypatch.setitem(_classes, "absent", Absent)
        assert "no usable CUDA device" in gpuprop.verify(mlp, candidate="absent").notes[0]

    def test_an_unknown_backend(self):
        assert "unknown backend 'coppy'" in str(gpuprop.verify(mlp, candidate="coppy"))

    def test_a_run_that_chooses_its_backend(self):
        def make_run():
            gpuprop.use("numpy")
            return mlp()

        with pytest.raises(RuntimeError, match="must not choose a backend itself"):
            verify(make_run)


class TestDistance:
    @pytest.mark.parametrize("a, b, far", [
        ([1, 2], [1, 2.5], 0.5), ([np.nan, np.inf], [np.nan, np.inf], 0), ([np.nan], [1], np.inf),
        ([1], [np.inf], np.inf), ([np.inf], [-np.inf], np.inf), ([], [], 0), ([1], [1, 2], np.inf),
        ([True], [False], 1)])
    def test_distance(self, a, b, far):
        assert distance(np.array(a), np.array(b)) == far


class Tags(HTMLParser):
    """Are all elements that must be closed closed, and is nothing fetched?"""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        assert tag not in ("script", "link", "img") and "src" not in dict(attrs)
        if tag in ("html", "h1", "h2", "h3", "p", "pre", "b", "span", "div", "table", "style", "thead", "title"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open[-1] == "thead" != tag:  # may be left open
            self.open.pop()
        assert self.open.pop() == tag


class TestReports:
    def test_page(self):
        rounded = lambda a: a.astype("float16").astype(a.dtype)
        with linear_with(lambda out, pullbacks: (rounded(out), pullbacks)):
            text = page([verify(name="<mlp>"), gpuprop.verify(mlp, candidate="numpy")])
        tags = Tags()
        tags.feed(text)
        assert tags.open == [] and tags.seen.count("table") == 2
        assert "&lt;mlp&gt;" in text and "<mlp>" not in text
        assert 'class="verdict s1">not the same run' in text and 'class="verdict s2">nothing to compare' in text
        assert "The first to differ is <b>layer 6, forward, output: step 0" in text
        assert 'class="r bad"' in text and "gpuprop: " + gpuprop.__version__ in text

    def test_command(self, tmp_path, capsys):
        files = tmp_path / "found.json", tmp_path / "page.html"
        where = ["--json", str(files[0]), "--html", str(files[1])]
        assert main(["verify", "mlp", "--candidate", CANDIDATE, "--steps", "1", *where]) == SAME
        assert capsys.readouterr().out.endswith("mlp: the same run\n")
        found, = json.loads(files[0].read_text())
        assert found["verdict"] == "the same run" and found["first"] == "" and found["steps"] == 1
        assert found["environment"]["gpuprop"] == gpuprop.__version__
        assert {"dtype", "step", "layer", "what", "ratio"} <= found["rows"][0].keys()
        assert files[1].read_text().startswith("<!doctype html>")

    def test_command_of_a_file_that_differs(self, tmp_path, capsys):
        file = tmp_path / "mine.py"
        file.write_text("import gpuprop\nfrom gpuprop.verification._builtin_runs import mlp\n\ndef make_run():\n"
                        f"    gpuprop.manual_seed(gpuprop.backend.default_backend().name == {CANDIDATE!r})\n"
                        "    return mlp()\n\nother = mlp\n")
        assert main(["verify", str(file), "--candidate", CANDIDATE, "--steps", "1", "--json"]) == DIFFERS
        found, = json.loads(capsys.readouterr().out)
        assert found["first"].startswith("initial weights") and found["name"] == "make_run"
        assert main(["verify", f"{file}:other", "--candidate", CANDIDATE, "--steps", "1"]) == SAME

    def test_command_with_nothing_to_compare(self, capsys):
        assert main(["verify", "--candidate", "numpy"]) == NOTHING
        assert "nothing to compare" in capsys.readouterr().out

    @pytest.mark.parametrize("name, message", [
        ("lmp", "there is no run 'lmp'; known are mlp"), ("not_there.py", "No such file"),
        (f"{__file__}:absent", "has no attribute 'absent'")])
    def test_command_for_a_run_that_is_not_there(self, name, message, capsys):
        assert main(["verify", name]) == NOTHING
        assert message in capsys.readouterr().err
