"""Draw digits with a generative adversarial network, and judge them with a classifier.

A generator draws images from random numbers.  A discriminator learns to tell them from real ones,
and the generator learns to deceive it (Goodfellow et al., "Generative adversarial nets", 2014).
Both are convolutional (Radford, Metz and Chintala, "Unsupervised representation learning with deep
convolutional generative adversarial networks", 2016), but small.  The images are drawn with the
moving average of the generator's weights, which wavers less from step to step.

    python examples/gan.py [--data DIR] [--epochs 12] [--images 50000] [--samples 2000] [--seed 0]
                           [--backend cpu|cuda|auto] [--out out]

The script finds or downloads MNIST as examples/mnist.py does.  A classifier, which learns from the
same images (examples/judge.py), judges `samples` images by the Fréchet distance of its features
from those of real images; by a score, which is high if each image is clearly one digit and all
digits occur; and by the share of the rarest digit.  Real images and those of a mixture of normal
distributions are judged too.  The last 10 000 training images are held back: each epoch's line
compares with them, the last lines with the test images.  The script draws samples as the network
learns, `out`/gan.png, and saves both networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from command_line import parse_arguments
from figures import record
from judge import Judge
from mnist import hold_back, load_mnist

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim, random
from gpuprop.data import ArrayDataset, DataLoader
from gpuprop.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

NUMBERS = 64  # from which an image is drawn
SHOWN = 20  # images in a row of the picture


def make_generator() -> nn.Sequential:
    """A network that maps random numbers (N, NUMBERS) to images (N, 784)."""
    return nn.Sequential(
        nn.Linear(NUMBERS, 48 * 7 * 7, bias=False), nn.Unflatten(1, (48, 7, 7)),
        nn.BatchNorm2d(48), nn.ReLU(),
        nn.ConvTranspose2d(48, 24, 4, stride=2, padding=1, bias=False),      # (N, 24, 14, 14)
        nn.BatchNorm2d(24), nn.ReLU(),
        nn.ConvTranspose2d(24, 1, 4, stride=2, padding=1), nn.Sigmoid(),     # (N, 1, 28, 28)
        nn.Flatten())


def make_discriminator() -> nn.Sequential:
    """A network that maps images (N, 784) to logits (N, 1): is the image real?"""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 24, 4, stride=2, padding=1), nn.LeakyReLU(0.2),         # (N, 24, 14, 14)
        nn.Conv2d(24, 48, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(48), nn.LeakyReLU(0.2),                               # (N, 48, 7, 7)
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(48 * 7 * 7, 1))


class Networks(nn.Module):
    """The two opponents, and the generator's average."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = make_generator()
        self.discriminator = make_discriminator()
        self.average = AveragedModel(self.generator, use_buffers=True,
                                     multi_avg_fn=get_ema_multi_avg_fn(0.99))
        self.average.eval()


def run(data: ArrayDataset | None = None) -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    if data is None:  # noise
        data = ArrayDataset(random.uniform((96, 784)).numpy())
    model = Networks()
    of_generator, of_discriminator = (
        optim.Adam(network.parameters(), lr=lr, betas=(0.5, 0.999))
        for network, lr in ((model.generator, 1e-3), (model.discriminator, 3e-4)))

    def step(images: Any) -> Any:
        numbers = random.normal((len(images), NUMBERS), dtype=images.dtype, stream=random.NOISE)
        drawn = model.generator(numbers)
        of_generator.zero_grad()
        F.softplus(-model.discriminator(drawn)).mean().backward()
        of_discriminator.zero_grad()  # also of the generator's loss
        loss = (F.softplus(-model.discriminator(images)).mean()
                + F.softplus(model.discriminator(drawn.detach())).mean())
        loss.backward()
        of_generator.step()
        of_discriminator.step()
        model.average.update_parameters(model.generator)
        return loss

    return model, step, DataLoader(data, 64, shuffle=True)


def drawn_from(generator: nn.Module, numbers: np.ndarray) -> np.ndarray:
    """Images (N, 784) from random numbers (N, NUMBERS)."""
    with gpuprop.no_grad():
        parts = [generator(x).numpy() for x, in DataLoader(ArrayDataset(numbers), 500)]
    return np.concatenate(parts)


def draw(path: Path, rows: dict[str, np.ndarray]) -> None:
    """Rows of images (N, 784)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 0.62 * len(rows)), dpi=80, layout="constrained")
    grid = figure.subplots(len(rows), 1, squeeze=False).flat
    for axes, (title, images) in zip(grid, rows.items(), strict=True):
        axes.imshow(np.hstack([*images.reshape(-1, 28, 28)]), cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(title, rotation=0, ha="right", va="center")
    figure.savefig(path)


def main() -> None:
    args = parse_arguments(__doc__, epochs=12, images=50000, samples=2000)
    data, test = load_mnist(args.data)
    train, held = hold_back(data, 1 / 6, args.images)
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"{len(train)} training images, {len(test)} test images, backend {backend.name!r}",
          flush=True)
    judge = Judge(train)
    print(f"the judge's accuracy on held images: {judge.accuracy(held):.4f}", flush=True)
    real = judge.view(held.arrays[0])

    model, step, batches = run(ArrayDataset(train.arrays[0]))
    numbers = random.normal((args.samples, NUMBERS)).numpy()
    rows = {}
    for epoch in range(1, args.epochs + 1):
        mean = np.mean([step(*batch).item() for batch in batches])
        images = drawn_from(model.average, numbers)
        rows[f"epoch {epoch}"] = images[:SHOWN]
        view = judge.view(images)
        print(f"epoch {epoch:2d}/{args.epochs}: discriminator's loss {mean:.3f}, "
              f"Fréchet distance {view.distance(real):.2f}, score {view.score():.2f}", flush=True)

    args.out.mkdir(parents=True, exist_ok=True)
    gpuprop.save(args.out / "gan.safetensors", model.state_dict())
    draw(args.out / "gan.png", rows)
    figures = judge.figures(images, held.arrays[0], test.arrays[0], args.seed)
    record(args.record, *figures)
    print(*figures, sep="\n")


if __name__ == "__main__":
    main()
