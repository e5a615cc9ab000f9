"""Multi-head attention, transformers, positional encodings and the key-value cache."""

import copy
import math

import numpy as np
import pytest

import gpuprop as gp
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.random import Generator

DRAW = np.random.default_rng(0).standard_normal
N, L, S, E, HEADS = 2, 3, 5, 8, 2


def draw(*shape):
    return gp.tensor(DRAW(shape))


def assert_close(a, b, tolerance=1e-13):
    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=tolerance, atol=tolerance)


def attention(**options):
    return nn.MultiheadAttention(E, HEADS, dtype="float64", **options)


class TestMasks:
    """Masks of different types and shapes that mean the same; a bool mask is True for "hidden"."""

    hidden = np.array([[0, 1, 0, 0, 1], [0, 0, 0, 1, 0], [0, 1, 1, 1, 1]], bool)
    padding = np.array([[0, 0, 0, 0, 1], [0, 0, 1, 1, 1]], bool)

    def inputs(self):
        return draw(L, N, E), draw(S, N, E), draw(S, N, E)

    def additive(self, mask, dtype="float64"):
        return gp.tensor(np.where(mask, -np.inf, 0).astype(dtype))

    @pytest.mark.parametrize("need_weights", [True, False])
    def test_bool_float_and_per_head_masks(self, backend, need_weights):
        layer = attention()
        args = self.inputs()

        def run(attn_mask, key_padding_mask=None):
            return layer(*args, need_weights=need_weights, attn_mask=attn_mask,
                         key_padding_mask=key_padding_mask)[0]

        hidden, padding = gp.tensor(self.hidden), gp.tensor(self.padding)
        added_hidden, added_padding = self.additive(self.hidden), self.additive(self.padding)
        per_head = np.repeat(self.hidden | self.padding[:, None], HEADS, axis=0)
        want = run(hidden, padding)
        assert_close(run(added_hidden, padding), want)
        assert_close(run(hidden, added_padding), want)
        assert_close(run(added_hidden, added_padding), want)
        assert_close(run(self.additive(self.hidden, "float32"), padding), want)
        assert_close(run(gp.tensor(per_head)), want)
        assert_close(run(self.additive(per_head)), want)

    def test_output_with_and_without_weights(self, backend):
        layer, args = attention(add_bias_kv=True, add_zero_attn=True), self.inputs()
        hidden = gp.tensor(self.hidden)
        y, weights = layer(*args, attn_mask=hidden)
        other, none = layer(*args, attn_mask=hidden, need_weights=False)
        assert_close(y, other)
        assert none is None and weights.shape == (N, L, S + 2)
        np.testing.assert_array_equal(weights.numpy()[:, :, :S] == 0,
                                      np.broadcast_to(self.hidden, (N, L, S)))
        np.testing.assert_allclose(weights.numpy().sum(axis=-1), 1, rtol=1e-12)
        heads = layer(*args, attn_mask=hidden, average_attn_weights=False)[1]
        assert_close(heads.mean(axis=1), weights)

    @pytest.mark.parametrize("need_weights", [True, False])
    def test_causal(self, backend, need_weights):
        layer, x = attention(), draw(L, N, E)
        causal = nn.Transformer.generate_square_subsequent_mask(L)
        run = lambda **masks: layer(x, x, x, need_weights=need_weights, **masks)[0]
        plain = run(attn_mask=causal)
        assert_close(run(attn_mask=causal, is_causal=True), plain)
        assert_close(run(attn_mask=causal < 0), plain)
        x.data[-1] += 1
        assert_close(layer(x, x, x, attn_mask=causal)[0][:-1], plain[:-1])

    def test_one_sample_and_batch_first(self, backend):
        layer, args = attention(), self.inputs()
        first = attention(batch_first=True)
        first.load_state_dict(layer.state_dict())
        padding = gp.tensor(self.padding)
        y, weights = layer(*args, key_padding_mask=padding)
        other, other_weights = first(*(a.swapaxes(0, 1) for a in args), key_padding_mask=padding)
        assert_close(y, other.swapaxes(0, 1))
        assert_close(weights, other_weights)
        for each in layer, first:
            one, one_weights = each(*(a[:, 1] for a in args), key_padding_mask=padding[1])
            assert_close(one, y[:, 1])
            assert_close(one_weights, weights[1])

    def test_hidden_elements_have_no_effect(self, backend):
        model = nn.Transformer(E, HEADS, 1, 1, 16, 0.0, dtype="float64")
        src, tgt, padding = draw(S, N, E), draw(L, N, E), gp.tensor(self.padding)
        run = lambda: model(src, tgt, src_key_padding_mask=padding,
                            memory_key_padding_mask=padding)
        before = run()
        src.data[3:, 1] = 7
        assert_close(run(), before)

    def test_generate_square_subsequent_mask(self, backend):
        mask = nn.Transformer.generate_square_subsequent_mask(3)
        assert mask.dtype == "float32"
        np.testing.assert_array_equal(mask.numpy(), np.triu(np.full((3, 3), -np.inf), 1))


X = gp.zeros(L, N, E, device="cpu")  # whatever the default backend is at import


def mha(**options):
    return nn.MultiheadAttention(E, HEADS, **options)


def transformer():
    return nn.Transformer(E, HEADS, 1, 1, 16)


def heads(num_heads=HEADS, in_proj_weight=X, bias_k=None, **options):
    weight = None if in_proj_weight is None else gp.zeros(3 * E, E)
    return F.multi_head_attention_forward(X, X, X, E, num_heads, weight, None, bias_k, None, False,
                                          0.0, gp.zeros(E, E), None, **options)


def sinusoidal(dim=E, max_seq_len=9):
    return nn.SinusoidalPositionalEncoding(dim, max_seq_len)


def cache(**options):
    return nn.KeyValueCache(N, 6, HEADS, 4, **options)


ERRORS = [
    # MultiheadAttention
    (lambda: nn.MultiheadAttention(8, 3), ValueError, r"num_heads=3 .*divide.* embed_dim=8"),
    (lambda: nn.MultiheadAttention(0, 1), ValueError, "embed_dim.*at least 1.*0"),
    (lambda: nn.MultiheadAttention(8, 2, 1.5), ValueError, r"dropout .*\[0, 1\].* 1.5"),
    (lambda: mha()(X[0, 0], X, X), ValueError, r"query .* \(L, N, E\), or \(L, E\)"),
    (lambda: mha(batch_first=True)(X[None], X, X), ValueError, r"query .* \(N, L, E\)"),
    (lambda: mha()(X, X[0], X), ValueError, r"key \(2, 8\) .* 2 axes.* query \(3, 2, 8\) .* 3"),
    (lambda: mha()(X[0], X[0], X), ValueError, r"value .* 3 axes.* query .* 2"),
    (lambda: mha()(X[..., :6], X, X), ValueError,
     r"query \(3, 2, 6\) .* 6 features.* embed_dim .*8"),
    (lambda: mha()(X, X[..., :6], X), ValueError, r"key \(3, 2, 6\) .* 6 features.* takes 8"),
    (lambda: mha(vdim=5)(X, X, X), ValueError, r"value \(3, 2, 8\) .* 8 features.* takes 5"),
    (lambda: mha()(X, X, X[:2]), ValueError, r"key \(3, 2, 8\) and value \(2, 2, 8\) differ"),
    (lambda: mha()(X, X[:, :1], X[:, :1]), ValueError,
     r"query \(3, 2, 8\) and key \(3, 1, 8\), .* differ in N"),
    (lambda: mha()(X, X, X, is_causal=True), ValueError, r"attn_mask is required"),
    (lambda: mha()(X, X, X, attn_mask=gp.zeros(3, 4)), ValueError,
     r"attn_mask .*\(3, 3\) or \(4, 3, 3\), got \(3, 4\)"),
    (lambda: mha()(X, X, X, attn_mask=gp.zeros(2, 3, 3)), ValueError, r"got \(2, 3, 3\)"),
    (lambda: mha()(X, X, X, attn_mask=gp.zeros(3, 3, dtype="int64")), TypeError,
     r"attn_mask .*bool.* got int64"),
    (lambda: mha()(X, X, X, key_padding_mask=gp.zeros(3, 2)), ValueError,
     r"key_padding_mask .*\(2, 3\), got \(3, 2\)"),
    (lambda: mha()(X[0], X[0], X[0], key_padding_mask=gp.zeros(1, 2)), ValueError,
     r"\(2,\), got \(1, 2\)"),
    (lambda: mha()(X, X, X, key_padding_mask=gp.zeros(2, 3, dtype="uint8")), TypeError,
     r"key_padding_mask .*bool.* got uint8"),
    (lambda: mha()(X.astype("float64"), X, X), TypeError, r"input .*float64 .*weight .*float32"),
    # multi_head_attention_forward
    (lambda: heads(bias_k=X[0, 0]), ValueError, r"both bias_k and bias_v"),
    (lambda: heads(in_proj_weight=None), ValueError,
     r"use_separate_proj_weight=False .*in_proj_weight"),
    (lambda: heads(use_separate_proj_weight=True), ValueError, r"requires q_proj_weight"),
    (lambda: heads(num_heads=3), ValueError, r"num_heads=3 .*divide embed_dim=8"),
    (lambda: heads(static_k=gp.zeros(4, 3, 5)), ValueError,
     r"static_k .*\(4, S, 4\), got \(4, 3, 5\)"),
    (lambda: heads(static_k=gp.zeros(4, 5, 4)), ValueError, r"keys and values .* 5 and 3"),
    # transformers
    (lambda: nn.TransformerEncoderLayer(E, HEADS, activation="tanh"), ValueError,
     r"TransformerEncoderLayer: activation .*'relu', 'gelu' or a function.* 'tanh'"),
    (lambda: transformer()(X, X[:, :1]), ValueError, r"src .*tgt .*batch size, axis 1"),
    (lambda: transformer()(X, X[:, 0]), ValueError, r"src .*tgt .*batch size"),
    (lambda: transformer()(X, X[..., :4]), ValueError,
     r"tgt \(3, 2, 4\) has 4 features.* d_model=8"),
    # positional encodings
    (lambda: F.rotary_embedding(X, X, X), ValueError, r"pair.* input \(3, 2, 8\).*\(3, 2, 8\)"),
    (lambda: F.rotary_embedding(X[..., :7], X[..., :3], X[..., :3]), ValueError,
     r"pair.*\(3, 2, 7\)"),
    (lambda: F.rotary_embedding(X, *[X[..., :4].astype("float64")] * 2), TypeError,
     r"input .*float32.* cos .*float64"),
    (lambda: nn.RotaryPositionalEmbeddings(5), ValueError, r"dim .*even.* 5"),
    (lambda: nn.RotaryPositionalEmbeddings(4)(X), ValueError,
     r"x .*\(N, L, heads, dim\) .*dim=4.* \(3, 2, 8\)"),
    (lambda: sinusoidal(dim=4)(X), ValueError, r"input .*\(L, N, dim\) .*dim=4.* \(3, 2, 8\)"),
    (lambda: sinusoidal(max_seq_len=2)(X), ValueError, r"positions 0 to 2 .*max_seq_len=2"),
    (lambda: sinusoidal()(X, input_pos=7), ValueError, r"positions 7 to 9 .*max_seq_len=9"),
    (lambda: sinusoidal()(X, input_pos=gp.arange(2)), ValueError, r"input_pos \(2,\) .* 3"),
    (lambda: sinusoidal()(X, input_pos=gp.tensor(8)), IndexError, r"index out of range"),
    # KeyValueCache
    (lambda: cache().update(X, X), ValueError,
     r"key .*\(N, heads, L, dim\) .*\(2, 2, L, 4\).* \(3, 2, 8\)"),
    (lambda: cache().update(gp.zeros(2, 2, 1, 4), gp.zeros(2, 2, 2, 4)), ValueError,
     r"value .*\(2, 2, 2, 4\)"),
    (lambda: cache().update(*[gp.zeros(2, 2, 1, 4, dtype="float64")] * 2), TypeError,
     r"key .*float64 .*cache .*float32.*dtype='float64'"),
    (lambda: cache().update(*[gp.zeros(2, 2, 1, 4, requires_grad=True)] * 2), RuntimeError,
     r"gradient.*no_grad"),
    (lambda: cache().update(*[gp.zeros(2, 2, 7, 4)] * 2), IndexError, r"longer .*max_length=6"),
]


@pytest.mark.parametrize(("call", "error", "keywords"), ERRORS, ids=range(len(ERRORS)))
def test_errors(call, error, keywords):
    with pytest.raises(error, match=keywords):
        call()


class TestLayers:
    def test_arrays_give_arrays(self, rng):
        x, w = rng.standard_normal((L, N, E)), rng.standard_normal((3 * E, E))
        y, weights = F.multi_head_attention_forward(
            x, x, x, E, HEADS, w, None, None, None, False, 0.0, w[:E], None)
        assert type(y) is type(weights) is np.ndarray

    @pytest.mark.parametrize("need_weights", [True, False])
    def test_dropout(self, backend, need_weights):
        layer, x = attention(dropout=0.5), draw(L, N, E)
        run = lambda: layer(x, x, x, need_weights=need_weights)[0].numpy()
        assert (run() != run()).any()
        gp.manual_seed(3)
        first = run()
        gp.manual_seed(3)
        np.testing.assert_array_equal(run(), first)
        layer.eval()
        np.testing.assert_array_equal(run(), run())

    def test_returned_weights_include_dropout(self, backend):
        layer, x = attention(dropout=0.5), draw(20, N, E)
        weights = layer(x, x, x, average_attn_weights=False)[1].numpy()
        assert 0.4 < (weights == 0).mean() < 0.6

    def test_copies_share_a_generator(self):
        rng = Generator(5)
        layer = nn.TransformerEncoderLayer(E, HEADS, 16, 0.5, rng=rng)
        encoder = nn.TransformerEncoder(layer, 2)
        generators = [m.rng for m in encoder.modules() if hasattr(m, "rng")]
        assert len(generators) == 8 and all(g is rng for g in generators)
        state = gp.random.default_generator.get_state()
        encoder(gp.ones(L, N, E))
        assert gp.random.default_generator.get_state() == state

    @pytest.mark.parametrize("norm_first", [True, False])
    def test_norm_first(self, norm_first):
        layer = nn.TransformerEncoderLayer(E, HEADS, 16, 0.0, "gelu", norm_first=norm_first,
                                           dtype="float64")
        x = draw(L, N, E)
        self_attention = lambda x: layer.self_attn(x, x, x)[0]
        feed_forward = lambda x: layer.linear2(F.gelu(layer.linear1(x)))
        if norm_first:
            middle = x + self_attention(layer.norm1(x))
            want = middle + feed_forward(layer.norm2(middle))
        else:
            middle = layer.norm1(x + self_attention(x))
            want = layer.norm2(middle + feed_forward(middle))
        assert_close(layer(x), want)

    def test_activation_as_string_function_or_module(self):
        x = draw(L, N, E)
        layers = [nn.TransformerEncoderLayer(E, HEADS, 16, 0.0, activation, dtype="float64")
                  for activation in ("gelu", F.gelu, nn.GELU())]
        for layer in layers:
            layer.load_state_dict(layers[0].state_dict())
            assert_close(layer(x), layers[0](x))

    def test_copies_have_parameters_of_their_own(self):
        layer = nn.TransformerDecoderLayer(E, HEADS, 16)
        decoder = nn.TransformerDecoder(layer, 3, nn.LayerNorm(E))
        parameters = [*decoder.parameters()]
        assert len(parameters) == 3 * len([*layer.parameters()]) + 2
        arrays = {id(p.data) for p in (*parameters, *layer.parameters())}
        assert len(arrays) == len(parameters) + 18
        first, last = (decoder.layers[i].linear1.weight.numpy() for i in (0, 2))
        np.testing.assert_array_equal(first, last)

    def test_a_stack_applies_its_layers_and_the_norm(self):
        layer = nn.TransformerEncoderLayer(E, HEADS, 16, 0.0, dtype="float64")
        encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(E, dtype="float64"),
                                        enable_nested_tensor=False, mask_check=False)
        x = draw(L, N, E)
        assert_close(encoder(x), encoder.norm(encoder.layers[1](encoder.layers[0](x))))

    def test_custom_encoder(self):
        class Double(nn.Module):
            def forward(self, src, mask=None, src_key_padding_mask=None, is_causal=None):
                return 2 * src

        model = nn.Transformer(E, HEADS, custom_encoder=Double(), num_decoder_layers=1,
                               dtype="float64", dropout=0.0)
        src, tgt = draw(S, N, E), draw(L, N, E)
        assert_close(model(src, tgt), model.decoder(tgt, 2 * src))

    def test_saved_state(self, tmp_path):
        model, other = transformer(), transformer()
        gp.save(tmp_path / "model.npz", model.state_dict())
        other.load_state_dict(gp.load(tmp_path / "model.npz"))
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(other.state_dict()[name], value)
        assert "encoder.layers.0.self_attn.in_proj_weight" in other.state_dict()
        assert "decoder.layers.0.multihead_attn.out_proj.bias" in other.state_dict()

    @pytest.mark.parametrize(("options", "names"), [
        ({}, ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]),
        ({"bias": False, "add_bias_kv": True},
         ["in_proj_weight", "bias_k", "bias_v", "out_proj.weight"]),
        ({"bias": False, "kdim": 3},
         ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"])])
    def test_parameter_names_are_pytorchs(self, options, names):
        assert [*mha(**options).state_dict()] == names

    def test_repr(self):
        options = "embed_dim=8, num_heads=2, dropout=0.0, batch_first=False"
        assert repr(mha()).startswith(f"MultiheadAttention(\n  {options}\n")

    def test_initial_values(self):
        layer = nn.MultiheadAttention(64, 4, add_bias_kv=True)
        bound = math.sqrt(6 / (64 + 3 * 64))
        largest = np.abs(layer.in_proj_weight.numpy()).max()
        assert 0.99 * bound < largest <= bound
        assert not layer.in_proj_bias.numpy().any() and not layer.out_proj.bias.numpy().any()
        assert abs(layer.bias_k.numpy().std() - math.sqrt(2 / 128)) < 0.02

    def test_captured_and_eager_steps_agree(self, backend):
        model = nn.Transformer(E, HEADS, 1, 1, 16, 0.2, "gelu", batch_first=True, norm_first=True)
        other = copy.deepcopy(model)
        causal = nn.Transformer.generate_square_subsequent_mask(L)

        def stepper(m):
            opt = optim.AdamW(m.parameters(), lr=0.01)

            def step(src, tgt, padding):
                opt.zero_grad()
                y = m(src, tgt, tgt_mask=causal, tgt_is_causal=True, src_key_padding_mask=padding)
                loss = ((y - tgt) ** 2).mean()
                loss.backward()
                opt.step()
                return loss
            return step

        padding = gp.tensor(TestMasks.padding)
        batches = [(draw(N, S, E).astype("float32"), draw(N, L, E).astype("float32"), padding)
                   for _ in range(5)]
        for step in stepper(model), gp.capture(stepper(other)):
            gp.manual_seed(1)
            for batch in batches:
                step(*batch)
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(other.state_dict()[name], value, err_msg=name)

    def test_half_precision(self, backend):
        model = nn.Transformer(E, HEADS, 1, 1, 16, 0.0)
        src, tgt = draw(S, N, E).astype("float32"), draw(L, N, E).astype("float32")
        want = model(src, tgt).numpy()
        with gp.autocast("float16"):
            y = model(src, tgt, tgt_mask=gp.zeros(L, L))
        np.testing.assert_allclose(y.numpy(), want, atol=0.03)
        y.sum().backward()
        assert all(p.grad.dtype == "float32" for p in model.parameters())

    @pytest.mark.parametrize("need_weights", [True, False])
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_a_float32_mask_does_not_change_the_dtype(self, backend, need_weights, dtype):
        layer, x = mha().to(dtype=dtype), draw(L, N, E)
        causal = nn.Transformer.generate_square_subsequent_mask(L)
        y, weights = layer(*[x.astype(dtype)] * 3, attn_mask=causal, need_weights=need_weights)
        assert y.dtype == dtype and (weights is None or weights.dtype == dtype)
        want = layer.double()(x, x, x, attn_mask=causal)[0]
        np.testing.assert_allclose(y.numpy(), want.numpy(), atol=0.02)


class TestPositions:
    def test_sinusoidal(self, backend):
        layer = nn.SinusoidalPositionalEncoding(6, 10, batch_first=True)
        y = layer(gp.zeros(1, 4, 6, dtype="float64")).numpy()
        want = [[f(p / 10_000 ** (2 * i / 6)) for i in range(3) for f in (math.sin, math.cos)]
                for p in range(4)]
        np.testing.assert_allclose(y[0], want, rtol=1e-14, atol=1e-15)

    def test_layouts(self, backend):
        x = draw(4, N, 6)
        first = nn.SinusoidalPositionalEncoding(6, batch_first=True)
        last = nn.SinusoidalPositionalEncoding(6)
        assert_close(last(x), first(x.swapaxes(0, 1)).swapaxes(0, 1))
        assert_close(last(x)[:, 0], last(x[:, 0]))
        each = gp.tensor([[3, 1, 0, 7], [2, 2, 5, 6]])
        want = first(x.swapaxes(0, 1), input_pos=each).swapaxes(0, 1)
        assert_close(last(x, input_pos=each), want)

    @pytest.mark.parametrize("interleaved", [True, False])
    def test_rotary_scores_depend_on_distances_only(self, backend, interleaved):
        layer = nn.RotaryPositionalEmbeddings(8, 50, interleaved=interleaved)
        q, k = draw(1, 5, 2, 8), draw(1, 5, 2, 8)
        scores = [(layer(q, input_pos=p) * layer(k, input_pos=p + 3)).sum(axis=-1)
                  for p in (0, 1, 40)]
        assert_close(scores[1], scores[0], 1e-12)
        assert_close(scores[2], scores[0], 1e-12)
        assert np.abs(scores[0].numpy() - (q * k).sum(axis=-1).numpy()).max() > 0.1

    def test_interleaved_pairs_or_halves(self, backend):
        x, order = draw(1, 5, 2, 8), [0, 2, 4, 6, 1, 3, 5, 7]
        interleaved = nn.RotaryPositionalEmbeddings(8, interleaved=True)(x)
        halves = nn.RotaryPositionalEmbeddings(8, interleaved=False)(x[..., order])
        assert_close(interleaved[..., order], halves)

    def test_rotary_against_complex_numbers(self):
        x = DRAW((5, 2, 8))
        angles = np.arange(5)[:, None, None] * 100.0 ** -np.linspace(0, 0.75, 4)
        z = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
        want = np.stack((z.real, z.imag), -1).reshape(x.shape)
        y = nn.RotaryPositionalEmbeddings(8, base=100.0)(gp.tensor(x)).numpy()
        np.testing.assert_allclose(y, want, rtol=1e-13, atol=1e-13)

    def test_forms_of_input_pos(self, backend):
        layer, x = nn.RotaryPositionalEmbeddings(8), draw(N, 3, 2, 8)
        want = layer(x, input_pos=4)
        for start in gp.tensor(4), gp.tensor([4, 5, 6]), gp.tensor([[4, 5, 6]] * 2), np.int64(4):
            assert_close(layer(x, input_pos=start), want)

    def test_tables_are_exact_and_not_saved(self, backend):
        layer = nn.RotaryPositionalEmbeddings(4, 5000)
        assert not layer.state_dict() and layer(gp.ones(1, 3, 1, 4)).dtype == "float32"
        y = layer.double()(gp.ones(1, 1, 1, 4, dtype="float64"), input_pos=4999).numpy()
        np.testing.assert_allclose(y[0, 0, 0, 0], math.cos(4999) - math.sin(4999), rtol=1e-14)


# ---- generation ----------------------------------------------------------------------------------

VOCABULARY, WIDTH, MAX_LENGTH = 13, 16, 24


class Attention(nn.Module):
    def __init__(self, rotary, window):
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, dtype="float64")
        self.out = nn.Linear(WIDTH, WIDTH, dtype="float64")
        self.rotary = None
        if rotary:
            self.rotary = nn.RotaryPositionalEmbeddings(WIDTH // HEADS, MAX_LENGTH)
        self.window = window

    def forward(self, x, cache):
        n, length, _ = x.shape
        q, k, v = (a.reshape(n, length, HEADS, -1) for a in gp.split(self.qkv(x), 3, -1))
        if self.rotary is not None:
            start = None if cache is None else cache.length
            q, k = self.rotary(q, input_pos=start), self.rotary(k, input_pos=start)
        q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))
        if cache is None:
            window = (-1 if self.window is None else self.window, 0)
            y = F.scaled_dot_product_attention(q, k, v, window=window)
        else:
            k, v = cache.update(k, v)
            y = F.scaled_dot_product_attention(q, k, v, cache.mask(length, self.window))
        return self.out(y.swapaxes(1, 2).reshape(n, length, WIDTH))


class GPT(nn.Module):
    def __init__(self, rotary=True, window=None, layers=2):
        self.embedding = nn.Embedding(VOCABULARY, WIDTH, dtype="float64")
        self.positions = None if rotary else nn.Embedding(MAX_LENGTH, WIDTH, dtype="float64")
        self.attentions = nn.ModuleList([Attention(rotary, window) for _ in range(layers)])
        self.norms = nn.ModuleList(
            [nn.LayerNorm(WIDTH, dtype="float64") for _ in range(layers + 1)])

    def forward(self, tokens, caches=None):
        x = self.embedding(tokens)
        if self.positions is not None:
            positions = gp.arange(tokens.shape[1])
            if caches is not None:
                positions = caches[0].length + positions
            x = x + self.positions(positions)
        for i, attention in enumerate(self.attentions):
            x = x + attention(self.norms[i](x), None if caches is None else caches[i])
        return F.linear(self.norms[-1](x), self.embedding.weight)

    def caches(self, batch):
        return [nn.KeyValueCache(batch, MAX_LENGTH, HEADS, WIDTH // HEADS, dtype="float64")
                for _ in self.attentions]


def greedy(logits):
    return logits[:, -1].argmax(-1).reshape(-1, 1)


@pytest.mark.parametrize("window", [None, 0, 3])
@pytest.mark.parametrize("rotary", [True, False], ids=["rotary", "learned"])
class TestGeneration:
    @pytest.mark.parametrize("chunks", [(5,), (1, 1, 1, 1, 1), (2, 3)], ids=str)
    def test_a_cache_changes_nothing(self, backend, rotary, window, chunks):
        model = GPT(rotary, window)
        tokens = gp.tensor(np.random.default_rng(0).integers(0, VOCABULARY, (N, 5)))
        with gp.no_grad():
            caches = model.caches(N)
            for part in tokens.split(list(chunks), 1):
                logits = model(part, caches)
            while tokens.shape[1] < 16:
                whole = model(tokens)
                assert_close(logits, whole[:, -logits.shape[1]:], 1e-12)
                tokens = gp.concatenate([tokens, greedy(whole)], 1)
                logits = model(greedy(logits), caches)
            assert all(c.length.item() == 16 for c in caches)

    def test_captured(self, backend, rotary, window):
        model = GPT(rotary, window)
        tokens = gp.tensor(np.random.default_rng(0).integers(0, VOCABULARY, (N, 3)))
        caches = model.caches(N)

        @gp.capture
        def step(token):
            with gp.no_grad():
                return model(token, caches)

        with gp.no_grad():
            for _ in range(2):  # the second sequence starts after a reset
                found = tokens
                token = greedy(model(found, caches))
                while found.shape[1] < 14:
                    found = gp.concatenate([found, token], 1)
                    logits = step(token)
                    assert_close(logits, model(found)[:, -1:], 1e-12)
                    token = greedy(logits)
                for c in caches:
                    c.reset()


class TestCache:
    def test_overflow(self, backend):
        memory, x = cache(), gp.ones(N, HEADS, 4, 4)
        memory.update(x, x)
        before = memory.length.item()
        with pytest.raises(IndexError, match=r"max_length=6.*reset\(\)"):
            memory.update(x, x)
            memory.length.item()
        assert before == 4
        memory.reset()
        memory.update(x, x)
        assert memory.length.item() == 4

    def test_mask(self, backend):
        memory = cache()
        assert not memory.mask().numpy().any()
        memory.update(*[gp.ones(N, HEADS, 4, 4)] * 2)
        np.testing.assert_array_equal(
            memory.mask(2).numpy(), [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]])
        np.testing.assert_array_equal(
            memory.mask(2, window=1).numpy(), [[0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0]])

    def test_it_is_cast_but_not_saved(self, backend):
        memory = cache(dtype="float16")
        assert not memory.state_dict() and not [*memory.parameters()]
        memory.double()
        assert memory.keys.dtype == "float64" and memory.length.dtype == "int64"
        assert repr(memory) == "KeyValueCache(batch=2, max_length=6, heads=2, dim=4)"

    def test_grouped_queries(self, backend):
        memory = cache(dtype="float64")
        q, k, v = (draw(N, heads, 3, 4) for heads in (6, HEADS, HEADS))
        want = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        for i in range(3):
            now = slice(i, i + 1)
            keys, values = memory.update(k[:, :, now], v[:, :, now])
            y = F.scaled_dot_product_attention(q[:, :, now], keys, values, memory.mask(),
                                               enable_gqa=True)
            assert_close(y, want[:, :, now])

    def test_cross_attention_in_a_decoder(self, backend):
        """Token by token, with the weights of a TransformerDecoder; memory is projected once."""
        layer = nn.TransformerDecoderLayer(E, HEADS, 16, 0.0, dtype="float64")
        decoder = nn.TransformerDecoder(layer, 2)
        tgt, source = draw(N, 6, E), draw(N, S, E)
        causal = nn.Transformer.generate_square_subsequent_mask(6)
        want = decoder(tgt.swapaxes(0, 1), source.swapaxes(0, 1), causal).swapaxes(0, 1)
        split_heads = lambda a: a.reshape(N, -1, HEADS, E // HEADS).swapaxes(1, 2)
        new_caches = lambda length: [
            nn.KeyValueCache(N, length, HEADS, E // HEADS, dtype="float64")
            for _ in decoder.layers]

        def project(attention, x, parts):
            weight = gp.split(attention.in_proj_weight, 3)
            bias = gp.split(attention.in_proj_bias, 3)
            return [split_heads(F.linear(x, weight[i], bias[i])) for i in parts]

        def attend(attention, x, q, keys, values, mask=None):
            y = F.scaled_dot_product_attention(q, keys, values, mask)
            return attention.out_proj(y.swapaxes(1, 2).reshape(x.shape))

        def self_attention(attention, x, memory):
            q, k, v = project(attention, x, (0, 1, 2))
            keys, values = memory.update(k, v)
            return attend(attention, x, q, keys, values, memory.mask())

        def cross_attention(attention, x, memory):
            q, = project(attention, x, (0,))
            return attend(attention, x, q, memory.keys, memory.values)

        with gp.no_grad():
            own, cross = new_caches(6), new_caches(S)
            for layer, memory in zip(decoder.layers, cross, strict=True):
                memory.update(*project(layer.multihead_attn, source, (1, 2)))
            for i in range(6):
                x = tgt[:, i:i + 1]
                for layer, mine, memory in zip(decoder.layers, own, cross, strict=True):
                    x = layer.norm1(x + self_attention(layer.self_attn, x, mine))
                    x = layer.norm2(x + cross_attention(layer.multihead_attn, x, memory))
                    x = layer.norm3(x + layer.linear2(layer.activation(layer.linear1(x))))
                assert_close(x, want[:, i:i + 1], 1e-12)
