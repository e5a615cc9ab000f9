"""Trainer with autocast: float16 losses are scaled; the scaler's state belongs to the run."""

import numpy as np
import pytest

import gpuprop
from gpuprop import nn, optim
from gpuprop.training import Trainer

# the first steps overflow, which computes NaN, of which NumPy warns
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in")


def task(rows=48):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 6)).astype("float32")
    return x, (x[:, 0] > x[:, 1]).astype("int64")


def trainer(precision="float16", capture=False, **options):
    gpuprop.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = optim.AdamW(model.parameters(), lr=0.02)
    made = Trainer(model, nn.CrossEntropyLoss(), optimizer, ["accuracy"], autocast=precision,
                   capture=capture, **options)
    if precision == "float16":
        made.scaler.load_state_dict({**made.scaler.state_dict(), "scale": 2.0**24,
                                     "growth_interval": 5})
    return made


def values(made):
    state = made.state_dict()
    return ([v.tobytes() for v in state["model"].values()], state["scaler"],
            [v.tobytes() for entry in state["optimizer"]["state"].values()
             for v in entry.values() if hasattr(v, "tobytes")])


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "clip_grad_norm": 1.0}], ids=str)
def test_training_in_a_half_type(backend, precision, options):
    made = trainer(precision, **options)
    history = made.fit(task(), epochs=12, batch_size=12, progress=False)
    assert history[-1]["accuracy"] > 0.8
    assert all(p.dtype == "float32" for p in made.model.parameters())
    assert made.predict(task()[0]).dtype == precision
    if precision == "float16":
        assert made.scaler.get_scale() != 2.0**24


class Outputs(nn.Module):
    """The outputs of a recurrent layer, without its state."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


MODELS = {  # (the layers before the last one, the shape of a sample)
    "mlp": (lambda: [nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8)], (6,)),
    "convolution": (lambda: [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)],
                    (2, 6, 6)),
    "upsampling": (lambda: [nn.ConvTranspose2d(2, 4, 2, 2), nn.GroupNorm(2, 4),
                            nn.Upsample(scale_factor=2), nn.AvgPool2d(3)], (2, 3, 3)),
    "lstm": (lambda: [Outputs(nn.LSTM(4, 4, batch_first=True))], (5, 4)),
    "gru": (lambda: [Outputs(nn.GRU(4, 4, batch_first=True))], (5, 4)),
    "transformer": (lambda: [nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)], (5, 4)),
}


@pytest.mark.parametrize("scale", [2.0**24, 2.0**110])
@pytest.mark.parametrize("name", MODELS)
def test_no_overflow_warns(name, scale):
    """Infinities are what the scaler looks for."""
    make, shape = MODELS[name]
    x = np.random.default_rng(0).standard_normal((8, *shape)).astype("float32")
    layers = nn.Sequential(*make(), nn.Flatten())
    model = nn.Sequential(layers, nn.Linear(layers(gpuprop.tensor(x)).shape[1], 2))
    optimizer = optim.SGD(model.parameters(), lr=1e-3)
    made = Trainer(model, nn.CrossEntropyLoss(), optimizer, autocast="float16", clip_grad_norm=1)
    made.scaler.load_state_dict({**made.scaler.state_dict(), "scale": scale})
    made.fit((x, np.arange(8) % 2), epochs=4, batch_size=8, progress=False)
    assert made.scaler.get_scale() < scale


def test_a_run_that_is_continued_has_the_same_scales(backend):
    whole = trainer()
    whole.fit(task(), epochs=6, batch_size=12, progress=False)
    first = trainer()
    first.fit(task(), epochs=3, batch_size=12, progress=False)
    second = trainer()
    second.load_state_dict(first.state_dict())
    second.fit(task(), epochs=3, batch_size=12, progress=False)
    assert values(second) == values(whole)
    with pytest.raises(ValueError, match="autocast"):
        trainer(None).load_state_dict(first.state_dict())
    with pytest.raises(RuntimeError, match="disabled"):
        trainer().load_state_dict(trainer(None).state_dict())


def test_captured_steps_are_the_same(recorder):
    with gpuprop.use(recorder):
        results = []
        for capture in (False, True):
            made = trainer(capture=capture)
            made.fit(task(), epochs=4, batch_size=12, progress=False)
            results.append(values(made))
    assert results[0] == results[1]


def test_an_error_within_a_step_leaves_the_scaler_usable():
    made = trainer(clip_grad_norm=1.0)
    step, calls = made.optimizer.step, []

    def failing():
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("meant")
        step()

    made.scaler.load_state_dict({**made.scaler.state_dict(), "scale": 4.0})
    made.optimizer.step = failing
    with pytest.raises(ValueError, match="meant"):
        made.fit(task(), batch_size=12, progress=False)
    made.fit(task(), batch_size=12, progress=False)
    assert len(made.history) == 1


@pytest.mark.parametrize("value", ["float8", "float32", 16, True, np.float16], ids=str)
def test_other_types_are_refused(value):
    with pytest.raises(ValueError, match=r"autocast.*float16.*bfloat16"):
        trainer(value)
