"""gpuprop.models: U-Net, GPT-2, the encoder-decoder Transformer and the tagger, beside PyTorch.

The references have the names of published weights.  (tests/test_models.py compares with
torchvision.)  Files of torchvision's weights, as PyTorch and safetensors write them, give
torchvision's outputs.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from model_values import images, weights
from safetensors.torch import save_file
from test_models import both_modes, compare, copy_state, sequence_loss
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torchvision_results import MAKE, THEIRS, shapes

import gpuprop
import gpuprop.torch
from gpuprop import models


def draw_state(ours, seed=0):
    """Random weights in float64 for gpuprop's model; returns them as PyTorch's tensors."""
    rng = np.random.default_rng(seed)
    ours.double()
    state = {}
    for name, value in ours.state_dict().items():
        if value.dtype.kind == "i":
            state[name] = value
        elif name.endswith("running_var") or value.ndim == 1:
            state[name] = rng.uniform(0.5, 1.5, value.shape)
        else:
            state[name] = rng.standard_normal(value.shape) / math.sqrt(math.prod(value.shape[1:]))
    ours.load_state_dict(state)
    return {name: torch.tensor(value) for name, value in state.items()}


# ---- files of torchvision's weights --------------------------------------------------------------

FILES = {  # kind of file -> how it is written
    "pth": lambda state, path: torch.save(state, path),
    "old pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "safetensors": save_file,
}
CASES = ["resnet_basic", "resnet_bottleneck", "mobilenet_v2", "mobilenet_v3_small", "convnext",
         "vit"]


def load_file(model, path):
    load = gpuprop.load if path.suffix == ".safetensors" else gpuprop.torch.load
    return model.load_state_dict(load(path))


def published_weights(case):
    """torchvision's entries, with weights of which its outputs are stored."""
    values = weights(shapes(MAKE[case]()))
    return {name: torch.tensor(value) for name, value in values.items()}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("case", CASES)
def test_files(case, kind, tmp_path):
    path = tmp_path / f"weights.{kind.split()[-1]}"
    FILES[kind](published_weights(case), path)
    model = MAKE[case]().double().eval()
    assert load_file(model, path) == ([], [])
    found = model(gpuprop.tensor(images(case)))
    np.testing.assert_allclose(found.numpy(), THEIRS["results"][case]["eval"], 1e-9, 1e-9)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_files_of_narrow_types(dtype, kind, tmp_path):
    """The weights are those of the file, whether the model has its type or another."""
    case = "mobilenet_v2"
    state = {name: value.to(dtype) if value.is_floating_point() else value
             for name, value in published_weights(case).items()}
    path = tmp_path / f"weights.{kind.split()[-1]}"
    FILES[kind](state, path)
    wide = MAKE[case]().double().eval()
    wide.load_state_dict({name: value.double().numpy() for name, value in state.items()})
    model = MAKE[case]().double().eval()
    load_file(model, path)
    x = gpuprop.tensor(images(case))
    np.testing.assert_array_equal(model(x).numpy(), wide(x).numpy())
    narrow = MAKE[case]().to(dtype=str(dtype).removeprefix("torch."))
    load_file(narrow, path)
    for name, value in narrow.state_dict().items():
        np.testing.assert_array_equal(value.astype("float64"), state[name].double().numpy())


# ---- U-Net ---------------------------------------------------------------------------------------


class DoubleConv(nn.Module):
    def __init__(self, channels, out, hidden=None):
        super().__init__()
        hidden = hidden or out
        self.double_conv = nn.Sequential(
            nn.Conv2d(channels, hidden, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(hidden), nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class Down(nn.Module):
    def __init__(self, channels, out):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(channels, out))

    def forward(self, x):
        return self.maxpool_conv[1].double_conv(self.maxpool_conv[0](x))


class Up(nn.Module):
    def __init__(self, channels, out, bilinear):
        super().__init__()
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(channels, out, channels // 2)
        else:
            self.up = nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2)
            self.conv = DoubleConv(channels, out)

    def forward(self, x, skip):
        x = self.up(x)
        dy, dx = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
        x = TF.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv.double_conv(torch.cat([skip, x], dim=1))


class UNet(nn.Module):
    def __init__(self, channels, classes, bilinear, w):
        super().__init__()
        f = 2 if bilinear else 1
        self.inc = DoubleConv(channels, w)
        self.down1, self.down2 = Down(w, 2 * w), Down(2 * w, 4 * w)
        self.down3, self.down4 = Down(4 * w, 8 * w), Down(8 * w, 16 * w // f)
        self.up1 = Up(16 * w, 8 * w // f, bilinear)
        self.up2 = Up(8 * w, 4 * w // f, bilinear)
        self.up3 = Up(4 * w, 2 * w // f, bilinear)
        self.up4 = Up(2 * w, w, bilinear)
        self.outc = nn.Module()
        self.outc.conv = nn.Conv2d(w, classes, kernel_size=1)

    def forward(self, x):
        x1 = self.inc.double_conv(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x = self.up1(self.down4(x4), x4)
        return self.outc.conv(self.up4(self.up3(self.up2(x, x3), x2), x1))


@both_modes
@pytest.mark.parametrize("bilinear", [False, True], ids=["transposed", "bilinear"])
def test_unet_on_an_odd_size(training, bilinear):
    theirs = UNet(3, 2, bilinear, 2).double().train(training)
    ours = models.UNet(3, 2, bilinear, 2).double().train(training)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    copy_state(theirs, ours)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 35, 50))
    labels = rng.integers(0, 2, (2, 35, 50))
    compare(theirs, ours, theirs(torch.tensor(x)), ours(gpuprop.tensor(x)), labels)


def test_unet_has_the_parameters_of_the_published_one():
    count = sum(p.size for p in models.UNet(3, 2, width=8).parameters())
    assert count == sum(p.numel() for p in UNet(3, 2, False, 8).parameters())


# ---- GPT-2 ---------------------------------------------------------------------------------------


def gpt2(state, tokens, layers, heads):
    """GPT-2's formulas, from weights with the names of the published files."""
    def norm(x, name):
        variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def conv1d(x, name):
        return x @ state[f"{name}.weight"] + state[f"{name}.bias"]

    def gelu_new(x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    n, t = tokens.shape
    x = state["wte.weight"][tokens] + state["wpe.weight"][:t]
    width = x.shape[-1]
    causal = torch.ones(t, t).tril() > 0
    for i in range(layers):
        block = f"h.{i}"
        qkv = conv1d(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").split(width, dim=2)
        q, k, v = (a.view(n, t, heads, -1).transpose(1, 2) for a in qkv)
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // heads)
        attended = scores.masked_fill(~causal, -math.inf).softmax(-1) @ v
        attended = attended.transpose(1, 2).reshape(n, t, width)
        x = x + conv1d(attended, f"{block}.attn.c_proj")
        hidden = gelu_new(conv1d(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"))
        x = x + conv1d(hidden, f"{block}.mlp.c_proj")
    return norm(x, "ln_f") @ state["wte.weight"].T


SETTING = {"vocab_size": 19, "n_positions": 12, "n_embd": 12, "n_layer": 2, "n_head": 3}


def published(state):
    """The entries of a published file: without the prefix, and with causal masks."""
    state = {name.removeprefix("transformer."): value for name, value in state.items()}
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 12, 12).tril() for i in range(2)}
    return {**state, **masks}


def test_gpt():
    ours = models.GPT(**SETTING, dropout=0.0)
    state = published(draw_state(ours))
    assert state["h.1.attn.c_attn.weight"].shape == (12, 36)
    weights = {name: value.requires_grad_() for name, value in state.items()}
    tokens = np.random.default_rng(0).integers(0, 19, (3, 12))
    labels = np.roll(tokens, -1, axis=1)
    expected = gpt2(weights, torch.tensor(tokens), 2, 3)
    result = ours(gpuprop.tensor(tokens))
    np.testing.assert_allclose(result.numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-9)
    loss = sequence_loss(19, ignore_index=-1)
    loss(TF, expected, torch.tensor(labels)).backward()
    loss(gpuprop.functional, result, gpuprop.tensor(labels)).backward()
    for name, p in ours.named_parameters():
        want = weights[name.removeprefix("transformer.")].grad.numpy()
        np.testing.assert_allclose(p.grad, want, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_gpt_loads_a_published_file(prefix, tmp_path):
    ours = models.GPT(**SETTING).eval()
    state = published(draw_state(ours))
    file = {prefix + name: value for name, value in state.items()}
    if prefix:
        file["lm_head.weight"] = state["wte.weight"]
    path = tmp_path / "model.safetensors"
    gpuprop.save(path, {name: value.numpy() for name, value in file.items()})
    new = models.GPT(**SETTING).double().eval()
    new.load_state_dict(gpuprop.load(path))
    torch.save(file, tmp_path / "model.pth")
    other = models.GPT(**SETTING).double().eval()
    other.load_state_dict(gpuprop.torch.load(tmp_path / "model.pth"))
    prompt = np.array([[3, 1, 4], [1, 5, 9]])
    expected = torch.tensor(prompt)
    for _ in range(6):
        logits = gpt2(state, expected, 2, 3)[:, -1]
        expected = torch.cat([expected, logits.argmax(-1, keepdim=True)], 1)
    for model in (new, other):
        np.testing.assert_array_equal(model.generate(prompt, 6).numpy(), expected.numpy())


# ---- the encoder-decoder Transformer -------------------------------------------------------------


class Reference(nn.Module):
    """The model of PyTorch's tutorial, with the batch first."""

    def __init__(self):
        super().__init__()
        self.transformer = nn.Transformer(8, 2, 2, 2, 16, 0.0, batch_first=True)
        self.generator = nn.Linear(8, 13)
        self.src_tok_emb, self.tgt_tok_emb = nn.Module(), nn.Module()
        self.src_tok_emb.embedding = nn.Embedding(11, 8)
        self.tgt_tok_emb.embedding = nn.Embedding(13, 8)
        frequencies = 10000**(-torch.arange(0, 8, 2).double() / 8)
        angles = torch.arange(4096)[:, None] * frequencies
        waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
        self.register_buffer("waves", waves, persistent=False)

    def embed(self, embedding, tokens):
        return embedding(tokens) * math.sqrt(8) + self.waves[:tokens.shape[1]]

    def forward(self, src, tgt):
        causal = torch.ones(tgt.shape[1], tgt.shape[1]).triu(1) > 0
        y = self.transformer(
            self.embed(self.src_tok_emb.embedding, src),
            self.embed(self.tgt_tok_emb.embedding, tgt), tgt_mask=causal,
            src_key_padding_mask=src == 1, tgt_key_padding_mask=tgt == 1,
            memory_key_padding_mask=src == 1)
        return self.generator(y)


def transformer_and_reference(training):
    theirs = Reference().double().train(training)
    ours = models.Seq2SeqTransformer(2, 2, 8, 2, 11, 13, 16, 0.0).double().train(training)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    copy_state(theirs, ours)
    rng = np.random.default_rng(0)
    src, tgt = rng.integers(2, 11, (3, 7)), rng.integers(2, 13, (3, 6))
    src[1, 5:] = 1  # padding
    tgt[2, 4:] = 1
    return theirs, ours, src, tgt


@both_modes
def test_transformer(training):
    theirs, ours, src, tgt = transformer_and_reference(training)
    torch.manual_seed(0)
    expected = theirs.train()(torch.tensor(src), torch.tensor(tgt))  # without the fast path
    result = ours(gpuprop.tensor(src), gpuprop.tensor(tgt))
    loss = sequence_loss(13, ignore_index=1)
    expected, result = expected[:, :-1], result[:, :-1]
    compare(theirs, ours, expected, result, tgt[:, 1:], loss)


def test_transformer_generates():
    theirs, ours, src, _ = transformer_and_reference(training=False)
    expected = torch.full((3, 1), 2)
    scores = torch.zeros(3)
    with torch.no_grad():
        for _ in range(5):
            log_p = theirs.train()(torch.tensor(src), expected)[:, -1].log_softmax(-1)
            best, token = log_p.max(-1)
            scores = scores + best
            expected = torch.cat([expected, token[:, None]], 1)
    np.testing.assert_array_equal(ours.generate(src, 2, 5).numpy(), expected.numpy())
    one, score = ours.beam_search(src, 2, 5, beams=1, length_penalty=0.0)
    np.testing.assert_array_equal(one[:, 0].numpy(), expected.numpy())
    np.testing.assert_allclose(score[:, 0].numpy(), scores.numpy())
    paths, found = ours.beam_search(src, 2, 5, beams=4, length_penalty=0.0)
    assert (found[:, 0].numpy() >= scores.numpy() - 1e-12).all()
    for i in range(4):  # a score is that of its path
        tgt = torch.tensor(paths[:, i].numpy())
        with torch.no_grad():
            log_p = theirs(torch.tensor(src), tgt[:, :-1]).log_softmax(-1)
        total = log_p.gather(-1, tgt[:, 1:, None]).sum((1, 2))
        np.testing.assert_allclose(found[:, i].numpy(), total.numpy(), rtol=1e-9)


# ---- the tagger ----------------------------------------------------------------------------------


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.word_embeddings = nn.Embedding(17, 4)
        self.lstm = nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True)
        self.hidden2tag = nn.Linear(6, 5)

    def forward(self, words, lengths):
        x = self.word_embeddings(words)
        x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        x, _ = pad_packed_sequence(self.lstm(x)[0], batch_first=True, total_length=words.size(1))
        return self.hidden2tag(x)


@pytest.mark.parametrize("lengths", [[4, 9, 1, 6], None], ids=["packed", "equal"])
def test_tagger(lengths):
    theirs, ours = Tagger().double(), models.LSTMTagger(4, 3, 17, 5, num_layers=2).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    copy_state(theirs, ours)
    rng = np.random.default_rng(0)
    words, tags = rng.integers(1, 17, (4, 10)), rng.integers(0, 5, (4, 10))
    tags[np.arange(10) >= np.array(lengths or [10] * 4)[:, None]] = -1
    expected = theirs(torch.tensor(words), torch.tensor(lengths or [10] * 4))
    result = ours(gpuprop.tensor(words), lengths)
    compare(theirs, ours, expected, result, tags, sequence_loss(5, ignore_index=-1))
