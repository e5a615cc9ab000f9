"""`gpuprop verify`: equal runs pass, and injected errors are found and reported."""

import contextlib
import itertools
import json
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from tested_backends import BACKENDS

import gpuprop
from gpuprop import functional as F
from gpuprop import nn, optim
from gpuprop._array.activation import relu
from gpuprop._cli import main
from gpuprop._core.backend import Unavailable, forget_choices
from gpuprop._core.registry import _classes, default_backend, get_backend
from gpuprop.data import ArrayDataset, DataLoader
from gpuprop.functional._activation import gelu
from gpuprop.functional._dropout import dropout_by_key
from gpuprop.random import default_generator
from gpuprop.verification import DIFFERENT, NOT_COMPARED, SAME
from gpuprop.verification._builtin_runs import RUNS, mlp, supervised_run
from gpuprop.verification._comparison import max_difference
from gpuprop.verification._html_report import html_report
from gpuprop.verification._recorder import OUTSIDE
from gpuprop.verification._summation_order import ReorderedMatmul, SummationOrder
from gpuprop_numpy import NumpyBackend

CANDIDATE = BACKENDS[-1]
pytestmark = [pytest.mark.gpu] * (CANDIDATE == "cupy")
LAST_WEIGHT = (10, 48)  # the shape of the weight of the mlp's last layer, "6"


def verify(make_run=mlp, steps=1, **options):
    return gpuprop.verify(make_run, candidate=CANDIDATE, steps=steps, **options)


@contextlib.contextmanager
def override_on_candidate(op, override):
    """The candidate uses this override of an op."""
    backend = get_backend(CANDIDATE)
    before = backend.kernels
    backend.kernels = {**before, op.spec.name: override}
    forget_choices()
    try:
        yield
    finally:
        backend.kernels = before
        forget_choices()


def on_candidate():
    """True in the candidate's run."""
    return default_backend().name == CANDIDATE


class TestSameRuns:
    @pytest.mark.parametrize("name", RUNS)
    def test_built_in_runs_are_the_same(self, name):
        result = verify(RUNS[name], steps=3)
        assert result, str(result)
        assert result.status == SAME
        assert result.first_difference == ""
        assert result.steps == 3
        assert result.notes == []
        assert {t.dtype for t in result.tensors} == {"float64", "float32"}
        assert {b.kind for b in result.bitwise} == {"initial weights", "batches", "dropout masks"}
        assert str(result).endswith(": same training run")

    def test_attention_without_dropout_has_no_mask(self):
        def make_run():
            model = nn.Linear(8, 8)
            optimizer = optim.SGD(model.parameters(), lr=0.1)
            inputs = gpuprop.random.normal((2, 3, 8))

            def attend(x, target):
                y = model(x)
                return F.mse_loss(F.scaled_dot_product_attention(y, y, y, is_causal=True), target)

            def step(x, target):
                optimizer.zero_grad()
                loss = attend(x, target)
                loss.backward()
                optimizer.step()
                return loss

            return model, step, [(inputs, inputs)]

        result = verify(make_run)
        assert result, str(result)
        assert [b.kind for b in result.bitwise if b.kind == "dropout masks"] == []

    @pytest.mark.parametrize("seed", [0, 3, 7])
    def test_optimizer_that_amplifies_rounding(self, seed):
        """RMSprop divides small gradients by themselves: one other order may not show the noise."""
        def make_run():
            model = nn.Sequential(nn.Linear(50, 128), nn.ReLU(), nn.Dropout(0.2),
                                  nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
            inputs = gpuprop.random.normal((256, 50)).numpy()
            labels = gpuprop.random.integers(0, 10, 256).numpy()
            optimizer = optim.RMSprop(model.parameters())
            dataset = ArrayDataset(inputs, labels)
            return supervised_run(model, F.cross_entropy, optimizer, dataset, 32)

        result = verify(make_run, steps=4, seed=seed)
        assert result, str(result)

    def test_default_generator_is_restored(self):
        before = default_generator.get_state()
        verify()
        assert default_generator.get_state() == before

    def test_compared_tensors(self):
        found = [(t.phase, t.layer, t.tensor) for t in verify().tensors if t.dtype == "float64"]
        assert found[:3] == [
            ("forward", "0", "output"),
            ("forward", "1", "output"),
            ("forward", "2", "output"),
        ]
        assert found[7:14] == [
            ("forward", OUTSIDE, "returned value"),
            ("backward", "6", "gradient of output"),
            ("backward", "6", "gradient of weight"),
            ("backward", "6", "gradient of bias"),
            ("backward", "6", "gradient of input"),
            ("backward", "5", "gradient of input"),
            ("backward", "4", "gradient of input"),
        ]
        assert found[-1] == ("update", "6", "update of bias")

    def test_captured_step(self):
        def make_run():
            model, step, batches = mlp()
            return model, gpuprop.capture(step), batches

        assert verify(make_run, steps=4)


def change_last_linear(change):
    """The candidate's linear op with ``change(out, pullbacks)`` in the last layer."""
    def linear(xp, input, weight, bias=None):
        out, pullbacks = F.linear.fn(xp, input, weight, bias)
        return change(out, pullbacks) if weight.shape == LAST_WEIGHT else (out, pullbacks)

    return override_on_candidate(F.linear, linear)


def input_near_kink():
    """ReLU of 2**-26, which is 0 if the sum is computed in float32 as two halves."""
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.ReLU())
    model[0].weight.data[...] = 1
    x = np.array([[1, 2.0**-25, -1, -(2.0**-26)], [1, 2, 3, 4]], np.float32)

    def step(x):
        model(x).sum().backward()

    return model, step, [(gpuprop.tensor(x),)]


def test_gradients_on_both_sides_of_a_kink_are_accepted(monkeypatch):
    monkeypatch.setattr("gpuprop.verification.ORDER_SEEDS", ())
    result = verify(input_near_kink)
    assert result, str(result)
    monkeypatch.setattr("gpuprop.verification.with_gradients_of", lambda reference, _: reference)
    difference = verify(input_near_kink).first_difference
    assert "layer 1, gradient of input, step 0, float32" in difference


class TestDifferentRuns:
    def assert_first_difference(self, expected, make_run=mlp, **options):
        result = verify(make_run, **options)
        assert result.status == DIFFERENT and not result
        assert expected in result.first_difference
        assert result.first_difference in str(result)
        return result

    @pytest.mark.parametrize("i, name", [(0, "input"), (1, "weight"), (2, "bias")])
    def test_wrong_gradient_in_one_layer(self, i, name):
        def change(out, pullbacks):
            wrong = lambda dy: pullbacks[i](dy) * 1.000001
            return out, (*pullbacks[:i], wrong, *pullbacks[i + 1:])

        with change_last_linear(change):
            self.assert_first_difference(f"layer 6, gradient of {name}, step 0, float64")

    def test_wrong_gradient_of_an_activation(self):
        def wrong(xp, input, approximate="none"):
            out, _ = gelu.fn(xp, input, approximate=approximate)
            return out, (lambda dy: dy * (input > 0),)

        with override_on_candidate(gelu, wrong):
            self.assert_first_difference("layer 4, gradient of input, step 0")

    def test_wrong_gradient_at_a_kink(self):
        """In float32 only, where a difference due to the kink alone is accepted."""
        def wrong(xp, input, inplace=False):
            out, (pullback,) = relu.fn(xp, input)
            return out, (lambda dy: pullback(dy) * (1 + 0.001 * (dy.dtype == "float32")),)

        with override_on_candidate(relu, wrong):
            expected = "layer 1, gradient of input, step 0, float32"
            self.assert_first_difference(expected, input_near_kink)

    def test_output_rounded_to_float16(self):
        rounded = lambda a: a.astype("float16").astype(a.dtype)
        with change_last_linear(lambda out, pullbacks: (rounded(out), pullbacks)):
            result = self.assert_first_difference("layer 6, output, step 0, float64")
        in_float32 = [t for t in result.tensors if t.dtype == "float32" and t.layer == "6"]
        assert not all(t.same for t in in_float32)

    def test_output_rounded_to_float16_in_float32_only(self):
        rounded = lambda a: a.astype("float16").astype(a.dtype) if a.dtype == "float32" else a
        with change_last_linear(lambda out, pullbacks: (rounded(out), pullbacks)):
            self.assert_first_difference("layer 6, output, step 0, float32")

    def test_output_in_float16(self):
        def make_run():
            model, _, batches = mlp()
            if on_candidate():
                model[6].register_forward_hook(lambda module, args, out: out.astype("float16"))
            return model, lambda x, y: F.cross_entropy(model(x), y), batches

        self.assert_first_difference("has dtype float16", make_run)

    def test_float32_constant_in_a_float64_run(self):
        def change(out, pullbacks):
            return out + (out * 0 + 0.1).astype("float32") - 0.1, pullbacks

        with change_last_linear(change):
            self.assert_first_difference("layer 6, output, step 0, float64")

    def test_other_seed(self):
        def make_run():
            gpuprop.manual_seed(int(on_candidate()))
            return mlp()

        expected = "initial weights, 0.weight, step 0: not bit-identical"
        self.assert_first_difference(expected, make_run)

    def test_other_seed_after_the_weights(self):
        def make_run():
            run = mlp()
            gpuprop.manual_seed(int(on_candidate()))
            return run

        self.assert_first_difference("batches, batch 0, step 0", make_run)

    def test_other_dropout_masks(self):
        def wrong(xp, input, rng_key, p, leading=None):
            return dropout_by_key.fn(xp, input, rng_key + 1, p)

        with override_on_candidate(dropout_by_key, wrong):
            self.assert_first_difference("dropout masks, 2, step 0: not bit-identical")

    def test_other_update(self):
        def make_run():
            model, step, batches = mlp()

            def step_and_change(*batch):
                loss = step(*batch)
                if on_candidate():
                    bias = model[3].bias
                    bias.data[...] = bias.data * (1 + 1e-9)
                return loss

            return model, step_and_change, batches

        self.assert_first_difference("layer 3, update of bias, step 0", make_run)

    def test_error_in_a_later_step(self):
        def make_run():
            model, step, batches = mlp()
            count = itertools.count()

            def scaled(*batch):
                wrong = next(count) == 2 and on_candidate()
                return step(*batch) * (1 + 1e-6 * wrong)

            return model, scaled, batches

        self.assert_first_difference(f"{OUTSIDE}, returned value, step 2", make_run, steps=3)

    def test_nan(self):
        with change_last_linear(lambda out, pullbacks: (out / (out != out[0, 0]), pullbacks)):
            result = self.assert_first_difference("layer 6, output, step 0, float64: ratio inf")
        text = json.dumps(result.to_dict())
        assert "infinite" in text and "Infinity" not in text

    def test_other_layers(self):
        def make_run():
            model, step, batches = mlp()
            if on_candidate():
                model[4] = nn.Sequential(nn.GELU(), nn.Identity(), nn.Tanh())
            return model, step, batches

        self.assert_first_difference("layer 4, output, step 0", make_run)

    def test_error_names_the_run(self):
        def make_run():
            model, _, batches = mlp()
            return model, lambda x, y: 1 / (not on_candidate()), batches

        with pytest.raises(ZeroDivisionError) as error:
            verify(make_run)
        assert error.value.__notes__ == [f"in the run on {CANDIDATE!r}, in float64"]


class Block(nn.Module):
    """A block that is hard to record.

    It has a layer that is called twice, a residual connection, a buffer, several outputs, an
    unused layer and a layer that returns its input.
    """

    def __init__(self):
        self.layer = nn.Linear(6, 6)
        self.side = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)
        self.scale = gpuprop.Parameter(np.ones(6, np.float32))
        self.identity = nn.Identity()
        self.register_buffer("mean", gpuprop.zeros(6))

    def forward(self, x):
        if self.training:
            self.mean.data[...] = self.mean.data * 0.9 + x.data.mean(axis=0) * 0.1
        y = self.layer(self.identity(self.layer(x))) + self.side(x)
        return {"y": y * self.scale, "label": y.argmax(axis=-1)}, (x,)


def block_run():
    model = nn.Sequential(nn.Linear(4, 6), Block())
    model[0].bias.requires_grad_(False)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(batch):
        optimizer.zero_grad()
        out, _ = model(batch["x"])
        for loss in (out["y"] ** 2).mean(), out["y"].sum() * 0.01:
            loss.backward(retain_graph=True)
        optimizer.step()
        return {"nothing": None}

    x = gpuprop.random.normal((3, 8, 4))
    return model, step, [{"x": x[i]} for i in range(3)]


class TestRecording:
    def test_recorded_tensors_of_a_block(self):
        result = verify(block_run, steps=3)
        assert result, str(result)
        names = {f"{t.layer} {t.tensor}" for t in result.tensors}
        assert names >= {
            "1.layer output",
            "1.layer (call 2) output",
            "1 output 0",
            "1 output 1",
            "1 gradient of scale",
            "1 gradient of scale (backward 2)",
            "1 change of buffer mean",
            "0 update of bias",
        }
        assert names.isdisjoint(
            {"0 gradient of bias", "1.identity output", "1.unused output", "1 output 2"})

    def test_gradient_of_an_input_belongs_to_the_first_innermost_layer(self):
        tensors = verify(block_run).tensors
        names = {(t.layer, t.tensor) for t in tensors if t.phase == "backward"}
        assert ("1.layer", "gradient of input") in names
        assert ("1", "gradient of input") not in names
        assert ("1.side", "gradient of input") not in names
        assert ("0", "gradient of output") not in names

    def test_batch_with_other_values_than_arrays(self):
        def make_run():
            model = nn.Linear(3, 1)

            def step(x, options):
                assert isinstance(options["times"], int) and options["name"] is None
                loss = model(x).sum() * options["times"]
                loss.backward()
                return loss.item()

            return model, step, [(gpuprop.ones((5, 3)), {"times": 2, "name": None})]

        assert verify(make_run)

    def test_numpy_as_candidate(self):
        assert gpuprop.verify(block_run, reference=CANDIDATE, candidate="numpy", steps=2)

    def test_numpy_batches_from_an_iterator(self):
        def make_run():
            model = nn.Linear(3, 1)

            def step(x):
                loss = model(gpuprop.tensor(x)).sum()
                loss.backward()
                return loss

            return model, step, iter(np.ones((2, 5, 3), np.float32))

        assert verify(make_run, steps=9).steps == 2


class TestSummationOrder:
    @pytest.mark.parametrize("compute", [
        lambda a: a,
        lambda a: a.reshape(24, 8),
        lambda a: np.moveaxis(a, 0, 1),
        lambda a: a.reshape(4, 48)[:, 0],
        lambda a: np.sort(a, axis=0).mean(axis=0),
    ])
    def test_samples_are_restored(self, compute):
        order = SummationOrder(4, 1)
        a = np.arange(4 * 6 * 8.0).reshape(4, 6, 8)
        permuted = order.permute_batch(a)
        assert max_difference(permuted, a) > 0
        originals = order.possible_originals(compute(permuted))
        assert min(max_difference(original, compute(a)) for original in originals) == 0

    @pytest.mark.parametrize("a, b", [
        ((3, 5), (5, 2)), ((5,), (5, 2)), ((3, 5), (5,)), ((2, 3, 5), (2, 5, 4)), ((5,), (5,))])
    def test_matmul_in_another_order(self, a, b, rng):
        a = rng.standard_normal(a)
        b = rng.standard_normal(b)
        xp = ReorderedMatmul(get_backend("numpy"), np.random.default_rng(0))
        np.testing.assert_allclose(xp.matmul(a, b), np.matmul(a, b), rtol=1e-13, atol=1e-14)
        assert xp.exp is np.exp

    def test_dropout_masks_follow_their_samples(self):
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
        masks = [b.name for b in result.bitwise if b.kind == "dropout masks"]
        assert masks == ["1", OUTSIDE]

    @pytest.mark.parametrize("n", [6, 5])
    def test_note_where_samples_cannot_be_permuted(self, n):
        def make_run():
            model = nn.Linear(3, 2)

            def step(x, y):
                loss = (model(x - x[0]) ** 2).mean() + y.sum()
                loss.backward()
                return loss

            batch = gpuprop.random.normal((6, 3)), gpuprop.random.normal((n, 3))
            return model, step, [batch]

        result = verify(make_run)
        assert result and "samples were not permuted" in result.notes[0]


class TestNotCompared:
    def test_same_backend_twice(self):
        result = gpuprop.verify(mlp, reference="numpy", candidate="numpy")
        assert not result and result.status == NOT_COMPARED and result.steps == 0
        assert "same backend, 'numpy'" in str(result)

    def test_no_batches(self):
        result = verify(lambda: (nn.Linear(1, 1), None, []))
        assert "no batches" in result.notes[0]

    def test_unavailable_backend(self, monkeypatch):
        class Absent(NumpyBackend):
            is_available = classmethod(lambda cls: Unavailable("no usable CUDA device"))

        monkeypatch.setitem(_classes, "absent", Absent)
        assert "no usable CUDA device" in gpuprop.verify(mlp, candidate="absent").notes[0]

    def test_unknown_backend(self):
        assert "unknown backend 'coppy'" in str(gpuprop.verify(mlp, candidate="coppy"))

    def test_run_that_chooses_its_backend(self):
        def make_run():
            gpuprop.use("numpy")
            return mlp()

        with pytest.raises(RuntimeError, match="must not choose a backend"):
            verify(make_run)


@pytest.mark.parametrize("a, b, difference", [
    ([1, 2], [1, 2.5], 0.5),
    ([np.nan, np.inf], [np.nan, np.inf], 0),
    ([np.nan], [1], np.inf),
    ([1], [np.inf], np.inf),
    ([np.inf], [-np.inf], np.inf),
    ([], [], 0),
    ([1], [1, 2], np.inf),
    ([True], [False], 1),
])
def test_max_difference(a, b, difference):
    assert max_difference(np.array(a), np.array(b)) == difference


class PageChecker(HTMLParser):
    """Checks that elements are closed and that nothing is loaded from elsewhere."""

    CLOSED = ("html", "h1", "h2", "h3", "p", "pre", "b", "span", "div", "table", "style", "thead",
              "title")

    def __init__(self):
        super().__init__()
        self.open = []
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert tag not in ("script", "link", "img") and "src" not in dict(attrs)
        if tag in self.CLOSED:
            self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open[-1] == "thead" != tag:  # its end tag is optional
            self.open.pop()
        assert self.open.pop() == tag


class TestReports:
    def test_html(self):
        rounded = lambda a: a.astype("float16").astype(a.dtype)
        with change_last_linear(lambda out, pullbacks: (rounded(out), pullbacks)):
            results = [verify(name="<mlp>"), gpuprop.verify(mlp, candidate="numpy")]
        text = html_report(results)
        checker = PageChecker()
        checker.feed(text)
        assert checker.open == [] and checker.tags.count("table") == 2
        assert "&lt;mlp&gt;" in text and "<mlp>" not in text
        assert 'class="verdict s1">different training runs' in text
        assert 'class="verdict s2">not compared' in text
        assert "First difference: <b>layer 6, output, step 0" in text
        assert 'class="r bad"' in text and "gpuprop: " + gpuprop.__version__ in text

    def test_command(self, tmp_path, capsys):
        json_file = tmp_path / "result.json"
        html_file = tmp_path / "page.html"
        status = main(["verify", "mlp", "--candidate", CANDIDATE, "--steps", "1",
                       "--json", str(json_file), "--html", str(html_file)])
        assert status == SAME
        assert capsys.readouterr().out.endswith("mlp: same training run\n")
        found, = json.loads(json_file.read_text())
        assert found["verdict"] == "same training run" and found["first_difference"] == ""
        assert found["steps"] == 1
        assert found["environment"]["gpuprop"] == gpuprop.__version__
        keys = {"dtype", "step", "layer", "tensor", "difference", "noise", "ratio"}
        assert keys <= found["tensors"][0].keys()
        assert html_file.read_text().startswith("<!doctype html>")

    def test_command_with_a_file(self, tmp_path, capsys):
        file = tmp_path / "mine.py"
        file.write_text(
            "import gpuprop\n"
            "from gpuprop.verification._builtin_runs import mlp\n"
            "def make_run():\n"
            "    name = gpuprop.backend.default_backend().name\n"
            f"    gpuprop.manual_seed(int(name == {CANDIDATE!r}))\n"
            "    return mlp()\n"
            "other = mlp\n")
        options = ["--candidate", CANDIDATE, "--steps", "1"]
        assert main(["verify", str(file), *options, "--json"]) == DIFFERENT
        found, = json.loads(capsys.readouterr().out)
        assert found["first_difference"].startswith("initial weights")
        assert found["name"] == "make_run"
        assert main(["verify", f"{file}:other", *options]) == SAME

    def test_command_with_a_file_that_imports_its_neighbours(self, tmp_path):
        """As `python mine.py` does; a dataclass looks for its module in sys.modules."""
        (tmp_path / "neighbour_of_mine.py").write_text(
            "from gpuprop.verification._builtin_runs import mlp\n")
        file = tmp_path / "mine.py"
        file.write_text(
            "from __future__ import annotations\n"
            "from dataclasses import dataclass\n"
            "from neighbour_of_mine import mlp as make_run\n"
            "@dataclass\n"
            "class Options:\n"
            "    width: int = 3\n")
        path = sys.path.copy()
        try:
            assert main(["verify", str(file), "--candidate", CANDIDATE, "--steps", "1"]) == SAME
        finally:
            sys.path[:] = path
            sys.modules.pop("neighbour_of_mine", None)

    def test_command_with_the_same_backend_twice(self, capsys):
        assert main(["verify", "--candidate", "numpy"]) == NOT_COMPARED
        assert "not compared" in capsys.readouterr().out

    @pytest.mark.parametrize("name, message", [
        ("lmp", "unknown run 'lmp'"),
        ("not_there.py", "no file 'not_there.py'"),
        (f"{__file__}:absent", "has no function 'absent'"),
    ])
    def test_command_with_an_unknown_run(self, name, message, capsys):
        assert main(["verify", name]) == NOT_COMPARED
        assert message in capsys.readouterr().err


    @pytest.mark.parametrize("option", ["--html", "--json"])
    def test_command_refuses_a_file_that_cannot_be_written(self, option, tmp_path, capsys):
        for path in (tmp_path / "absent" / "file", tmp_path):
            with pytest.raises(SystemExit):
                main(["verify", "mlp", "--candidate", CANDIDATE, option, str(path)])
            assert f"cannot write to {str(path)!r}" in capsys.readouterr().err

    @pytest.mark.parametrize("option", ["--steps", "--seed"])
    def test_command_refuses_other_numbers(self, option, capsys):
        for value in ("-1", "1.5", "many"):
            with pytest.raises(SystemExit):
                main(["verify", f"{option}={value}"])
            assert f"got {value!r}" in capsys.readouterr().err

    def test_an_error_in_the_file_of_a_run_is_raised(self, tmp_path):
        file = tmp_path / "mine.py"
        file.write_text("import gpuprop\ngpuprop.nothing_of_this_name\n")
        with pytest.raises(AttributeError, match="nothing_of_this_name"):
            main(["verify", str(file)])

    def test_a_difference_prevails_over_a_run_that_is_not_compared(self, tmp_path):
        file = tmp_path / "mine.py"
        file.write_text(
            "import gpuprop\n"
            "from gpuprop.verification._builtin_runs import mlp\n"
            "def different():\n"
            "    name = gpuprop.backend.default_backend().name\n"
            f"    gpuprop.manual_seed(int(name == {CANDIDATE!r}))\n"
            "    return mlp()\n"
            "def without_batches():\n"
            "    return (*mlp()[:2], [])\n")
        runs = [f"{file}:different", f"{file}:without_batches"]
        options = ["--candidate", CANDIDATE, "--steps", "1"]
        assert main(["verify", runs[1], *options]) == NOT_COMPARED
        assert main(["verify", *runs, *options]) == DIFFERENT


def test_a_dropout_mask_that_only_the_candidate_draws():
    class Twice(nn.Module):
        def __init__(self):
            self.linear = nn.Linear(4, 4)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            y = self.drop(self.linear(x))
            if on_candidate():
                self.drop(y.detach())
            return y

    def make_run():
        model = Twice()
        data = ArrayDataset(np.ones((4, 4), "float32"), np.zeros(4, "int64"))
        return supervised_run(model, F.cross_entropy, optim.SGD(model.parameters()), data, 2)

    result = verify(make_run)
    masks = [b for b in result.bitwise if b.kind == "dropout masks"]
    assert not result
    assert [b.same for b in masks] == [True, False] * (len(masks) // 2)


def test_a_negative_number_of_steps():
    with pytest.raises(ValueError, match=r"steps.*-1"):
        verify(steps=-1)


@pytest.mark.parametrize("option", ["steps", "seed"])
@pytest.mark.parametrize("value", [None, "1", -1, 1.5, True])
def test_verify_refuses_other_numbers(option, value):
    with pytest.raises((TypeError, ValueError), match=f"verify: {option} must be .* got {value!r}"):
        verify(lambda: 1 / 0, **{option: value})


def test_gradients_of_inputs_in_a_loss():
    """`grad` calls the layers with Tensors of Tensors."""
    def run():
        model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))
        optimizer = optim.SGD(model.parameters(), 0.1)

        points = gpuprop.random.normal((12, 2)).numpy()

        def step(x):
            optimizer.zero_grad()
            slope = gpuprop.grad(lambda x: model(x).sum())(x)
            loss = ((slope - 1)**2).mean()
            loss.backward()
            optimizer.step()
            return loss

        return model, step, DataLoader(ArrayDataset(points), 4)

    assert verify(run, steps=3)
