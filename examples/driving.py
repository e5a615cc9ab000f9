"""Steer a model car from what its camera sees, on stretches of the road that were held back.

A person drove a Donkey Car, a model car with a camera, over a marked road: 1 000 frames of
160 x 120 pixels and the steering angle at each, from -1 (left) to 1 (right).  A convolutional
network maps the frame to the angle, as that of Bojarski et al. ("End to End Learning for
Self-Driving Cars", 2016) does.  It sees the lower two thirds at half the resolution; the mirror
image of a frame, with the opposite angle, is another frame to learn from.

Frames that follow each other are almost equal, so a random division would test what was learned by
heart.  Here the drive is divided into ten stretches of 100 frames.  In each of five folds two are
the test set, the two that follow them choose the epoch, and the others are for training, except for
the 20 frames beside a stretch that is held back.  The drive is about two laps: the stretches of a
test set are one place, in the first and in the second, so the network has never seen this place.

    python examples/driving.py [--data DIR] [--epochs 10] [--seed 0] [--backend cpu|cuda|auto]
                               [--out out]

The script prints R^2 and the mean absolute error of all test stretches, beside those of ridge
regression on small images and of the mean angle.  It reads the file tub.tar.gz from `--data` or
GPUPROP_DATA, or downloads it once.  It draws frames with both angles, `out`/driving.png, and saves
the network of the last fold.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from runs import train_best, training_run
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score
from texts import find_or_download

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader, RandomCrop

SOURCE = ("https://raw.githubusercontent.com/autorope/donkeycar/"
          "cde8bbe9e82d81819eab9bfb3c034b201be57268/donkeycar/tests/tub/tub.tar.gz")
SHA256 = "eeff6616aea3ce8ef41a53dc7e8cf5b5e36bce34587219f71e1b211d783a1985"
STRETCHES, FOLDS = 10, 5
GAP = 20  # frames beside a stretch that is held back: almost equal to its own
HORIZON = 40  # the row of pixels above which there is no road


class Drive(NamedTuple):
    """Frames (N, 120, 160, 3), uint8, and steering angles (N,)."""

    frames: np.ndarray
    angles: np.ndarray


def read_tub(path: Path) -> Drive:
    """The records of a Donkey Car's tub: a catalog of lines in JSON, and JPEG files."""
    try:
        from PIL import Image
    except ImportError:
        raise SystemExit('Pillow reads JPEG files: pip install "gpuprop[images]"') from None
    with tarfile.open(path) as tar:
        files = {m.name: file.read() for m in tar if (file := tar.extractfile(m))}
    records = [json.loads(line) for line in files["tub/catalog_0.catalog"].splitlines()]
    frames = [np.asarray(Image.open(io.BytesIO(files[f"tub/images/{r['cam/image_array']}"])))
              for r in records]
    return Drive(np.stack(frames), np.array([r["user/angle"] for r in records], "float32"))


def road(frames: np.ndarray) -> np.ndarray:
    """Images (N, 3, 40, 80) of the road, from -0.5 to 0.5."""
    n, height, width, colors = frames[:, HORIZON:].shape
    blocks = frames[:, HORIZON:].reshape(n, height // 2, 2, width // 2, 2, colors)
    return (blocks.mean(axis=(2, 4), dtype="float32") / 255 - 0.5).transpose(0, 3, 1, 2)


def divide(n: int, fold: int) -> list[np.ndarray]:
    """The frames for training, for choosing the epoch, and for the test."""
    stretch = np.arange(n) * STRETCHES // n
    test, held = stretch % FOLDS == fold, stretch % FOLDS == (fold + 1) % FOLDS
    beside = np.convolve(test | held, np.ones(2 * GAP + 1), "same") > 0.5
    return [np.flatnonzero(rows) for rows in (~beside, held, test)]


# ---- the network ---------------------------------------------------------------------------------


def network() -> nn.Module:
    """Maps images of the road to angles (N,)."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2), nn.ReLU(),                  # (N, 16, 18, 38)
        nn.Conv2d(16, 32, 5, stride=2), nn.ReLU(),                 # (N, 32, 7, 17)
        nn.Conv2d(32, 48, 3, stride=2), nn.ReLU(), nn.Flatten(),   # (N, 48 * 3 * 8)
        nn.Dropout(0.3), nn.Linear(48 * 3 * 8, 64), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(64, 1), nn.Flatten(0))


def run(x: np.ndarray | None = None, angles: np.ndarray | None = None, epochs: int = 1) -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    if x is None or angles is None:  # noise
        x = gpuprop.random.uniform((96, 3, 40, 80), -0.5, 0.5).numpy()
        angles = x.mean(axis=(1, 2, 3))
    x, angles = np.concatenate([x, x[..., ::-1]]), np.concatenate([angles, -angles])
    loader = DataLoader(ArrayDataset(x, angles), 32, shuffle=True,
                        transform=RandomCrop((40, 80), padding=2))
    model = network()
    optimizer = optim.AdamW(model.parameters(), weight_decay=0.01)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, epochs=epochs,
                                              steps_per_epoch=len(loader))
    loss_of = lambda model, x, angles: F.mse_loss(model(x), angles)
    return training_run(model, loss_of, optimizer, loader, scheduler)


def predict(model: nn.Module, x: np.ndarray) -> np.ndarray:
    model.eval()
    with gpuprop.no_grad():
        return model(gpuprop.tensor(x)).numpy()


def fitted(x: np.ndarray, angles: np.ndarray, train: np.ndarray, held: np.ndarray,
           epochs: int) -> nn.Module:
    """The network of the epoch with the least squared error on the held frames."""
    model, *others = run(x[train], angles[train], epochs)

    def measure() -> tuple[float, str]:
        error = np.mean((predict(model, x[held]) - angles[held])**2)
        return -error, f"held frames {error:.4f}"

    return train_best((model, *others), epochs, measure)


def ridge(x: np.ndarray, angles: np.ndarray, train: np.ndarray, held: np.ndarray) -> np.ndarray:
    """The angles (N,) of ridge regression on gray images (10, 20); `held` chooses the penalty."""
    small = x.mean(axis=1).reshape(len(x), 10, 4, 20, 4).mean(axis=(2, 4)).reshape(len(x), -1)
    found = [Ridge(penalty).fit(small[train], angles[train]).predict(small)
             for penalty in np.geomspace(0.01, 1000, 11)]
    return min(found, key=lambda own: np.mean((own[held] - angles[held])**2))


# ---- results -------------------------------------------------------------------------------------


def predict_folds(drive: Drive, epochs: int) -> tuple[dict[str, np.ndarray], nn.Module]:
    """The predictions (N,) of each frame when its stretch was the test set, and a network."""
    x, angles = road(drive.frames), drive.angles
    found = {name: np.zeros(len(x)) for name in ("network", "ridge regression", "mean angle")}
    for fold in range(FOLDS):
        train, held, test = divide(len(x), fold)
        print(f"fold {fold + 1}/{FOLDS}: {len(train)} frames for training")
        model = fitted(x, angles, train, held, epochs)
        found["network"][test] = predict(model, x[test])
        found["ridge regression"][test] = ridge(x, angles, train, held)[test]
        found["mean angle"][test] = angles[train].mean()
        error = mean_absolute_error(angles[test], found["network"][test])
        print(f"mean absolute error of test frames {error:.3f}", flush=True)
    return found, model


def draw(path: Path, drive: Drive, predicted: np.ndarray) -> None:
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(12, 5), layout="constrained")
    frames, curve = figure.subfigures(2, 1, height_ratios=[2, 3])
    shown = np.linspace(0, len(predicted), 6, endpoint=False).astype(int) + len(predicted) // 12
    for axes, i in zip(frames.subplots(1, 6).flat, shown, strict=True):
        axes.imshow(drive.frames[i])
        for angle, color in ((drive.angles[i], "lime"), (predicted[i], "red")):
            turn = angle * np.pi / 3
            axes.plot([80, 80 + 60 * np.sin(turn)], [118, 118 - 60 * np.cos(turn)], color=color,
                      linewidth=3)
        axes.set_title(f"frame {i}: {drive.angles[i]:+.2f}\nnetwork {predicted[i]:+.2f}",
                       fontsize=9)
        axes.set_axis_off()
    axes = curve.subplots()
    axes.plot(drive.angles, color="limegreen", label="person")
    axes.plot(predicted, color="red", linewidth=0.8,
              label="network, which has not seen the stretch")
    for border in np.arange(1, STRETCHES) * len(predicted) / STRETCHES:
        axes.axvline(border, color="gray", linewidth=0.5)
    axes.set(xlabel="frame", ylabel="steering angle", ylim=(-1.05, 1.05), xlim=(0, len(predicted)))
    axes.legend(loc="lower left", ncols=2)
    figure.savefig(path, dpi=100)


def main() -> None:
    args = parse_arguments(__doc__, epochs=10)
    drive = read_tub(find_or_download(args.data, "driving_donkeycar", SOURCE, SHA256))
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"{len(drive.angles)} frames, backend {backend.name!r}")
    found, model = predict_folds(drive, args.epochs)
    args.out.mkdir(parents=True, exist_ok=True)
    gpuprop.save(args.out / "driving.safetensors", model.state_dict())
    draw(args.out / "driving.png", drive, found["network"])
    r2 = {name: r2_score(drive.angles, own) for name, own in found.items()}
    error = {name: mean_absolute_error(drive.angles, own) for name, own in found.items()}
    for name in found:
        print(f"{name}: R^2 {r2[name]:.3f}, mean absolute error {error[name]:.3f}")
    record(args.record, *(Figure(measure, values.pop("network"), 3, values) for measure, values in (
        ("R² of the steering angle", r2), ("mean absolute error of the steering angle", error))))


if __name__ == "__main__":
    main()
