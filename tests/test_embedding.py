"""Embedding and embedding bags: lookup, max_norm, layers and errors."""

import copy

import numpy as np
import pytest

import gpuprop as gp
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.testing import check_training

TABLE = np.arange(12.0).reshape(6, 2)


def indices(*values):
    return gp.tensor(np.array(values, "int64"))


class TestLookup:
    def test_input_of_any_shape(self, backend):
        layer = nn.Embedding.from_pretrained(gp.tensor(TABLE))
        for shape in (), (3,), (2, 1, 3), (0, 4):
            index = np.resize([5, 0, 2], shape)
            np.testing.assert_array_equal(layer(gp.tensor(index)).numpy(), TABLE[index])

    @pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
    def test_input_of_any_integer_dtype(self, backend, dtype):
        assert F.embedding(indices(3).astype(dtype), gp.tensor(TABLE)).tolist() == [[6, 7]]

    def test_plain_arrays_give_plain_arrays(self):
        assert type(F.embedding(np.array([1]), TABLE)) is np.ndarray
        assert type(F.embedding_bag(np.array([[1]]), TABLE)) is np.ndarray

    def test_the_gradients_of_a_repeated_index_are_summed_in_the_same_order(self, backend):
        index = indices(1, 1, 1, 4)
        d = gp.tensor(np.array([[1e8], [1], [-1e8], [3]], "float32"))
        grads = []
        for _ in range(2):
            weight = gp.tensor(np.zeros((6, 1), "float32"), requires_grad=True)
            F.embedding(index, weight).backward(d)
            grads.append(gp.asnumpy(weight.grad))
        np.testing.assert_array_equal(*grads)
        assert grads[0][4] == 3 and not grads[0][[0, 2, 3, 5]].any()

    def test_gradients_of_half_types_are_summed_in_float32(self, backend):
        weight = gp.tensor(np.zeros((2, 1), "float16"), requires_grad=True)
        F.embedding(indices(*[1] * 4000), weight).sum().backward()
        assert gp.asnumpy(weight.grad)[1, 0] == 4000  # adding ones to a float16 stops at 2048

    def test_nan_in_the_padding_row_does_not_reach_gradients(self, backend):
        weight = gp.tensor(np.array([[np.nan], [1.0]]), requires_grad=True)
        (F.embedding(indices(0, 1, 0), weight, padding_idx=0) ** 2).sum().backward()
        assert gp.asnumpy(weight.grad).tolist() == [[0], [2]]

    def test_the_padding_row_stays_zero_in_training(self, backend):
        layer = nn.Embedding(4, 3, padding_idx=-2)
        opt = optim.SGD(layer.parameters(), lr=0.1)
        before = layer.weight.numpy()
        layer(indices(2, 1)).sum().backward()
        opt.step()
        after = layer.weight.numpy()
        assert not after[2].any() and (after[1] != before[1]).all() and layer.padding_idx == 2


class TestMaxNorm:
    def test_scales_only_rows_that_are_looked_up_and_too_long(self, backend):
        weight = gp.tensor(np.array([[3.0, 4], [0.3, 0.4], [30, 40], [0, 0]]))
        F.embedding(indices(0, 1, 0, 3, 0), weight, max_norm=1.0)
        expected = [[0.6, 0.8], [0.3, 0.4], [30, 40], [0, 0]]
        np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-6)

    def test_a_layer_can_be_called_twice_in_a_step(self, backend):
        layer = nn.Embedding(5, 3, max_norm=0.5)
        (layer(indices(1, 2)) * layer(indices(2, 3))).sum().backward()
        assert (np.linalg.norm(layer.weight.numpy()[1:4], axis=1) <= 0.5).all()

    def test_an_index_error_is_raised_before_weight_is_changed(self):
        weight = gp.tensor(TABLE * 10)
        with pytest.raises(IndexError):
            F.embedding(indices(1, 6), weight, max_norm=1.0)
        np.testing.assert_array_equal(weight.numpy(), TABLE * 10)

    def test_captured(self, backend):
        layer = nn.Embedding(5, 3, max_norm=0.5)
        same = copy.deepcopy(layer)

        def stepper(layer):
            opt = optim.SGD(layer.parameters(), lr=1.0)

            def step(index):
                opt.zero_grad()
                loss = (layer(index) ** 2).sum()
                loss.backward()
                opt.step()
                return loss

            return step

        eager = stepper(layer)
        captured = gp.capture(stepper(same))
        for i in range(5):
            eager(indices(i, i, 0))
            captured(indices(i, i, 0))
        np.testing.assert_array_equal(layer.weight.numpy(), same.weight.numpy())


class TestBags:
    @pytest.mark.parametrize(("mode", "expected"), [
        ("sum", [[2, 4], [0, 0], [18, 20]]), ("mean", [[1, 2], [0, 0], [9, 10]]),
        ("max", [[2, 3], [0, 0], [10, 11]])])
    def test_bags_by_offsets(self, backend, mode, expected):
        bags = F.embedding_bag(indices(0, 1, 4, 5), gp.tensor(TABLE), indices(0, 2, 2), mode=mode)
        np.testing.assert_array_equal(bags.numpy(), expected)

    @pytest.mark.parametrize("mode", ["sum", "mean", "max"])
    def test_2d_input_equals_bags_by_offsets(self, backend, mode):
        index, table = np.array([[0, 3, 2], [5, 5, 1]]), gp.tensor(TABLE)
        rows = F.embedding_bag(gp.tensor(index), table, mode=mode, padding_idx=2)
        flat = F.embedding_bag(
            gp.tensor(index.ravel()), table, indices(0, 3), mode=mode, padding_idx=2)
        np.testing.assert_array_equal(rows.numpy(), flat.numpy())

    def test_indices_after_the_included_last_offset_are_in_no_bag(self, backend):
        bags = F.embedding_bag(indices(0, 1, 2), gp.tensor(TABLE), indices(0, 2), mode="sum",
                               include_last_offset=True)
        assert bags.tolist() == [[2, 4]]

    def test_nan_is_the_maximum(self, backend):
        table = gp.tensor(np.array([[1.0], [np.nan], [3.0]]))
        index = indices(0, 1, 2)
        for input, offsets in (index, indices(0)), (index.reshape(1, 3), None):
            assert np.isnan(F.embedding_bag(input, table, offsets, mode="max").numpy()).all()

    def test_scale_grad_by_freq_equals_that_of_embedding(self):
        """PyTorch's CPU implementation divides by the counts of other rows here."""
        index = indices(1, 1, 4, 0, 1, 2)
        grads = []
        for f in (
            lambda w: F.embedding_bag(
                index.reshape(2, 3), w, mode="sum", scale_grad_by_freq=True),
            lambda w: F.embedding(index, w, scale_grad_by_freq=True),
        ):
            weight = gp.tensor(TABLE, requires_grad=True)
            f(weight).sum().backward()
            grads.append(weight.grad)
        np.testing.assert_allclose(*grads, rtol=1e-15)
        np.testing.assert_array_equal(grads[0][[0, 1, 2, 4]], 1)


def test_training_is_the_same_in_all_modes(recorder):
    def make():
        model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 7))
        opt = optim.Adam(model.parameters(), lr=0.05)

        def step(x, y):
            opt.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            return loss

        return model, opt, step

    rng = np.random.default_rng(0)
    batches = [(rng.integers(0, 7, (5, 3)), rng.integers(0, 7, 5)) for _ in range(4)]
    check_training(make, batches, backend=recorder)


class TestLayers:
    def test_freeze(self):
        assert not nn.Embedding.from_pretrained(gp.tensor(TABLE)).weight.requires_grad
        assert nn.EmbeddingBag.from_pretrained(TABLE, freeze=False, mode="sum").weight.requires_grad
        assert not nn.Embedding(6, 2, _weight=TABLE, _freeze=True).weight.requires_grad

    def test_from_pretrained_shares_a_tensor_and_copies_an_array(self):
        own = TABLE.copy()
        tensor = gp.tensor(own)
        assert nn.Embedding.from_pretrained(tensor).weight.data is tensor.data
        assert not np.shares_memory(nn.Embedding.from_pretrained(own).weight.data, own)

    def test_state_dict_and_repr(self):
        assert [*nn.Embedding(3, 2).state_dict()] == ["weight"]
        assert [*nn.EmbeddingBag(3, 2).state_dict()] == ["weight"]
        layer = nn.Embedding(3, 2, padding_idx=-1, max_norm=1.0)
        assert repr(layer) == "Embedding(3, 2, padding_idx=2, max_norm=1.0)"
        assert repr(nn.EmbeddingBag(3, 2)) == "EmbeddingBag(3, 2, mode='mean')"

    def test_weights_are_drawn_from_the_generator_given(self):
        make = lambda: nn.Embedding(3, 2, rng=gp.random.Generator(5)).weight.numpy()
        np.testing.assert_array_equal(make(), make())


bag = lambda: nn.EmbeddingBag(4, 2)
ERRORS = [
    (lambda: F.embedding(indices(1, 4), bag().weight), IndexError,
     "embedding: index out of range: .* < 4"),
    (lambda: F.embedding(indices(-1), bag().weight), IndexError, "index out of range"),
    (lambda: bag()(gp.tensor([[0.0]])), TypeError, "embedding_bag: input .*integer.*float32"),
    (lambda: F.embedding(indices(0), gp.ones((3,))), ValueError, r"weight .*shape \(3,\)"),
    (lambda: F.embedding(indices(0), bag().weight, 4), ValueError,
     "padding_idx 4 .*out of range.* 4 embeddings"),
    (lambda: nn.Embedding(3, 2, padding_idx=-4), ValueError, "Embedding: padding_idx -4 .* 3 emb"),
    (lambda: nn.Embedding(3, 2, _weight=TABLE), ValueError, r"_weight .*\(3, 2\).*\(6, 2\)"),
    (lambda: nn.EmbeddingBag.from_pretrained(TABLE[0]), ValueError,
     r"EmbeddingBag.from_pretrained: .* shape \(2,\)"),
    (lambda: F.embedding_bag(indices(0), bag().weight, indices(0), mode="min"), ValueError,
     "mode.*'min'"),
    (lambda: bag()(indices(0)), ValueError, r"input .*\(1,\) without offsets"),
    (lambda: bag()(indices(0).reshape(1, 1), indices(0)), ValueError,
     r"input .*\(1, 1\) with offsets"),
    (lambda: bag()(indices(0), gp.tensor([0.0])), ValueError, "offsets .*integers.*float32"),
    (lambda: bag()(indices(0), indices()), ValueError,
     r"offsets .*one or more.*int64 of shape \(0,\)"),
    (lambda: bag()(indices(0, 1), indices(1)), IndexError, "offsets must start with 0"),
    (lambda: bag()(indices(0, 1), indices(0, 3)), IndexError, "offsets .*above 2"),
    (lambda: bag()(indices(0, 1), indices(0, 2, 1)), IndexError, "offsets must not decrease"),
    (lambda: bag()(indices(0), indices(0), gp.ones((1,))), ValueError,
     "per_sample_weights .*mode='sum'.*'mean'"),
    (lambda: F.embedding_bag(indices(0), bag().weight, indices(0), mode="max",
                             scale_grad_by_freq=True), ValueError,
     "scale_grad_by_freq .*mode='max'"),
    (lambda: F.embedding_bag(indices(0), bag().weight, indices(0), mode="sum",
                             per_sample_weights=gp.ones((2,))), ValueError,
     r"per_sample_weights \(2,\) .*shape of input, \(1,\)"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=range(len(ERRORS)))
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_device_raises_index_errors_when_a_value_is_read(backend):
    with pytest.raises(IndexError, match="embedding: index out of range"):
        F.embedding(indices(9), gp.tensor(TABLE)).numpy()
