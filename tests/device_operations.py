"""Counts the device operations of steps and layers.

``python tests/device_operations.py`` writes docs/device-operations.md.  hostcuda takes the place of
the GPU, so the counts are exact and need no GPU.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import gpuprop
import gpuprop.functional as F
from gpuprop import Tensor, nn, optim
from gpuprop.amp import GradScaler

PAGE = Path(__file__).parents[1] / "docs" / "device-operations.md"
TEXT = """# Device operations

The work that one call gives to a GPU, after all first-use initialization: kernel launches, device
copies and memsets (*operations*), and waits of the host for the device (*waits*; CuPy waits twice
for each array that is read).  Layers and losses are counted forward and backward.

`tests/test_device_operations.py` compares new counts with this page, which
`python tests/device_operations.py` writes.  The counts are those of CuPy {cupy}.

| call | operations | waits |
|---|--:|--:|
{rows}
"""


# ---- the calls ----------------------------------------------------------------------------------


def floats(*shape: int) -> Tensor:
    return gpuprop.tensor(np.random.default_rng(0).standard_normal(shape).astype("float32"))


def integers(n: int, *shape: int) -> Tensor:
    return gpuprop.tensor(np.random.default_rng(1).integers(0, n, shape))


def training(model: nn.Module, optimizer: optim.Optimizer, *batch: Tensor) -> Callable:
    """A step of training with the cross-entropy of the model's output."""
    *inputs, y = batch

    def step() -> None:
        optimizer.zero_grad()
        out = model(*inputs)
        F.cross_entropy(out.reshape(-1, out.shape[-1]), y.reshape(-1)).backward()
        optimizer.step()

    return step


def both(forward: Callable, *inputs: Tensor) -> Callable:
    """Forward and backward of the sum of the output, or of the first of several outputs."""
    for x in inputs:
        if x.dtype == "float32":
            x.requires_grad_()

    def run() -> None:
        y = forward(*inputs)
        (y[0] if isinstance(y, tuple) else y).sum().backward()

    return run


def mlp(dropout: bool) -> Callable:
    drop = [nn.Dropout(0.1)] * dropout
    model = nn.Sequential(
        nn.Linear(784, 256), nn.ReLU(), *drop,
        nn.Linear(256, 128), nn.ReLU(), *drop,
        nn.Linear(128, 10))
    return training(model, optim.Adam(model.parameters()), floats(32, 784), integers(10, 32))


def cnn() -> Callable:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8 * 13 * 13, 10))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return training(model, optimizer, floats(16, 1, 28, 28), integers(10, 16))


class Block(nn.Module):
    """A block of a GPT: causal attention and an MLP, with layer norms and residual connections."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, c // self.heads)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout)
        x = x + self.drop(self.out(a.swapaxes(1, 2).reshape(n, t, c)))
        return x + self.drop(self.mlp(self.norm2(x)))


def optimizer_step(make: Callable, parameters: int = 1) -> Callable:
    model = nn.ParameterList([nn.Parameter(floats(64, 4).data) for _ in range(parameters)])
    optimizer = make(model.parameters())
    for p in model.parameters():
        p.grad = gpuprop.ones(p.shape).data
    optimizer.step()  # copies the gradients into the arena
    return optimizer.step


def averaged_model() -> Callable:
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(50)])
    averaged = optim.swa_utils.AveragedModel(
        model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn())
    return lambda: averaged.update_parameters(model)


def clip_grad_norm() -> Callable:
    model = nn.Linear(64, 64)
    optim.SGD(model.parameters(), lr=0.1)
    model(floats(2, 64)).sum().backward()
    return lambda: nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def scaled_step(make: Callable) -> Callable:
    model = nn.Linear(64, 64)
    optimizer = make(model.parameters())
    scaler = GradScaler()
    scaler.scale(model(floats(2, 64)).sum()).backward()

    def step() -> None:
        scaler.step(optimizer)
        scaler.update()

    return step


def loss_item() -> Callable:
    loss = F.cross_entropy(floats(4, 3), integers(3, 4))
    return loss.item


def ctc() -> Callable:
    targets = gpuprop.tensor(np.array([[1, 2, 3], [2, 2, 4]]))
    lengths = np.array([12, 12]), np.array([3, 3])

    def loss(x: Tensor) -> Tensor:
        return F.ctc_loss(F.log_softmax(x, -1), targets, *map(gpuprop.tensor, lengths))

    return both(loss, floats(12, 2, 5))


def dropout() -> Callable:
    x = floats(8, 64)
    return lambda: F.dropout(x, 0.1)


def repeat() -> Callable:
    x = floats(3, 4)
    return lambda: gpuprop.repeat(x, [1, 2, 3], 0)


def conv2d() -> Callable:
    return both(nn.Conv2d(64, 64, 3, padding=1), floats(128, 64, 32, 32))


def attention() -> Callable:
    return both(F.scaled_dot_product_attention, *[floats(2, 4, 32, 16)] * 3)


def encoder_layer() -> Callable:
    return both(nn.TransformerEncoderLayer(32, 4, 64, 0.0), floats(8, 2, 32))


# Each function returns the call, which is made twice and counted the third time.
CALLS: dict[str, Callable[[], Callable]] = {
    "train: MLP 784-256-128-10, Adam": lambda: mlp(False),
    "the same with two dropouts": lambda: mlp(True),
    "train: CNN with batch norm and max pooling, SGD with momentum": cnn,
    "GPT block, batch 4, 64 tokens, width 128":
        lambda: both(Block(128, 4, 0.0), floats(4, 64, 128)),
    "the same with dropout 0.1": lambda: both(Block(128, 4, 0.1), floats(4, 64, 128)),
    "GPT block, batch 8, 1024 tokens, width 768":
        lambda: both(Block(768, 12, 0.0), floats(8, 1024, 768)),
    "Adam, 1 parameter": lambda: optimizer_step(optim.Adam),
    "AdamW, 100 parameters": lambda: optimizer_step(optim.AdamW, 100),
    "SGD": lambda: optimizer_step(lambda p: optim.SGD(p, lr=0.1)),
    "SGD with momentum": lambda: optimizer_step(lambda p: optim.SGD(p, lr=0.1, momentum=0.9)),
    "RMSprop": lambda: optimizer_step(optim.RMSprop),
    **{name: lambda name=name: optimizer_step(getattr(optim, name)) for name in (
        "Adadelta", "Adagrad", "Adamax", "ASGD", "Lion", "NAdam", "RAdam", "Rprop")},
    **{f"{name}, 1 matrix": lambda name=name: optimizer_step(getattr(optim, name))
       for name in ("Adafactor", "LAMB", "Muon", "SparseAdam")},
    "AveragedModel, 100 parameters": averaged_model,
    "clip_grad_norm_": clip_grad_norm,
    "GradScaler: step and update, Adam": lambda: scaled_step(optim.Adam),
    "Linear 64-64": lambda: both(nn.Linear(64, 64), floats(8, 64)),
    "Conv2d 64-64, 3x3, batch 128, 32x32": conv2d,
    "ConvTranspose2d 4-4, 3x3": lambda: both(nn.ConvTranspose2d(4, 4, 3), floats(2, 4, 8, 8)),
    "MaxPool2d 2x2": lambda: both(nn.MaxPool2d(2), floats(2, 4, 8, 8)),
    "AvgPool2d 2x2": lambda: both(nn.AvgPool2d(2), floats(2, 4, 8, 8)),
    "BatchNorm2d": lambda: both(nn.BatchNorm2d(4), floats(2, 4, 8, 8)),
    "LayerNorm": lambda: both(nn.LayerNorm(64), floats(8, 64)),
    "Dropout, forward": dropout,
    "Dropout": lambda: both(nn.Dropout(0.1), floats(8, 64)),
    "GELU": lambda: both(nn.GELU(), floats(8, 64)),
    "softmax": lambda: both(lambda x: F.softmax(x, -1), floats(8, 64)),
    "cross_entropy": lambda: both(F.cross_entropy, floats(8, 10), integers(10, 8)),
    "ctc_loss, 12 steps": ctc,
    "Embedding, 256 tokens": lambda: both(nn.Embedding(100, 16), integers(100, 256)),
    "attention, 4 heads, 32 tokens": attention,
    "TransformerEncoderLayer": encoder_layer,
    "LSTM, 20 steps": lambda: both(nn.LSTM(16, 16), floats(20, 4, 16)),
    "GRU, 20 steps": lambda: both(nn.GRU(16, 16), floats(20, 4, 16)),
    "repeat by a list": repeat,
    "loss.item()": loss_item,
}
READ = {"loss.item()"}  # calls that read values
LARGE = {  # counted but not computed
    "GPT block, batch 8, 1024 tokens, width 768",
    "Conv2d 64-64, 3x3, batch 128, 32x32",
}


# ---- counting -----------------------------------------------------------------------------------


def figures(name: str) -> tuple[int, int]:
    """Operations and waits of the third call."""
    import hostcuda
    from counted import settled  # it finds hostcuda only if it is imported before

    call = CALLS[name]()
    with hostcuda.dry() if name in LARGE else contextlib.nullcontext():
        counts = settled(call)
    waits = sum(n for name, n in counts.items() if name.startswith("[synchronize"))
    operations = sum(n for name, n in counts.items() if is_operation(name))
    return operations, waits


def is_operation(name: str) -> bool:
    """True for kernels, whose names have no bracket, and for copies and memsets on the device."""
    return (not name.startswith("[") or "on device" in name
            or name.startswith(("[memset", "[copy to device")))


def page(rows: dict[str, tuple[int, int]]) -> str:
    import cupy

    lines = [f"| {name} | {operations} | {waits} |" for name, (operations, waits) in rows.items()]
    return TEXT.format(cupy=cupy.__version__, rows="\n".join(lines))


def table(text: str) -> dict[str, tuple[int, int]]:
    """The rows of the page."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: (int(operations), int(waits)) for name, operations, waits in cells[2:]}


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent / "hostcuda"))
    import hostcuda

    hostcuda.activate()
    rows = {}
    with gpuprop.use("cupy"):
        for name in CALLS:
            gpuprop.manual_seed(0)
            rows[name] = figures(name)
            print(f"{name}: {rows[name]}", flush=True)
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
