"""Learn to draw digits with a variational autoencoder, and measure how probable it finds new ones.

An encoder maps an image x to a normal distribution q(z|x) of codes z, and a decoder maps a code to
the probability p(x|z) that each pixel is black.  Both maximize a lower bound (ELBO) of log p(x),
where p(z), the distribution of codes before an image is known, is standard normal (Kingma and
Welling, "Auto-encoding variational Bayes", 2014):

    log p(x) >= E_q [log p(x|z)] - KL(q(z|x) || p(z))

Data and measure are those of Burda, Grosse and Salakhutdinov ("Importance weighted autoencoders",
2016): pixels are drawn anew, black or white, in every epoch, with the gray value as the probability
of black.  Their negative log-likelihood, with two layers of 200 units on both sides and 50 numbers
in a code, is 86.76 nats after 3 280 epochs.  Here the layers have 400 units.

    python examples/vae.py [--data DIR] [--epochs 30] [--images 55000] [--batch-size 100]
                           [--samples 500] [--seed 0] [--backend cpu|cuda|auto] [--out out]

The script finds or downloads MNIST as examples/mnist.py does.  As it learns, it prints the ELBO of
the last 5 000 training images, which are held back.  For the test images it prints the ELBO, and
the log-likelihood as Burda et al. estimate it: with `samples` codes of each image, weighted by
their importance, which also gives a lower bound; they take 5 000.  It draws samples,
reconstructions and walks between digits, `out`/vae.png, and saves the network.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from mnist import hold_back, load_mnist
from mnist_cnn import show_grid
from runs import training_run

import gpuprop
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader
from gpuprop.distributions import Bernoulli, Normal, kl_divergence

CODE = 50
PUBLISHED = {"published by Burda et al., 3280 epochs": 86.76}


def prior() -> Normal:
    """The distribution of each number in a code, on the backend in use."""
    return Normal(0.0, 1.0)


class AutoEncoder(nn.Module):
    """Maps images (N, 784) to distributions of codes (N, CODE), and codes to those of images."""

    def __init__(self, width: int = 400) -> None:
        super().__init__()
        layers = lambda before, after: nn.Sequential(
            nn.Linear(before, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, after))
        self.encoder = layers(784, 2 * CODE)
        self.decoder = layers(CODE, 784)

    def posterior(self, x: Any) -> Normal:
        mean, log_std = gpuprop.split(self.encoder(x), 2, axis=1)
        return Normal(mean, gpuprop.exp(log_std))

    def images(self, z: Any) -> Bernoulli:
        return Bernoulli(logits=self.decoder(z))

    def forward(self, x: Any) -> Any:
        """The ELBO (N,) of binary images, in nats."""
        posterior = self.posterior(x)
        reconstruction = self.images(posterior.rsample()).log_prob(x).sum(axis=1)
        return reconstruction - kl_divergence(posterior, prior()).sum(axis=1)

    def log_likelihood(self, x: Any, samples: int) -> Any:
        """A lower bound (N,) of log p(x), in nats: log of the mean of p(x|z) p(z) / q(z|x)."""
        posterior = self.posterior(x)
        z = posterior.rsample((samples,))
        weights = (self.images(z).log_prob(x).sum(axis=2)
                   + (prior().log_prob(z) - posterior.log_prob(z)).sum(axis=2))
        return gpuprop.logsumexp(weights, axis=0) - math.log(samples)


def binary(images: Any) -> Any:
    """Black or white pixels, black with the gray value as their probability."""
    return Bernoulli(images).sample()


def run(data: ArrayDataset | None = None, epochs: int = 1, batch_size: int = 100) -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    if data is None:  # noise
        data = ArrayDataset(gpuprop.random.uniform((200, 784)).numpy())
    loader = DataLoader(data, batch_size, shuffle=True)
    model = AutoEncoder()
    optimizer = optim.Adam(model.parameters())
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, epochs=epochs,
                                              steps_per_epoch=len(loader), pct_start=0.1)
    loss_of = lambda model, images: -model(binary(images)).mean()
    return training_run(model, loss_of, optimizer, loader, scheduler)


def mean_over(images: np.ndarray, value: Any, batch_size: int) -> float:
    """The mean of ``value(x)`` (N,) over images (N, 784), computed in batches."""
    with gpuprop.no_grad():
        parts = [value(x).numpy() for x, in DataLoader(ArrayDataset(images), batch_size)]
    return float(np.concatenate(parts).mean())


# ---- pictures ------------------------------------------------------------------------------------


def walks(codes: np.ndarray, steps: int) -> np.ndarray:
    """Codes (N * steps, CODE) on the straight lines from each code to the next one."""
    along = np.linspace(0, 1, steps, dtype="float32")[:, None]
    return np.concatenate([a + along * (b - a) for a, b in pairwise(codes)])


def draw(path: Path, model: AutoEncoder, test: ArrayDataset) -> None:
    """Samples, images beside their reconstructions, and walks from digit to digit."""
    from matplotlib.figure import Figure

    images, labels = test.arrays
    digits = images[np.unique(labels, return_index=True)[1]]  # one of each
    shown = lambda codes: model.images(codes).probs.numpy().reshape(-1, 28, 28)
    with gpuprop.no_grad():
        codes = model.posterior(gpuprop.tensor(digits)).mean
        samples = shown(gpuprop.random.normal((100, CODE)))
        reconstructions = shown(codes)
        steps = shown(gpuprop.tensor(walks(codes.numpy(), 10)))
    figure = Figure(figsize=(13, 5.2), dpi=90, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[10, 2, 10])
    pairs = np.stack([digits.reshape(-1, 28, 28), reconstructions], axis=1).reshape(-1, 28, 28)
    style = {"cmap": "gray_r", "vmin": 0, "vmax": 1}
    show_grid(left, samples, 10, "samples", **style)
    show_grid(middle, pairs, 2, "test images,\nreconstructions", **style)
    show_grid(right, steps, 10, "from one digit's code to the next", **style)
    figure.savefig(path)


def main() -> None:
    args = parse_arguments(__doc__, epochs=30, images=55000, batch_size=100, samples=500)
    data, test = load_mnist(args.data)
    train, held = hold_back(ArrayDataset(data.arrays[0]), 1 / 12, args.images)
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"{len(train)} training images, {len(test)} test images, backend {backend.name!r}",
          flush=True)
    model, step, batches = run(train, args.epochs, args.batch_size)
    for epoch in range(1, args.epochs + 1):
        mean = np.mean([step(*batch).item() for batch in batches])
        elbo = mean_over(held.arrays[0], lambda x: model(binary(x)), 1000)
        print(f"epoch {epoch:2d}/{args.epochs}: ELBO {-mean:.2f}, of held images {elbo:.2f}",
              flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    gpuprop.save(args.out / "vae.safetensors", model.state_dict())
    draw(args.out / "vae.png", model, test)
    images = binary(gpuprop.tensor(test.arrays[0])).numpy()
    likelihood = mean_over(images, lambda x: model.log_likelihood(x, args.samples), 20)
    figures = (
        Figure("negative log-likelihood of test images, nats", -likelihood, 2, PUBLISHED),
        Figure("negative ELBO of test images, nats", -mean_over(images, model, 1000), 2))
    record(args.record, *figures)
    print(*figures, sep="\n")


if __name__ == "__main__":
    main()
