"""Draw digits by removing noise step by step, and judge them with a classifier.

A diffusion model (Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", 2020) adds
noise to an image x_0 in T steps, until nothing is left of it.  After step t the image is

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise

and a network learns to estimate x_0 from x_t.  To draw, it begins with noise alone and removes a
part of it in each step.  The steps may be fewer than T, and add no new noise (Song, Meng and Ermon,
"Denoising diffusion implicit models", 2021): `steps` is 40 instead of 400, and `eta` is 0; all
steps with an `eta` of 1 are those of Ho et al.  The shares a_t fall along a cosine (Nichol and
Dhariwal, "Improved denoising diffusion probabilistic models", 2021).

Ho et al. estimate the noise.  The image takes less training: unlike noise, it has few degrees of
freedom (Li and He, "Back to basics: let denoising generative models denoise", 2025).

    python examples/diffusion.py [--data DIR] [--epochs 8] [--images 50000] [--samples 2000]
                                 [--steps 40] [--eta 0.0] [--seed 0] [--backend cpu|cuda|auto]
                                 [--out out]

The script finds or downloads MNIST as examples/mnist.py does.  It judges `samples` images as
examples/gan.py does.  It draws some of them, and how others come out of noise,
`out`/diffusion.png, and saves the network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from command_line import parse_arguments
from figures import record
from judge import Judge
from mnist import hold_back, load_mnist
from mnist_cnn import show_grid
from runs import training_run

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim, random
from gpuprop.data import ArrayDataset, DataLoader

T = 400  # steps of the noise
TIME = 64  # numbers that describe a step


def shares() -> np.ndarray:
    """The share a_t of the image's variance after steps 0 to T: from 1 to almost 0."""
    curve = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2)**2
    return np.maximum(curve / curve[0], 1e-4).astype("float32")


def waves() -> np.ndarray:
    """The steps 0 to T as sines and cosines (T + 1, TIME) of different frequencies."""
    frequencies = 10000.0**-np.linspace(0, 1, TIME // 2)
    angles = np.arange(T + 1)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype("float32")


class Block(nn.Module):
    """Two convolutions (N, before, H, W) -> (N, after, H, W) that know the step, and a shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, before), nn.SiLU(),
                                   nn.Conv2d(before, after, 3, padding=1))
        self.step = nn.Linear(TIME, after)
        self.second = nn.Sequential(nn.GroupNorm(8, after), nn.SiLU(),
                                    nn.Conv2d(after, after, 3, padding=1))
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Any, step: Any) -> Any:
        y = self.first(x) + self.step(step)[:, :, None, None]
        return self.shortcut(x) + self.second(y)


class Whole(nn.Module):
    """Fully connected layers (N, C, 7, 7) -> (N, C, 7, 7) that know the step, and a shortcut.

    They see the whole image, for which convolutions would take many layers.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, channels), nn.SiLU(), nn.Flatten(),
                                   nn.Linear(49 * channels, width))
        self.step = nn.Linear(TIME, width)
        self.second = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                    nn.Linear(width, 49 * channels),
                                    nn.Unflatten(1, (channels, 7, 7)))

    def forward(self, x: Any, step: Any) -> Any:
        return x + self.second(self.first(x) + self.step(step))


class UNet(nn.Module):
    """Estimates images (N, 784) from what they are after steps t (N,).

    It works on squares of 2 x 2 pixels, on a grid of 14 x 14 and below that on one of 7 x 7.
    """

    waves: gpuprop.Tensor

    def __init__(self, above: int = 24, below: int = 32, whole: int = 512) -> None:
        super().__init__()
        self.register_buffer("waves", gpuprop.tensor(waves()))
        self.describe = nn.Sequential(nn.Linear(TIME, TIME), nn.SiLU(),
                                      nn.Linear(TIME, TIME), nn.SiLU())
        self.enter = nn.Sequential(nn.Unflatten(1, (1, 28, 28)), nn.PixelUnshuffle(2),
                                   nn.Conv2d(4, above, 3, padding=1))
        self.above = Block(above, above)
        self.down = nn.Conv2d(above, below, 3, stride=2, padding=1)
        self.below = nn.ModuleList([Block(below, below), Whole(below, whole)])
        self.up = nn.Sequential(nn.Conv2d(below, above, 1), nn.Upsample(scale_factor=2))
        self.join = Block(2 * above, above)
        self.leave = nn.Sequential(nn.GroupNorm(8, above), nn.SiLU(),
                                   nn.Conv2d(above, 4, 3, padding=1), nn.PixelShuffle(2),
                                   nn.Flatten())

    def forward(self, x: Any, t: Any) -> Any:
        step = self.describe(self.waves[t])
        above = self.above(self.enter(x), step)
        below = self.down(above)
        for block in self.below:
            below = block(below, step)
        both = gpuprop.concatenate([above, self.up(below)], axis=1)
        return self.leave(self.join(both, step))


class Diffusion(nn.Module):
    """The network, and the shares of the steps."""

    shares: gpuprop.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = UNet()
        self.register_buffer("shares", gpuprop.tensor(shares()))

    def forward(self, x: Any) -> Any:
        """The mean squared error of the estimated images, after random steps."""
        t = random.integers(1, T + 1, (len(x),), stream=random.NOISE)
        noise = random.normal(x.shape, dtype=x.dtype, stream=random.NOISE)
        share = self.shares[t][:, None]
        noisy = gpuprop.sqrt(share) * x + gpuprop.sqrt(1 - share) * noise
        return F.mse_loss(self.network(noisy, t), x)


def run(data: ArrayDataset | None = None, epochs: int = 1) -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    if data is None:  # noise
        data = ArrayDataset(random.uniform((48, 784)).numpy())
    loader = DataLoader(data, 64, shuffle=True)
    model = Diffusion()
    optimizer = optim.Adam(model.parameters())
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, epochs=epochs,
                                              steps_per_epoch=len(loader), pct_start=0.1)
    loss_of = lambda model, images: model(2 * images - 1)
    return training_run(model, loss_of, optimizer, loader, scheduler)


@gpuprop.no_grad()
def denoised(network: nn.Module, x: Any, steps: int, eta: float) -> Iterator[Any]:
    """What becomes of noise x (N, 784) after each of the steps; the last are images.

    From step t to step s < t, by equation 12 of Song et al.:
    ``x_s = sqrt(a_s) x_0 + sqrt(1 - a_s - d^2) noise + d * (new noise)``.
    """
    a = shares().tolist()
    times = np.linspace(T, 0, steps + 1).round().astype(int).tolist()
    for t, s in pairwise(times):
        image = network(x, gpuprop.full((len(x),), t)).clip(-1, 1)
        noise = (x - math.sqrt(a[t]) * image) / math.sqrt(1 - a[t])
        d = eta * math.sqrt((1 - a[s]) / (1 - a[t]) * (1 - a[t] / a[s]))
        x = math.sqrt(a[s]) * image + math.sqrt(1 - a[s] - d**2) * noise
        if d:
            x = x + d * random.normal(x.shape)
        yield x


def drawn(network: nn.Module, n: int, steps: int, eta: float) -> np.ndarray:
    """Images (n, 784) of pixels from 0 to 1."""
    parts = []
    for start in range(0, n, 200):
        *_, last = denoised(network, random.normal((min(200, n - start), 784)), steps, eta)
        parts.append(last.numpy())
    return np.concatenate(parts) / 2 + 0.5


def draw(path: Path, network: nn.Module, images: np.ndarray, steps: int, eta: float) -> None:
    """A hundred images, and six more that come out of noise from left to right."""
    from matplotlib.figure import Figure

    noise = random.normal((6, 784))
    walk = [x.numpy() for x in (noise, *denoised(network, noise, steps, eta))]
    chosen = np.linspace(0, steps, 8).round().astype(int)
    stages = np.stack([walk[i] for i in chosen], axis=1).clip(-1, 1) / 2 + 0.5
    figure = Figure(figsize=(12, 5.4), dpi=80, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[10, 12])
    style = {"cmap": "gray_r", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    show_grid(left, images[:100].reshape(-1, 28, 28), 10, "samples", **style)
    show_grid(right, stages.reshape(-1, 28, 28), 8, "from noise to digits", **style)
    figure.savefig(path)


def main() -> None:
    args = parse_arguments(__doc__, epochs=8, images=50000, samples=2000, steps=40, eta=0.0)
    if not 0 <= args.eta <= 1:
        raise SystemExit(f"--eta {args.eta}: expected 0 to 1")
    if args.steps > T:
        raise SystemExit(f"--steps {args.steps}: expected 1 to {T}")
    data, test = load_mnist(args.data)
    train, held = hold_back(data, 1 / 6, args.images)
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"{len(train)} training images, {len(test)} test images, backend {backend.name!r}",
          flush=True)
    model, step, batches = run(ArrayDataset(train.arrays[0]), args.epochs)
    for epoch in range(1, args.epochs + 1):
        start = time.perf_counter()
        mean = np.mean([step(*batch).item() for batch in batches])
        print(f"epoch {epoch:2d}/{args.epochs}: loss {mean:.4f}, "
              f"{time.perf_counter() - start:.0f} s", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    gpuprop.save(args.out / "diffusion.safetensors", model.network.state_dict())

    images = drawn(model.network, args.samples, args.steps, args.eta)
    draw(args.out / "diffusion.png", model.network, images, args.steps, args.eta)
    judge = Judge(train)
    print(f"the judge's accuracy on held images: {judge.accuracy(held):.4f}", flush=True)
    figures = judge.figures(images, held.arrays[0], test.arrays[0], args.seed)
    record(args.record, *figures)
    print(*figures, sep="\n")


if __name__ == "__main__":
    main()
