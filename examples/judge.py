"""A classifier that judges drawn digits: how clear and how varied they are, how far from real ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from figures import Figure
from scipy.stats import entropy
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader
from gpuprop.training import Trainer

FEATURES = 64


class Classifier(nn.Module):
    """Maps images (N, 784) to logits (N, 10), by way of FEATURES numbers that describe them."""

    def __init__(self) -> None:
        super().__init__()
        block = lambda before, after: [nn.Conv2d(before, after, 3, padding=1, bias=False),
                                       nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)), *block(1, 16), *block(16, 32), *block(32, 64),
            nn.Flatten(), nn.Linear(64 * 3 * 3, FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, 10)

    def forward(self, x: Any) -> Any:
        return self.head(self.features(x))


class View(NamedTuple):
    """What the classifier sees in images: features (N, FEATURES), probabilities (N, 10)."""

    features: np.ndarray
    probabilities: np.ndarray

    def score(self) -> float:
        """From 1, all images alike or none certain, to 10: each is certain, all digits occur.

        The exponential of the mean divergence of the probabilities from their mean, which is the
        Inception score with this classifier (Salimans et al., "Improved techniques for training
        GANs", 2016).
        """
        mean = self.probabilities.mean(axis=0)
        return float(np.exp(entropy(self.probabilities, mean, axis=1).mean()))

    def rarest(self) -> float:
        """The share of the digit that is seen least often."""
        counts = np.bincount(self.probabilities.argmax(axis=1), minlength=10)
        return float(counts.min() / counts.sum())

    def distance(self, other: View) -> float:
        """The Fréchet distance of the features, as if both were normally distributed.

        ``|m - n|^2 + tr(A + B - 2 (A B)^(1/2))`` for means m, n and covariances A, B: the FID with
        this classifier (Heusel et al., "GANs trained by a two time-scale update rule", 2017).  The
        trace of the root is the sum of the roots of the eigenvalues.
        """
        apart = self.features.mean(axis=0) - other.features.mean(axis=0)
        a, b = (np.cov(view.features, rowvar=False) for view in (self, other))
        eigenvalues = np.linalg.eigvals(a @ b).real.clip(0)  # rounding makes some negative
        return float(apart @ apart + np.trace(a + b) - 2 * np.sqrt(eigenvalues).sum())


class Judge:
    """A classifier that learns digits, and then judges images (N, 784)."""

    def __init__(self, train: ArrayDataset, epochs: int = 2) -> None:
        self.train = train
        self.classifier = Classifier()
        loader = DataLoader(train, 128, shuffle=True)
        optimizer = optim.AdamW(self.classifier.parameters())
        scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, epochs=epochs,
                                                  steps_per_epoch=len(loader))
        trainer = Trainer(self.classifier, nn.CrossEntropyLoss(), optimizer, scheduler=scheduler,
                          schedule="step")
        trainer.fit(loader, epochs=epochs, progress=False)
        self.classifier.eval()

    def view(self, images: np.ndarray) -> View:
        parts = []
        with gpuprop.no_grad():
            for x, in DataLoader(ArrayDataset(images), 500):
                features = self.classifier.features(x)
                probabilities = F.softmax(self.classifier.head(features), -1)
                parts.append((features.numpy(), probabilities.numpy()))
        return View(*map(np.concatenate, zip(*parts, strict=True)))

    def accuracy(self, data: ArrayDataset) -> float:
        images, labels = data.arrays
        return float((self.view(images).probabilities.argmax(axis=1) == labels).mean())

    def figures(self, drawn: np.ndarray, real: np.ndarray, test: np.ndarray,
                seed: int) -> list[Figure]:
        """The judgements of drawn images, beside those of as many real ones and of a mixture."""
        reference, view = self.view(test), self.view(drawn)
        mixture = mixture_of_gaussians(self.train.arrays[0], len(drawn), seed)
        beside = {"real images": self.view(real[:len(drawn)]),
                  "mixture of Gaussians": self.view(mixture)}
        figure = lambda what, value, decimals: Figure(
            what, value(view), decimals, {name: value(other) for name, other in beside.items()})
        return [figure("Fréchet distance from the test images", reference.distance, 2),
                figure("classifier score, of 10", View.score, 2),
                figure("rarest digit, %", lambda view: 100 * view.rarest(), 1)]


def mixture_of_gaussians(images: np.ndarray, n: int, seed: int) -> np.ndarray:
    """A baseline: n samples of a mixture of 50 normal distributions, which is fitted to images."""
    pca = PCA(50, random_state=seed)
    codes = pca.fit_transform(images).astype("float64")  # float32 is too coarse to sample
    mixture = GaussianMixture(50, tol=0.03, random_state=seed).fit(codes)
    codes, _ = mixture.sample(n)
    return pca.inverse_transform(codes).clip(0, 1).astype("float32")
