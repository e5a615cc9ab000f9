"""Train a denoising autoencoder on MNIST without labels, and test its codes with a linear probe.

An encoder maps a noisy image to a code of 64 numbers.  A decoder maps the code to an image without
the noise.  Both learn from the clean images alone (P. Vincent et al., "Extracting and composing
robust features with denoising autoencoders", 2008).  A linear probe then measures how much the
codes reveal about the digits: the encoder is frozen, and one linear layer learns to classify the
codes.

    python examples/autoencoder.py [--data DIR] [--epochs 6] [--images 60000] [--batch-size 128]
                                   [--code 64] [--noise 0.5] [--seed 0]
                                   [--backend cpu|cuda|auto] [--out out]

The script finds or downloads MNIST as examples/mnist.py does.  It writes to the folder `out`:

    denoised.png             noisy test images, the outputs of the network, and the clean images
    codes.png                the codes of the test images in two dimensions, one color per digit
    autoencoder.safetensors  the trained weights
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from mnist import load_mnist, random_batches
from runs import training_run

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim, random
from gpuprop.data import ArrayDataset, DataLoader
from gpuprop.training import Trainer


class AutoEncoder(nn.Module):
    """Maps images (N, 784) to codes (N, code), and codes to one logit per pixel (N, 784)."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(),            # (N, 16, 14, 14)
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),           # (N, 32, 7, 7)
            nn.Flatten(), nn.Linear(32 * 7 * 7, code),
            nn.BatchNorm1d(code, affine=False),  # unit variance: no part of the code is unused
        )
        self.decoder = nn.Sequential(
            nn.Linear(code, 32 * 7 * 7), nn.ReLU(), nn.Unflatten(1, (32, 7, 7)),
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1), nn.ReLU(),  # (N, 16, 14, 14)
            nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),              # (N, 1, 28, 28)
            nn.Flatten(),
        )

    def forward(self, x: Any) -> Any:
        return self.decoder(self.encoder(x))


def add_noise(x: Any, noise: float) -> Any:
    """Images with Gaussian noise of standard deviation `noise`, clipped to [0, 1]."""
    return (x + random.normal(x.shape, std=noise)).clip(0, 1)


def denoising_loss(model: AutoEncoder, x: Any, noise: float = 0.5) -> Any:
    return F.binary_cross_entropy_with_logits(model(add_noise(x, noise)), x)


def run() -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    model = AutoEncoder(code=64)
    images = [(x,) for x, _ in random_batches()]
    return training_run(model, denoising_loss, optim.Adam(model.parameters()), images)


def train_denoising(model: AutoEncoder, images: ArrayDataset, epochs: int, batch_size: int,
                    noise: float) -> None:
    """Train the model to remove noise from images."""
    loader = DataLoader(images, batch_size, shuffle=True)
    optimizer = optim.Adam(model.parameters())
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, epochs=epochs,
                                              steps_per_epoch=len(loader))
    for epoch in range(epochs):
        start = time.perf_counter()
        total = gpuprop.zeros(())
        for x, _ in loader:  # the labels are not used
            optimizer.zero_grad()
            loss = denoising_loss(model, x, noise)
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.detach() * len(x)
        mean = total.item() / len(images)
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1:2d}/{epochs}: loss {mean:.4f}, {seconds:.1f} s", flush=True)


def encode(model: AutoEncoder, images: ArrayDataset) -> np.ndarray:
    """The codes (N, code) of the images, without noise."""
    with gpuprop.no_grad():
        return np.concatenate([model.encoder(x).numpy() for x, _ in DataLoader(images, 500)])


def probe_accuracy(train: tuple[np.ndarray, np.ndarray],
                   test: tuple[np.ndarray, np.ndarray]) -> float:
    """The test accuracy of one linear layer that is trained on codes and their labels."""
    model = nn.Linear(train[0].shape[1], 10)
    optimizer = optim.Adam(model.parameters(), lr=0.03)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    trainer = Trainer(model, nn.CrossEntropyLoss(), optimizer, metrics=["accuracy"],
                      scheduler=scheduler)
    trainer.fit(train, epochs=20, batch_size=250, progress=False)
    return trainer.evaluate(test)["accuracy"]


# ---- plots ---------------------------------------------------------------------------------------


def plot_denoised(model: AutoEncoder, test: ArrayDataset, noise: float, path: Path) -> None:
    """Plot one test image per digit: noisy, denoised by the model, and clean."""
    from matplotlib.figure import Figure

    images, labels = test.arrays
    first_of_each = np.unique(labels, return_index=True)[1]
    clean = gpuprop.tensor(images[first_of_each])
    noisy = add_noise(clean, noise)
    with gpuprop.no_grad():
        denoised = gpuprop.sigmoid(model(noisy))
    figure = Figure(figsize=(11, 3.7), dpi=120, layout="constrained")
    rows = {"noisy": noisy, "denoised": denoised, "clean": clean}
    for axes, (title, row) in zip(figure.subplots(3, 1), rows.items(), strict=True):
        axes.imshow(np.hstack([*row.numpy().reshape(-1, 28, 28)]), cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[], ylabel=title)
    figure.savefig(path)


def plot_codes(codes: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """Plot codes (N, code) by their first two principal components."""
    from matplotlib.figure import Figure

    centered = codes - codes.mean(axis=0)
    components = np.linalg.svd(centered, full_matrices=False)[2][:2]
    x, y = components @ centered.T
    figure = Figure(figsize=(7.6, 7), dpi=120, layout="constrained")
    axes = figure.subplots()
    for digit in np.unique(labels):
        color = f"C{digit}"
        chosen = labels == digit
        axes.scatter(x[chosen], y[chosen], s=6, alpha=0.6, linewidths=0, color=color)
        box = {"boxstyle": "circle", "facecolor": "white", "edgecolor": color, "alpha": 0.85}
        axes.text(np.median(x[chosen]), np.median(y[chosen]), str(digit), fontsize=16,
                  ha="center", va="center", bbox=box)
    axes.set(xticks=[], yticks=[], aspect="equal",
             title="First two principal components of the test images' codes")
    figure.savefig(path)


def main() -> None:
    args = parse_arguments(__doc__, epochs=6, images=60000, batch_size=128, code=64, noise=0.5)

    train, test = load_mnist(args.data)
    train = ArrayDataset(*train[:args.images])
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    model = AutoEncoder(args.code)
    print(f"{len(train)} training images, {len(test)} test images, backend {backend.name!r}",
          flush=True)
    train_denoising(model, train, args.epochs, args.batch_size, args.noise)
    model.eval()
    gpuprop.save(args.out / "autoencoder.safetensors", model.state_dict())
    train_codes = encode(model, train)
    test_codes = encode(model, test)
    train_labels = train.arrays[1]
    test_labels = test.arrays[1]
    plot_denoised(model, test, args.noise, args.out / "denoised.png")
    plot_codes(test_codes, test_labels, args.out / "codes.png")
    print(f"plots and weights: {args.out}/denoised.png, codes.png, autoencoder.safetensors")
    accuracy = probe_accuracy((train_codes, train_labels), (test_codes, test_labels))
    record(args.record, Figure("test accuracy of a linear probe, %", 100 * accuracy, 2))
    print(f"test accuracy of a linear probe: {accuracy:.4f}")


if __name__ == "__main__":
    main()
