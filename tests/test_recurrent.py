"""Recurrent layers and packed sequences: against loops of cells, states, dropout, capture, errors.

The oracle compares values with PyTorch's.
"""

import copy
import pickle

import numpy as np
import pytest
from check_raises import check_raises

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop._capture import capture
from gpuprop._core.registry import get_backend
from gpuprop.backend import cache_last
from gpuprop.functional._recurrent import CELLS
from gpuprop.nn.utils.rnn import (
    PackedSequence,
    invert_permutation,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
    unpad_sequence,
)
from gpuprop.testing import check_training

LAYERS = {
    "RNN_TANH": (nn.RNN, nn.RNNCell, {}),
    "RNN_RELU": (nn.RNN, nn.RNNCell, {"nonlinearity": "relu"}),
    "LSTM": (nn.LSTM, nn.LSTMCell, {}),
    "GRU": (nn.GRU, nn.GRUCell, {}),
}
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
X = np.random.default_rng(0).standard_normal((5, 3, 4)).astype("float32")  # (T, N, input_size)
LENGTHS = [3, 5, 2]


def parts(states):
    return states if isinstance(states, tuple) else (states,)


def values(result):
    output, states = result
    data = output.data if isinstance(output, PackedSequence) else output
    return [data.numpy(), *(s.numpy() for s in parts(states))]


def same(results, others, **tolerance):
    for a, b in zip(results, others, strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-6} | tolerance)


def test_every_cell_is_tested():
    assert LAYERS.keys() == CELLS.keys()


# ---- against a loop over steps -------------------------------------------------------------------


def loop(cell, x, lengths, reverse):
    """Run the cell step by step on padded sequences; a mask keeps the states beyond their ends."""
    shape = (x.shape[1], cell.hidden_size)
    states = tuple(gpuprop.zeros(shape, "float64") for _ in range(CELLS[cell.mode].states))
    outputs = [None] * len(x)
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        active = gpuprop.tensor([[t < n] for n in lengths])
        results = parts(cell(x[t], states if len(states) > 1 else states[0]))
        states = tuple(
            gpuprop.where(active, new, old) for new, old in zip(results, states, strict=True))
        outputs[t] = gpuprop.where(active, results[0], 0.0)
    return [gpuprop.stack(outputs), *states]


@pytest.mark.parametrize("mode", LAYERS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [LENGTHS, [5, 5, 5], [1, 1, 5], [4, 2, 1]])
def test_packed_equals_loop_with_mask(mode, reverse, lengths, backend):
    layer_of, cell_of, options = LAYERS[mode]
    layer = layer_of(4, 6, bidirectional=True, dtype="float64", **options)
    cell = cell_of(4, 6, dtype="float64", **options)
    suffix = "_l0_reverse" if reverse else "_l0"
    cell.load_state_dict({n: getattr(layer, n + suffix) for n in NAMES})
    x, y = (gpuprop.tensor(X, "float64", requires_grad=True) for _ in range(2))

    output, states = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
    padded, found = pad_packed_sequence(output, total_length=5)
    assert found.tolist() == lengths
    direction = slice(6, 12) if reverse else slice(0, 6)
    got = [padded[..., direction], *(s[int(reverse)] for s in parts(states))]
    want = loop(cell, y, lengths, reverse)
    for results in got, want:
        sum((r * (1 + i) * gpuprop.sin(r)).sum() for i, r in enumerate(results)).backward()
    tight = {"rtol": 1e-12, "atol": 1e-13}
    same([r.numpy() for r in got], [r.numpy() for r in want], **tight)

    def gradients(module, input, suffix):
        arrays = [input.grad, *(getattr(module, n + suffix).grad for n in NAMES)]
        return [gpuprop.asnumpy(a) for a in arrays]

    same(gradients(layer, x, suffix), gradients(cell, y, ""), **tight)


@pytest.mark.parametrize("mode", LAYERS)
def test_packed_sequences_of_equal_lengths_equal_a_batch(mode):
    """Bit for bit."""
    layer = LAYERS[mode][0](4, 6, 2, bidirectional=True, **LAYERS[mode][2])
    padded = values(layer(gpuprop.tensor(X)))
    packed = values(layer(pack_padded_sequence(gpuprop.tensor(X), [5, 5, 5])))
    same([packed[0].reshape(padded[0].shape), *packed[1:]], padded, rtol=0, atol=0)


@pytest.mark.parametrize("mode", LAYERS)
def test_permuted_batch_gives_permuted_results(mode):
    """The states are in the order of the batch, whatever the order of lengths."""
    layer = LAYERS[mode][0](4, 6, 2, bidirectional=True, **LAYERS[mode][2])
    states = [gpuprop.random.normal((4, 3, 6)) for _ in range(CELLS[mode].states)]
    results = []
    for order in [0, 1, 2], [1, 0, 2]:
        lengths = [LENGTHS[i] for i in order]
        batch = pack_padded_sequence(gpuprop.tensor(X[:, order]), lengths, enforce_sorted=False)
        permuted = [s[:, order] for s in states]
        output, last = layer(batch, permuted[0] if len(permuted) == 1 else tuple(permuted))
        padded, _ = pad_packed_sequence(output)
        inverse = np.argsort(order)
        results.append([a.numpy()[:, inverse] for a in (padded, *parts(last))])
    same(*results)


@pytest.mark.parametrize("mode", LAYERS)
def test_batch_first_and_unbatched_input(mode):
    layer_of, _, options = LAYERS[mode]
    layer = layer_of(4, 6, 2, bidirectional=True, **options)
    first = layer_of(4, 6, 2, bidirectional=True, batch_first=True, **options)
    first.load_state_dict(layer.state_dict())
    output, *states = values(layer(gpuprop.tensor(X)))
    swapped, *others = values(first(gpuprop.tensor(X.swapaxes(0, 1))))
    same([swapped.swapaxes(0, 1), *others], [output, *states])
    single, *others = values(layer(gpuprop.tensor(X[:, 1])))
    same([single, *others], [output[:, 1], *(s[:, 1] for s in states)])
    same(values(layer(X)), [output, *states])  # an array


@pytest.mark.parametrize("mode", LAYERS)
def test_cell_accepts_unbatched_input(mode):
    cell = LAYERS[mode][1](4, 6, **LAYERS[mode][2])
    many = [s.numpy() for s in parts(cell(gpuprop.tensor(X[0])))]
    one = [s.numpy() for s in parts(cell(gpuprop.tensor(X[0, 2])))]
    same(one, [s[2] for s in many])


# ---- states --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", LAYERS)
def test_state_carried_over_windows(mode, backend):
    """Two windows equal one sequence, in values and, without detach, in gradients."""
    layer = LAYERS[mode][0](4, 6, 2, **LAYERS[mode][2])
    whole, *last = values(layer(gpuprop.tensor(X)))
    layer(gpuprop.tensor(X))[0].sum().backward()
    want = [gpuprop.asnumpy(p.grad) for p in layer.parameters()]
    layer.zero_grad()
    one, state = layer(gpuprop.tensor(X[:2]))
    two, state = layer(gpuprop.tensor(X[2:]), state)
    (one.sum() + two.sum()).backward()
    output = np.concatenate([one.numpy(), two.numpy()])
    same([output, *(s.numpy() for s in parts(state))], [whole, *last])
    same([gpuprop.asnumpy(p.grad) for p in layer.parameters()], want, rtol=1e-4, atol=1e-4)


def test_gradient_stops_at_a_detached_state():
    layer, x = nn.LSTM(4, 6), gpuprop.tensor(X, requires_grad=True)
    _, (h, c) = layer(x[:2])
    layer(x[2:], (h.detach(), c.detach()))[0].sum().backward()
    assert np.all(x.grad[:2] == 0) and np.all(x.grad[2:] != 0)


def test_empty_batch():
    output, (h, c) = nn.LSTM(4, 6, bidirectional=True)(gpuprop.zeros((5, 0, 4)))
    assert (output.shape, h.shape, c.shape) == ((5, 0, 12), (2, 0, 6), (2, 0, 6))


def test_second_order_gradients(backend):
    layer = nn.LSTM(4, 3, 2, bidirectional=True, dtype="float64")
    x = gpuprop.tensor(X[:3], "float64").data
    norm = lambda x: (gpuprop.grad(lambda x: (layer(x)[0] ** 2).sum())(x) ** 2).sum()
    slope = gpuprop.asnumpy(gpuprop.grad(norm)(x))
    u = np.random.default_rng(1).standard_normal(X[:3].shape)
    step = 1e-6 * get_backend(backend.name).asarray(u)
    difference = gpuprop.asnumpy(norm(x + step)) - gpuprop.asnumpy(norm(x - step))
    np.testing.assert_allclose((slope * u).sum(), difference / 2e-6, rtol=1e-6)


# ---- dropout, modes, initial values --------------------------------------------------------------


@pytest.mark.parametrize("layer_of", [nn.RNN, nn.LSTM, nn.GRU])
def test_dropout_with_one_layer_warns(layer_of):
    with pytest.warns(UserWarning, match=rf"{layer_of.__name__}: dropout=0.5 .*num_layers.*1"):
        layer_of(4, 6, dropout=0.5)


def test_dropout_is_between_layers_in_training(backend):
    layer, x = nn.GRU(4, 6, 2, dropout=1.0), gpuprop.tensor(X)
    first = layer(x)[1][0].numpy()
    same([layer(x)[0].numpy()], [layer(x * 2)[0].numpy()])  # the second layer sees zeros only
    layer.eval()
    same([layer(x)[1][0].numpy()], [first])
    assert np.abs(layer(x)[0].numpy() - layer(x * 2)[0].numpy()).max() > 0.01


def test_dropout_uses_its_generator(backend):
    def draw(seed):
        layer = nn.LSTM(4, 6, 3, dropout=0.5, rng=gpuprop.random.Generator(seed))
        return layer(gpuprop.tensor(X))[0].numpy()

    np.testing.assert_array_equal(draw(3), draw(3))
    assert np.any(draw(3) != draw(4))
    layer = nn.LSTM(4, 6, 2, dropout=0.5)
    assert np.any(layer(gpuprop.tensor(X))[0].numpy() != layer(gpuprop.tensor(X))[0].numpy())


@pytest.mark.parametrize("make", [
    lambda: nn.LSTM(50, 100, 2), lambda: nn.GRUCell(50, 100), lambda: nn.RNN(50, 100)])
def test_initial_values_are_uniform(make):
    for p in make().parameters():
        values = p.numpy()
        assert 0.09 < np.abs(values).max() <= 0.1 and abs(values.mean()) < 0.02
        np.testing.assert_allclose(values.std(), 0.1 / np.sqrt(3), rtol=0.15)


def test_autocast():
    layer = nn.LSTM(4, 6, 2)
    with gpuprop.autocast():
        output, (_, c) = layer(gpuprop.tensor(X))
    assert output.dtype == c.dtype == "float16"
    output.sum().backward()
    assert all(p.grad.dtype == "float32" for p in layer.parameters())


def test_methods_of_pytorch_layers():
    layer = nn.LSTM(4, 6, 2, bias=False, proj_size=3, bidirectional=True)
    assert layer.flatten_parameters() is None
    assert [w for group in layer.all_weights for w in group] == [*layer.parameters()]
    assert len(layer.all_weights) == 4
    assert nn.GRUCell(4, 6, bias=False).bias_ih is None
    again = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
    x = gpuprop.tensor(X)
    np.testing.assert_array_equal(again(x)[0].numpy(), layer(x)[0].numpy())


def test_cache_last_keeps_the_last_result():
    calls = []
    double = cache_last(lambda d: calls.append(d) or [d, d])
    a, b = [1], [1]
    assert double(a) is double(a) and double(b) is not double(a)
    assert [c is a for c in calls] == [True, False, True]


# ---- capture -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer_of", [nn.RNN, nn.LSTM, nn.GRU])
def test_captured_training_step(layer_of, recorder):
    """Equal to the eager step bit for bit, without synchronization."""

    class Tagger(nn.Module):
        def __init__(self):
            self.layer = layer_of(4, 6, 2, dropout=0.25, bidirectional=True)
            self.head = nn.Linear(12, 3)

        def forward(self, x):
            packed = pack_padded_sequence(x, [5, 3, 2])
            rows = pad_packed_sequence(self.layer(packed)[0])[0] + self.layer(x)[0]
            return self.head(rows)

    def make():
        model = Tagger()
        optimizer = optim.Adam(model.parameters(), lr=0.05)

        def step(x, labels):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x).reshape(15, 3), labels.reshape(15))
            loss.backward()
            optimizer.step()
            return loss

        return model, optimizer, step

    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal(X.shape).astype("float32"), rng.integers(0, 3, (5, 3)))
               for _ in range(6)]
    check_training(make, batches, backend=recorder)


def test_captured_layer_carries_its_state(backend):
    layer = nn.LSTM(4, 6, 2, bidirectional=True)
    step = capture(lambda x, h, c: layer(x, (h, c)))
    want = got = tuple(gpuprop.zeros((4, 3, 6)) for _ in range(2))
    for seed in range(4):
        x = gpuprop.random.Generator(seed).normal((5, 3, 4))
        expected, want = layer(x, want)
        output, got = step(x, *got)
        np.testing.assert_array_equal(output.numpy(), expected.numpy())
        same([s.numpy() for s in got], [s.numpy() for s in want], rtol=0, atol=0)


def test_captured_step_accepts_packed_sequences():
    """On NumPy, where capture runs the step itself; a device rejects `batch_sizes` on the host."""
    layer = nn.GRU(4, 6)
    batch = pack_padded_sequence(gpuprop.tensor(X), LENGTHS, enforce_sorted=False)
    output, state = capture(layer)(batch)
    assert isinstance(output, PackedSequence)
    same([output.data.numpy(), state.numpy()], values(layer(batch)), rtol=0, atol=0)


# ---- packed and padded sequences -----------------------------------------------------------------


def test_packed_rows(backend):
    """The example in PyTorch's documentation."""
    sequences = gpuprop.tensor([[1, 2, 0], [3, 0, 0], [4, 5, 6]])
    packed = pack_padded_sequence(sequences, [2, 1, 3], batch_first=True, enforce_sorted=False)
    assert [p.tolist() for p in packed] == [[4, 1, 3, 5, 2, 6], [3, 2, 1], [2, 0, 1], [1, 2, 0]]
    assert packed.data.device == packed.sorted_indices.device == sequences.device
    assert packed.batch_sizes.device == "numpy"
    padded, lengths = pad_packed_sequence(
        packed, batch_first=True, padding_value=-1, total_length=4)
    assert padded.tolist() == [[1, 2, -1, -1], [3, -1, -1, -1], [4, 5, 6, -1]]
    assert lengths.tolist() == [2, 1, 3]
    assert [s.tolist() for s in unpack_sequence(packed)] == [[1, 2], [3], [4, 5, 6]]


def test_padding(backend):
    sequences = [gpuprop.tensor(X[:n, 0]) for n in LENGTHS]
    padded = pad_sequence(sequences, batch_first=True, padding_value=7.0, padding_side="left")
    assert padded.shape == (3, 5, 4)
    assert np.all(padded.numpy()[0, :2] == 7)
    np.testing.assert_array_equal(padded.numpy()[2, 3:], X[:2, 0])
    back = unpad_sequence(pad_sequence(sequences), gpuprop.tensor(LENGTHS).cpu())
    assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(back, sequences, strict=True))
    assert pad_sequence(iter(sequences)).shape == (5, 3, 4)
    assert [len(s) for s in unpad_sequence(gpuprop.tensor(X), [0, 9, -2])] == [0, 5, 0]


def test_packing_integers_and_excess_padding(backend):
    labels = gpuprop.tensor(np.arange(12).reshape(4, 3))
    packed = pack_padded_sequence(labels, np.array([3, 2, 1]))
    assert packed.data.tolist() == [0, 1, 2, 3, 4, 6]
    assert packed.data.dtype == "int64"
    assert packed.sorted_indices is packed.unsorted_indices is None


def test_packed_sequence_to_pickle_and_constructor():
    packed = pack_sequence([gpuprop.tensor(X[:n, 0]) for n in LENGTHS], enforce_sorted=False)
    assert packed.to("float32") is packed and packed.cpu() is packed
    for method, dtype in (("half", "float16"), ("float", "float32"), ("double", "float64"),
                          ("int", "int32"), ("long", "int64")):
        assert getattr(packed, method)().data.dtype == dtype
    moved = packed.to("strict")
    assert [p.device.partition(":")[0] for p in moved] == ["strict", "numpy", "strict", "strict"]
    again = PackedSequence(packed.data * 2, packed.batch_sizes, packed.sorted_indices)
    assert again.unsorted_indices.tolist() == packed.unsorted_indices.tolist()
    assert isinstance(again, tuple)
    assert invert_permutation(None) is None
    assert [p.tolist() for p in pickle.loads(pickle.dumps(packed))] == [p.tolist() for p in packed]


def test_gradients_pass_through_packing():
    x = gpuprop.tensor(X, requires_grad=True)
    padded, _ = pad_packed_sequence(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))
    (padded * 3).sum().backward()
    want = np.array([[[3.0 * (t < n)] * 4 for n in LENGTHS] for t in range(5)])
    np.testing.assert_array_equal(x.grad, want)


# ---- errors --------------------------------------------------------------------------------------

T = lambda *shape, dtype="float32": gpuprop.zeros(shape, dtype)
packed = lambda *sizes, features=4: PackedSequence(T(sum(sizes), features), np.array(sizes, int))

REFUSED = [
    (lambda: nn.LSTM(4, 6)(T(4)), ["LSTM", "input", "(4,)"]),
    (lambda: nn.GRU(4, 6)(T(2, 3, 4, 1)), ["GRU", "input", "(2, 3, 4, 1)"]),
    (lambda: nn.RNN(4, 6)(T(0, 3, 4)), ["RNN", "input (0, 3, 4)", "steps"]),
    (lambda: nn.LSTM(4, 6)(T(5, 3, 5)), ["LSTM", "input (5, 3, 5)", "5 features", "input_size"]),
    (lambda: nn.LSTM(4, 6)(packed(2, 1, features=3)), ["LSTM", "3 features", "input_size"]),
    (lambda: nn.LSTM(4, 6)(packed(1, 2)), ["LSTM", "descending batch_sizes", "(1, 2)"]),
    (lambda: nn.LSTM(4, 6)(packed()), ["LSTM", "descending batch_sizes", "()"]),
    (lambda: nn.LSTM(4, 6)(packed(3, -1)), ["LSTM", "descending batch_sizes", "(3, -1)"]),
    (lambda: nn.LSTM(4, 6)(PackedSequence(T(3, 4), [1.0])), ["batch_sizes", "integers", "float64"]),
    (lambda: nn.LSTM(4, 6)(PackedSequence(T(4, 4), [2, 1])), ["LSTM", "data (3, 4)", "(4, 4)"]),
    (lambda: nn.LSTM(4, 6)(T(5, 3, 4, dtype="float64")),
     ["LSTM", "float64", "float32", "input.astype"]),
    (lambda: nn.GRU(4, 6)(T(5, 3, 4), T(1, 3, 6, dtype="float64")),
     ["GRU", "float32", "hx", "float64"]),
    (lambda: nn.LSTM(4, 6)(T(5, 3, 4), (T(1, 3, 6), T(1, 3, 6, dtype="float16"))),
     ["LSTM", "hx", "float16"]),
    (lambda: nn.GRU(4, 6, 2)(T(5, 3, 4), T(1, 3, 6)), ["GRU", "hx", "(2, 3, 6)", "(1, 3, 6)"]),
    (lambda: nn.GRU(4, 6)(T(5, 4), T(1, 1, 6)), ["GRU", "hx", "(1, 6)", "(1, 1, 6)"]),
    (lambda: nn.GRU(4, 6)(packed(2, 1), T(1, 3, 6)), ["GRU", "hx", "(1, 2, 6)", "(1, 3, 6)"]),
    (lambda: nn.GRU(4, 6)(T(5, 3, 4), (T(1, 3, 6), T(1, 3, 6))), ["GRU", "hx", "one state", "2"]),
    (lambda: nn.LSTM(4, 6)(T(5, 3, 4), T(1, 3, 6)), ["LSTM", "(h, c)", "1"]),
    (lambda: nn.LSTM(4, 6, proj_size=2)(T(5, 3, 4), (T(1, 3, 2), T(1, 3, 2))),
     ["hx[1]", "(1, 3, 6)", "(1, 3, 2)"]),
    (lambda: nn.LSTMCell(4, 6)(T(3, 4), (T(3, 6), T(2, 6))),
     ["LSTMCell", "hx[1]", "(3, 6)", "(2, 6)"]),
    (lambda: nn.GRUCell(4, 6)(T(3, 1, 4)), ["GRUCell", "input", "(N, 4)", "(3, 1, 4)"]),
    (lambda: nn.RNNCell(4, 6)(T(3, 5)), ["RNNCell", "input", "(N, 4)", "(3, 5)"]),
    (lambda: nn.RNN(4, 6, nonlinearity="sigmoid"), ["RNN", "nonlinearity", "'sigmoid'"]),
    (lambda: nn.RNNCell(4, 6, nonlinearity="gelu"), ["RNNCell", "nonlinearity", "'gelu'"]),
    (lambda: nn.RNNBase("BERT", 4, 6), ["RNNBase", "mode", "LSTM", "'BERT'"]),
    (lambda: nn.LSTM(4.0, 6), ["LSTM", "input_size", "integer", "4.0"]),
    (lambda: nn.LSTM(4, 6, bias=2), ["LSTM", "bias", "True or False", "2"]),
    (lambda: nn.LSTM(4, 6)(T(5, 3, 4), (5, 5)), ["LSTM: hx[0]", "Tensor or an array", "5"]),
    (lambda: nn.GRUCell(4, 6)(T(3, 4), "text"), ["GRUCell: hx", "Tensor or an array"]),
    (lambda: nn.LSTM(0, 6), ["LSTM", "input_size", "0"]),
    (lambda: nn.LSTM(4, 6, -1), ["LSTM", "num_layers", "-1"]),
    (lambda: nn.LSTM(4, 6, 2, dropout=1.5), ["LSTM", "dropout", "[0, 1]", "1.5"]),
    (lambda: nn.LSTM(4, 6, 2, dropout=True), ["LSTM", "dropout", "True"]),
    (lambda: nn.LSTM(4, 6, proj_size=6), ["LSTM", "proj_size", "hidden_size=6"]),
    (lambda: nn.RNNBase("GRU", 4, 6, proj_size=2), ["proj_size", "LSTM"]),
    (lambda: pack_padded_sequence(T(5, 3, 4), [5, 3]), ["3 sequences", "lengths", "2"]),
    (lambda: pack_padded_sequence(T(5, 3, 4), [5, 3, 0]), ["lengths", "1", "5", " 0"]),
    (lambda: pack_padded_sequence(T(5, 3, 4), [5, 3, -2]), ["lengths", " -2"]),
    (lambda: pack_padded_sequence(T(5, 3, 4), [6, 3, 1]), ["lengths", "1", "5", " 6"]),
    (lambda: pack_padded_sequence(T(5, 3, 4), [3, 5, 1]),
     ["lengths", "descend", "enforce_sorted", "[3, 5, 1]"]),
    (lambda: pack_padded_sequence(T(5, 3, 4), [3.0, 2.0, 1.0]), ["lengths", "integers", "float64"]),
    (lambda: pack_padded_sequence(T(5, 3, 4), [[3, 2, 1]]), ["lengths", "vector", "(1, 3)"]),
    (lambda: pack_padded_sequence(T(5, 3, 4), gpuprop.tensor([3, 2, 1]).to("strict")),
     ["lengths", "host", "'strict'"]),
    (lambda: pack_padded_sequence(T(5), [5]),
     ["pack_padded_sequence", "input", "(T, N, ...)", "(5,)"]),
    (lambda: pack_padded_sequence(T(5, 3, 0), [5, 3, 1]),
     ["pack_padded_sequence", "empty", "(5, 3, 0)"]),
    (lambda: pad_packed_sequence(packed(2, 1), total_length=1), ["total_length", "2", " 1"]),
    (lambda: pad_sequence([T(3, 2), T(2, 3)]), ["pad_sequence", "(3, 2), (2, 3)"]),
    (lambda: pad_sequence([]), ["pad_sequence", "at least one", "none"]),
    (lambda: pad_sequence([T(3), T()]), ["pad_sequence", "(3,), ()"]),
    (lambda: pad_sequence([T(3)], padding_side="top"), ["padding_side", "'top'"]),
    (lambda: unpad_sequence(T(5, 3), [1, 2]), ["unpad_sequence", "3 sequences", "2 lengths"]),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_errors(number):
    check_raises(*REFUSED[number])
