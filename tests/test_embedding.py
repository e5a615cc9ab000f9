"""Embedding and its bags: what is named, what is shortened, what errors say."""

import copy

import numpy as np
import pytest

import gpuprop as gp
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.testing import check_training

TABLE = np.arange(12.0).reshape(6, 2)


def names(*values):
    return gp.tensor(np.array(values, "int64"))


class TestRows:
    def test_any_shape(self, backend):
        layer = nn.Embedding.from_pretrained(gp.tensor(TABLE))
        for shape in (), (3,), (2, 1, 3), (0, 4):
            index = np.resize([5, 0, 2], shape)
            np.testing.assert_array_equal(layer(gp.tensor(index)).numpy(), TABLE[index])

    @pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
    def test_any_integers(self, backend, dtype):
        assert F.embedding(names(3).astype(dtype), gp.tensor(TABLE)).tolist() == [[6, 7]]

    def test_plain_arrays(self):
        assert type(F.embedding(np.array([1]), TABLE)) is np.ndarray
        assert type(F.embedding_bag(np.array([[1]]), TABLE)) is np.ndarray

    def test_a_row_named_often_gets_the_sum_always_in_one_order(self, backend):
        index, d = names(1, 1, 1, 4), gp.tensor(np.array([[1e8], [1], [-1e8], [3]], "float32"))
        grads = []
        for _ in range(2):
            weight = gp.tensor(np.zeros((6, 1), "float32"), requires_grad=True)
            F.embedding(index, weight).backward(d)
            grads.append(gp.asnumpy(weight.grad))
        np.testing.assert_array_equal(*grads)
        assert grads[0][4] == 3 and not grads[0][[0, 2, 3, 5]].any()

    def test_half_precision_sums_in_single(self, backend):
        weight = gp.tensor(np.zeros((2, 1), "float16"), requires_grad=True)
        F.embedding(names(*[1] * 4000), weight).sum().backward()
        assert gp.asnumpy(weight.grad)[1, 0] == 4000  # adding ones to a float16 stops at 2048

    def test_nan_at_padding_reaches_no_gradient(self, backend):
        weight = gp.tensor(np.array([[np.nan], [1.0]]), requires_grad=True)
        (F.embedding(names(0, 1, 0), weight, padding_idx=0) ** 2).sum().backward()
        assert gp.asnumpy(weight.grad).tolist() == [[0], [2]]

    def test_padding_stays_zero_in_training(self, backend):
        layer = nn.Embedding(4, 3, padding_idx=-2)
        opt = optim.SGD(layer.parameters(), lr=0.1)
        before = layer.weight.numpy()
        layer(names(2, 1)).sum().backward()
        opt.step()
        after = layer.weight.numpy()
        assert not after[2].any() and (after[1] != before[1]).all() and layer.padding_idx == 2


class TestShortening:
    def test_rows_that_are_named_and_long_and_no_others(self, backend):
        weight = gp.tensor(np.array([[3.0, 4], [0.3, 0.4], [30, 40], [0, 0]]))
        F.embedding(names(0, 1, 0, 3, 0), weight, max_norm=1.0)
        np.testing.assert_allclose(weight.numpy(), [[0.6, 0.8], [0.3, 0.4], [30, 40], [0, 0]], rtol=1e-6)

    def test_a_shared_layer_may_be_called_twice(self, backend):
        layer = nn.Embedding(5, 3, max_norm=0.5)
        (layer(names(1, 2)) * layer(names(2, 3))).sum().backward()
        assert (np.linalg.norm(layer.weight.numpy()[1:4], axis=1) <= 0.5).all()

    def test_index_errors_come_before_it_writes(self):
        weight = gp.tensor(TABLE * 10)
        with pytest.raises(IndexError):
            F.embedding(names(1, 6), weight, max_norm=1.0)
        np.testing.assert_array_equal(weight.numpy(), TABLE * 10)

    def test_captured(self, backend):
        layer = nn.Embedding(5, 3, max_norm=0.5)
        twin = copy.deepcopy(layer)

        def stepper(layer):
            opt = optim.SGD(layer.parameters(), lr=1.0)

            def step(index):
                opt.zero_grad()
                loss = (layer(index) ** 2).sum()
                loss.backward()
                opt.step()
                return loss

            return step

        eager, captured = stepper(layer), gp.capture(stepper(twin))
        for i in range(5):
            eager(names(i, i, 0)), captured(names(i, i, 0))
        np.testing.assert_array_equal(layer.weight.numpy(), twin.weight.numpy())


class TestBags:
    @pytest.mark.parametrize(("mode", "expected"), [
        ("sum", [[2, 4], [0, 0], [18, 20]]), ("mean", [[1, 2], [0, 0], [9, 10]]), ("max", [[2, 3], [0, 0], [10, 11]])])
    def test_stretches(self, backend, mode, expected):
        bags = F.embedding_bag(names(0, 1, 4, 5), gp.tensor(TABLE), names(0, 2, 2), mode=mode)
        np.testing.assert_array_equal(bags.numpy(), expected)

    @pytest.mark.parametrize("mode", ["sum", "mean", "max"])
    def test_rows_are_stretches_of_one_length(self, backend, mode):
        index, table = np.array([[0, 3, 2], [5, 5, 1]]), gp.tensor(TABLE)
        rows = F.embedding_bag(gp.tensor(index), table, mode=mode, padding_idx=2)
        flat = F.embedding_bag(gp.tensor(index.ravel()), table, names(0, 3), mode=mode, padding_idx=2)
        np.testing.assert_array_equal(rows.numpy(), flat.numpy())

    def test_what_lies_beyond_the_last_offset_is_in_no_bag(self, backend):
        bags = F.embedding_bag(names(0, 1, 2), gp.tensor(TABLE), names(0, 2), mode="sum", include_last_offset=True)
        assert bags.tolist() == [[2, 4]]

    def test_nan_is_the_largest(self, backend):
        table = gp.tensor(np.array([[1.0], [np.nan], [3.0]]))
        for index, offsets in (names(0, 1, 2), names(0)), (names(0, 1, 2).reshape(1, 3), None):
            assert np.isnan(F.embedding_bag(index, table, offsets, mode="max").numpy()).all()

    def test_a_gradient_scaled_by_frequency_is_the_rows(self):
        """PyTorch's CPU counts other rows here."""
        grads = []
        for f in (lambda w: F.embedding_bag(names(1, 1, 4, 0, 1, 2).reshape(2, 3), w, mode="sum",
                                            scale_grad_by_freq=True),
                  lambda w: F.embedding(names(1, 1, 4, 0, 1, 2), w, scale_grad_by_freq=True)):
            weight = gp.tensor(TABLE, requires_grad=True)
            f(weight).sum().backward()
            grads.append(weight.grad)
        np.testing.assert_allclose(*grads, rtol=1e-15)
        np.testing.assert_array_equal(grads[0][[0, 1, 2, 4]], 1)


def test_trains_alike_everywhere(recorder):
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
    check_training(make, [(rng.integers(0, 7, (5, 3)), rng.integers(0, 7, 5)) for _ in range(4)],
                   backend=recorder)


class TestLayers:
    def test_freezing(self):
        assert not nn.Embedding.from_pretrained(gp.tensor(TABLE)).weight.requires_grad
        assert nn.EmbeddingBag.from_pretrained(TABLE, freeze=False, mode="sum").weight.requires_grad
        assert not nn.Embedding(6, 2, _weight=TABLE, _freeze=True).weight.requires_grad

    def test_a_tensors_memory_is_shared_an_arrays_copied(self):
        own = TABLE.copy()
        tensor = gp.tensor(own)
        assert nn.Embedding.from_pretrained(tensor).weight.data is tensor.data
        assert not np.shares_memory(nn.Embedding.from_pretrained(own).weight.data, own)

    def test_names_and_lines(self):
        assert [*nn.Embedding(3, 2).state_dict()] == [*nn.EmbeddingBag(3, 2).state_dict()] == ["weight"]
        assert repr(nn.Embedding(3, 2, padding_idx=-1, max_norm=1.0)) == "Embedding(3, 2, padding_idx=2, max_norm=1.0)"
        assert repr(nn.EmbeddingBag(3, 2)) == "EmbeddingBag(3, 2, mode='mean')"

    def test_it_draws_from_the_generator_given(self):
        make = lambda: nn.Embedding(3, 2, rng=gp.random.Generator(5)).weight.numpy()
        np.testing.assert_array_equal(make(), make())


bag = lambda: nn.EmbeddingBag(4, 2)
ERRORS = [
    (lambda: F.embedding(names(1, 4), bag().weight), IndexError, "embedding: input names rows of weight, 0 to 3"),
    (lambda: F.embedding(names(-1), bag().weight), IndexError, "another was found"),
    (lambda: bag()(gp.tensor([[0.0]])), TypeError, "embedding_bag: input .* must be integers, not float32"),
    (lambda: F.embedding(names(0), gp.ones((3,))), ValueError, r"weight is \(rows, features\), not of shape \(3,\)"),
    (lambda: F.embedding(names(0), bag().weight, 4), ValueError, "padding_idx=4 is none of the 4 rows"),
    (lambda: nn.Embedding(3, 2, padding_idx=-4), ValueError, "Embedding: padding_idx=-4 is none of the 3 rows"),
    (lambda: nn.Embedding(3, 2, _weight=TABLE), ValueError, r"_weight is .*\(3, 2\), not \(6, 2\)"),
    (lambda: nn.EmbeddingBag.from_pretrained(TABLE[0]), ValueError, r"EmbeddingBag.from_pretrained: .* shape \(2,\)"),
    (lambda: F.embedding_bag(names(0), bag().weight, names(0), mode="min"), ValueError, "not 'min'"),
    (lambda: bag()(names(0)), ValueError, r"not \(1,\) without offsets"),
    (lambda: bag()(names(0).reshape(1, 1), names(0)), ValueError, r"not \(1, 1\) with offsets"),
    (lambda: bag()(names(0), gp.tensor([0.0])), ValueError, "offsets are integers, one or more, not float32"),
    (lambda: bag()(names(0), names()), ValueError, r"one or more, not int64 of shape \(0,\)"),
    (lambda: bag()(names(0, 1), names(1)), IndexError, "the first of offsets must be 0"),
    (lambda: bag()(names(0, 1), names(0, 3)), IndexError, "not beyond the elements of input"),
    (lambda: bag()(names(0, 1), names(0, 2, 1)), IndexError, "offsets must ascend"),
    (lambda: bag()(names(0), names(0), gp.ones((1,))), ValueError, "for mode='sum', .* not for mode='mean'"),
    (lambda: F.embedding_bag(names(0), bag().weight, names(0), mode="max", scale_grad_by_freq=True), ValueError,
     "scale_grad_by_freq is not for mode='max'"),
    (lambda: F.embedding_bag(names(0), bag().weight, names(0), mode="sum", per_sample_weights=gp.ones((2,))),
     ValueError, r"in the shape of input, \(1,\); .* in shape \(2,\)"),
]


@pytest.mark.parametrize(("call", "kind", "text"), ERRORS, ids=range(len(ERRORS)))
def test_errors(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


def test_a_device_says_so_at_the_next_value(backend):
    with pytest.raises(IndexError, match="embedding: input names rows of weight"):
        F.embedding(names(9), gp.tensor(TABLE)).numpy()
