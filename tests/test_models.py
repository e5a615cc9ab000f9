"""gpuprop.models: names, shapes, outputs, gradients and initial values are those of torchvision.

tests/oracle/torchvision_models.py wrote torchvision's results.
"""

import tracemalloc

import numpy as np
import pytest
from model_values import CASES, CLASSES, digest, images, labels, moments, uniform, weights
from torchvision_results import MAKE, THEIRS, VIT, shapes

import gpuprop
import gpuprop.functional as F
from gpuprop import models, nn, optim
from gpuprop.nn import init

every_case = pytest.mark.parametrize("case", CASES)


def with_weights(case):
    model = MAKE[case]().double()
    model.load_state_dict(weights(shapes(model)))
    return model


@pytest.fixture
def without_memory(monkeypatch):
    """Parameters are views of one number, and initialization does nothing."""
    def full(shape, value, dtype, device):
        return gpuprop.Tensor(np.broadcast_to(np.asarray(value, dtype), shape))

    monkeypatch.setattr("gpuprop.nn._module.full", full)
    monkeypatch.setattr(init, "_draw", lambda *args, **options: None)
    monkeypatch.setattr(init, "_fill", lambda tensor, values: tensor)


@pytest.mark.parametrize("name", THEIRS["state"])
def test_names_and_shapes_of_the_whole_models(name, without_memory):
    model = getattr(models, name)()
    own = {entry: list(value.shape) for entry, value in nn._module.state_tensors(model).items()}
    assert list(own.items()) == list(THEIRS["state"][name].items())


@every_case
def test_outputs_gradients_and_buffers(case, backend):
    model, theirs = with_weights(case), THEIRS["results"][case]
    x = gpuprop.tensor(images(case))

    # PyTorch's backward of hardsigmoid has a factor of 1/6 in float32
    gradient_tolerance = 1e-7 if case.startswith("mobilenet_v3") else 1e-9

    def check(result, expected, name, tolerance=1e-9):
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance, err_msg=name)

    check(model.eval()(x).numpy(), theirs["eval"], "eval")
    y = model.train()(x)
    check(y.numpy(), theirs["train"], "train")
    F.cross_entropy(y, gpuprop.tensor(labels(case))).backward()
    for name, p in model.named_parameters():
        check(digest(name, gpuprop.asnumpy(p.grad)), theirs["gradients"][name], name,
              gradient_tolerance)
    buffers = {name: digest(name, b.numpy()) for name, b in model.named_buffers()}
    assert list(buffers) == list(theirs["buffers"])
    for name, value in buffers.items():
        check(value, theirs["buffers"][name], name)


@every_case
def test_initial_values_have_the_distributions_of_torchvision(case):
    theirs = THEIRS["initial"][case]
    for name, p in MAKE[case]().named_parameters():
        mean, std, kurtosis = moments(p.numpy())
        their_mean, their_std, their_kurtosis = theirs[name]
        noise = 6 / p.size**0.5  # standard deviations of the two samples' moments, three or more
        assert abs(mean - their_mean) <= noise * their_std, name
        assert abs(std - their_std) <= noise * their_std, name
        assert abs(kurtosis - their_kurtosis) <= 4 * noise, name


# ---- all models ----------------------------------------------------------------------------------


def tokens(*shape):
    return np.random.RandomState(0).randint(2, 11, shape)


OTHERS = {  # name -> (model, inputs, labels), without random numbers in training
    "unet": (lambda: models.UNet(1, 2, width=2), [images("vit")[:, :1, :19]],
             images("vit")[:, 1, :19] > 0),
    "unet_bilinear": (lambda: models.UNet(3, 2, bilinear=True, width=2), [images("vit")],
                      images("vit")[:, 1] > 0),
    "gpt": (lambda: models.GPT(11, 8, 12, 2, 3, dropout=0.0), [tokens(3, 7)], tokens(3, 8)[:, 1:]),
    "seq2seq": (lambda: models.Seq2SeqTransformer(1, 2, 8, 2, 11, 11, 16, dropout=0.0),
                [tokens(3, 6), tokens(3, 5)], tokens(3, 6)[:, 1:]),
    "tagger": (lambda: models.LSTMTagger(8, 6, 11, 3, num_layers=2), [tokens(3, 6), [4, 6, 1]],
               tokens(3, 6) % 3),
}
ALL = {**{case: (MAKE[case], [images(case)], labels(case)) for case in CASES}, **OTHERS}
every_model = pytest.mark.parametrize("name", ALL)


def run(name, gp, dtype="float32", cross_entropy=F.cross_entropy):
    """The model, and a function that computes its loss; `gp` makes the inputs."""
    make, inputs, targets = ALL[name]
    model = make().to(dtype=dtype)
    arrays = [gp.tensor(x.astype(dtype) if x.dtype.kind == "f" else x)
              if isinstance(x, np.ndarray) else x for x in inputs]
    targets = gp.tensor(np.asarray(targets, "int64")).reshape(-1)

    def loss():
        y = model(*arrays)
        if name.startswith("unet"):
            y = y.permute(0, 2, 3, 1)
        return cross_entropy(y.reshape(len(targets), -1), targets)

    return model, loss


def losses(model, loss, steps=12):
    """The losses of a training run."""
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        found.append(value.item())
    return found


@every_model
def test_training_lowers_the_loss(name):
    found = losses(*run(name, gpuprop))
    assert found[-1] < 0.95 * found[0], found


@pytest.mark.parametrize("name", OTHERS)
def test_backends_agree(name, backend):
    model, loss = run(name, gpuprop, "float64")
    value = loss()
    value.backward()
    gpuprop.use("numpy")
    gpuprop.manual_seed(0)
    expected_model, expected = run(name, gpuprop, "float64")
    expected().backward()
    np.testing.assert_allclose(value.item(), expected().item(), rtol=1e-12)
    for (entry, p), q in zip(model.named_parameters(), expected_model.parameters(), strict=True):
        np.testing.assert_allclose(gpuprop.asnumpy(p.grad), q.grad, rtol=1e-8, atol=1e-11,
                                   err_msg=entry)


@every_model
def test_a_program_in_pytorchs_words_gets_the_same(name):
    import gpuprop.torch as torch

    expected_model, expected = run(name, gpuprop, "float64")
    wanted = losses(expected_model, expected, 2)
    gpuprop.manual_seed(0)
    model, loss = run(name, torch, "float64", torch.nn.functional.cross_entropy)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for value in wanted:
        optimizer.zero_grad()
        result = loss()
        assert type(result) is torch.Tensor
        np.testing.assert_allclose(result.item(), value, rtol=1e-12)
        result.backward()
        optimizer.step()


# ---- single models -------------------------------------------------------------------------------


def test_weights_that_pytorch_saved_load(tmp_path):
    """By `gpuprop.torch.load`; the file is one of PyTorch, whose format `save` writes."""
    import gpuprop.torch as torch

    state = MAKE["mobilenet_v3_small"]().state_dict()
    torch.save({name: torch.tensor(value) for name, value in state.items()}, tmp_path / "x.pth")
    gpuprop.save(tmp_path / "x.safetensors", state)
    for loaded in (torch.load(tmp_path / "x.pth"), gpuprop.load(tmp_path / "x.safetensors")):
        model = MAKE["mobilenet_v3_small"]()
        model.load_state_dict(loaded)
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(value, state[name], err_msg=name)


@pytest.mark.parametrize("name", ["convnext with stochastic depth", "gpt with dropout"])
def test_steps_of_models_with_random_numbers_are_captured(name, recorder):
    gpuprop.use(recorder)
    if name.startswith("convnext"):
        model = models.ConvNeXt([1, 1], [4, 8], CLASSES, stochastic_depth_prob=0.5)
        x, y = gpuprop.tensor(images("convnext").astype("float32")), labels("convnext")
    else:
        model = models.GPT(11, 8, 12, 2, 3, dropout=0.2)
        x, y = gpuprop.tensor(tokens(1, 6)), tokens(1, 7)[0, 1:]
    y = gpuprop.tensor(y)
    optimizer = optim.Adam(model.parameters())

    @gpuprop.capture
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).reshape(len(y), -1), y)
        loss.backward()
        optimizer.step()
        return loss

    # a step that cannot be captured, or whose replay differs, warns: an error in this suite
    assert len({step(x, y).item() for _ in range(6)}) > 3


def test_positions_of_a_vit_for_images_of_another_size():
    state = {"encoder.pos_embedding": uniform("positions", (1, 17, 3)), "heads.head.bias": 0}
    resized = models.interpolate_embeddings(56, 8, state, reset_heads=True)
    assert list(resized) == ["encoder.pos_embedding"]
    assert state["encoder.pos_embedding"].shape == (1, 17, 3)
    np.testing.assert_allclose(resized["encoder.pos_embedding"].numpy(), THEIRS["positions"],
                               rtol=1e-12, atol=1e-12)
    small, large = VIT(), models.VisionTransformer(40, 8, 2, 2, 16, 32, num_classes=CLASSES)
    large.load_state_dict(models.interpolate_embeddings(40, 8, small.state_dict()))
    assert large(gpuprop.zeros(1, 3, 40, 40)).shape == (1, CLASSES)
    with pytest.raises(ValueError, match=r"x must be \(N, 3, 40, 40\), got \(1, 3, 24, 24\)"):
        large(gpuprop.zeros(1, 3, 24, 24))


def test_a_vit_loads_the_names_of_published_files():
    model = VIT()
    state = {name: value + 1 for name, value in model.state_dict().items()}
    old = {name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): value
           for name, value in state.items()}
    assert sum("linear_2" in name for name in old) == 4
    model.load_state_dict(old)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, state[name], err_msg=name)


def test_weights_from_before_batches_were_counted_load():
    model = MAKE["resnet_basic"]()
    state = {name: value for name, value in model.state_dict().items()
             if not name.endswith("num_batches_tracked")}
    assert model.load_state_dict(state) == ([], [])
    del state["bn1.running_mean"]
    with pytest.raises(ValueError, match=r"missing: bn1\.running_mean$"):
        model.load_state_dict(state)


def test_inference_holds_no_more_than_it_must():
    """The largest activations of ResNet-18 are 3.2 MB: three of them, and a workspace."""
    model = models.resnet18().eval()
    x = gpuprop.ones(1, 3, 224, 224)
    with gpuprop.no_grad():
        model(x)
        tracemalloc.start()
        try:
            model(x)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 12e6


def test_stochastic_depth_drops_whole_samples():
    layer = models._convnext.StochasticDepth(0.25)
    y = layer(gpuprop.ones(4000, 3, 2)).numpy()
    assert (y == y[:, :1, :1]).all() and set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert abs((y[:, 0, 0] == 0).mean() - 0.25) < 0.03
    assert layer.eval()(gpuprop.ones(2)).tolist() == [1, 1]
    rates = [m.p for m in models.ConvNeXt([2, 3], [4, 8], 2, 0.4).modules()
             if isinstance(m, models._convnext.StochasticDepth)]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4])


def greedy(logits_of, tokens, count):
    """Greedy decoding without caches, by ``logits_of(tokens)`` of the last position."""
    for _ in range(count):
        best = logits_of(gpuprop.tensor(tokens)).numpy()[:, -1].argmax(-1)
        tokens = np.concatenate([tokens, best[:, None]], 1)
    return tokens


def test_gpt_generates_with_its_caches_what_it_computes_without(backend):
    model = ALL["gpt"][0]().double().eval()
    for p in model.parameters():
        nn.init.normal_(p)
    expected = greedy(model, tokens(3, 2), 7)
    np.testing.assert_array_equal(model.generate(tokens(3, 2), 7).numpy(), expected)
    eos = int(expected[0, 4])
    ended = model.generate(tokens(3, 2)[:1], 7, eos=eos).numpy()
    np.testing.assert_array_equal(ended, expected[:1, :ended.shape[1]])
    assert ended[0, -1] == eos and eos not in ended[0, 2:-1]
    chosen = model.generate(tokens(3, 2), 3, choose=lambda logits: gpuprop.argmin(logits, -1))
    assert not (chosen.numpy() == expected[:, :5]).all()
    with pytest.raises(ValueError, match=r"GPT.generate: prompts \(3, 2\) and 8 new tokens"):
        model.generate(tokens(3, 2), 8)
    with pytest.raises(ValueError, match=r"GPT: tokens \(1, 9\) are more than n_positions=8"):
        model(gpuprop.tensor(tokens(1, 9)))


def test_a_transformer_generates_what_it_computes(backend):
    model = ALL["seq2seq"][0]().double().eval()
    source = gpuprop.tensor(tokens(3, 6))
    for p in model.parameters():
        nn.init.normal_(p)
    expected = greedy(lambda tgt: model(source, tgt), np.full((3, 1), 2), 5)
    np.testing.assert_array_equal(model.generate(source, 2, 5).numpy(), expected)
    best, _ = model.beam_search(source, 2, 5, beams=3)
    assert best.shape == (3, 3, 6)
    eos = int(expected[0, 2])
    ended = model.generate(source[:1], 2, 5, eos=eos).numpy()
    np.testing.assert_array_equal(ended, expected[:1, :ended.shape[1]])
    assert ended.shape[1] <= 3


def test_padding_does_not_reach_the_other_positions():
    model = ALL["seq2seq"][0]().double().eval()
    source, target = tokens(1, 6), tokens(1, 5)
    padded = np.pad(source, ((0, 0), (0, 3)), constant_values=model.pad_idx)
    short, long = (model(gpuprop.tensor(s), gpuprop.tensor(target)) for s in (source, padded))
    np.testing.assert_allclose(short.numpy(), long.numpy(), rtol=1e-12)
    tagger = ALL["tagger"][0]().double()
    short = tagger(gpuprop.tensor(source))
    long = tagger(gpuprop.tensor(padded), lengths=[6])
    np.testing.assert_allclose(short.numpy(), long.numpy()[:, :6], rtol=1e-12)


def test_initial_values_of_gpt():
    model = models.GPT(100, 50, 64, 8, 4)
    for name, p in model.named_parameters():
        mean, std, kurtosis = moments(p.numpy())
        if p.ndim == 1:
            assert (mean, std) == (float(name.endswith("weight")), 0), name
        else:
            wanted = 0.02 / 4 if name.endswith("c_proj.weight") else 0.02
            assert abs(std / wanted - 1) < 0.05 and abs(kurtosis - 3) < 0.3, name


@pytest.mark.parametrize("name, parameters", [
    ("gpt2", 124_439_808), ("gpt2_medium", 354_823_168), ("gpt2_large", 774_030_080),
    ("gpt2_xl", 1_557_611_200)])
def test_sizes_of_gpt(name, parameters, without_memory):
    assert sum(p.size for p in getattr(models, name)().parameters()) == parameters


@pytest.mark.parametrize("bilinear, parameters", [(False, 31_037_698), (True, 17_263_042)])
def test_size_of_unet(bilinear, parameters, without_memory):
    model = models.UNet(3, 2, bilinear)
    assert sum(p.size for p in model.parameters()) == parameters


@pytest.mark.parametrize("make, message", [
    (lambda: models.resnet18(groups=2), "BasicBlock: groups and width_per_group must be 1 and 64"),
    (lambda: models.ResNet(models.BasicBlock, [2, 2, 2]), "four groups, got"),
    (lambda: models.ConvNeXt([1, 2], [8]), "one number for each stage"),
    (lambda: models.GPT(n_embd=10, n_head=3), "n_head=3 must divide n_embd=10"),
    (lambda: models.vit_b_16(image_size=40), "patch_size=16 must divide image_size=40"),
])
def test_wrong_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
