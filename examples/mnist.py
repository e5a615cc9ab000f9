"""Train a multilayer perceptron on MNIST, 28 x 28 images of handwritten digits.

The network (two hidden layers of 512 units, dropout 0.2), RMSprop and 20 epochs in batches of 128
are those of Keras's example, which reports a test accuracy of 0.9840.  Here the learning rate also
decays to zero along a cosine, so that the result does not depend on where the last steps end.

    python examples/mnist.py [--data DIR] [--epochs 20] [--batch-size 128] [--seed 0]
                             [--backend cpu|cuda|auto] [--out out]

The script reads MNIST's four IDX files from `--data`, or from the folder in the environment
variable GPUPROP_DATA.  Without either, it downloads them once and caches them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from runs import training_run

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader, read_idx
from gpuprop.training import Trainer

SOURCE = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SHA256 = {
    "train-images-idx3-ubyte.gz":
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz":
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz":
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz":
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


def find_files(folder: str) -> list[Path]:
    """The paths of the four files, in `folder` or in its subfolder `mnist`."""
    for candidate in (Path(folder), Path(folder) / "mnist"):
        paths = [candidate / name for name in SHA256]
        if all(path.exists() for path in paths):
            return paths
    names = ", ".join(SHA256)
    raise SystemExit(f"MNIST not found in {folder} or in its subfolder mnist: expected {names}")


def download_files() -> list[Path]:
    """The paths of the four files in the cache, downloaded if missing, checked by SHA-256."""
    try:
        import pooch
    except ImportError:
        raise SystemExit("MNIST not found: give its folder with --data or GPUPROP_DATA, or "
                         'install pooch to download it (pip install "gpuprop[examples]")') from None
    cache = pooch.create(pooch.os_cache("gpuprop") / "mnist", SOURCE, registry=SHA256)
    return [Path(cache.fetch(name)) for name in SHA256]


def read_dataset(images: Path, labels: Path) -> ArrayDataset:
    """Images (N, 784), from 0 for white to 1 for black, and labels (N,)."""
    pixels = read_idx(images).reshape(-1, 28 * 28) / np.float32(255)
    return ArrayDataset(pixels, read_idx(labels).astype("int64"))


def load_mnist(folder: str | None) -> tuple[ArrayDataset, ArrayDataset]:
    """The training set and the test set, from `folder`, or downloaded if `folder` is None."""
    paths = find_files(folder) if folder else download_files()
    train_images, train_labels, test_images, test_labels = paths
    return read_dataset(train_images, train_labels), read_dataset(test_images, test_labels)


def hold_back(data: ArrayDataset, share: float, most: int) -> tuple[ArrayDataset, ArrayDataset]:
    """The first images for training, at most so many, and the last ones, a share of all."""
    first = len(data) - round(share * len(data))
    return ArrayDataset(*data[:min(most, first)]), ArrayDataset(*data[first:])


def random_batches() -> list[tuple]:
    """A few batches of random pixels, in the shape of the data."""
    return [(gpuprop.random.uniform((64, 28 * 28)), gpuprop.arange(64) % 10) for _ in range(3)]


def make_training() -> tuple[nn.Sequential, optim.Optimizer]:
    model = nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(512, 10),
    )
    return model, optim.RMSprop(model.parameters(), lr=0.001, alpha=0.9, eps=1e-7)


def run() -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    model, optimizer = make_training()
    loss_of = lambda model, x, y: F.cross_entropy(model(x), y)
    return training_run(model, loss_of, optimizer, random_batches())


def main() -> None:
    args = parse_arguments(__doc__, epochs=20, batch_size=128)
    train, test = load_mnist(args.data)
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    model, optimizer = make_training()
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    trainer = Trainer(model, nn.CrossEntropyLoss(), optimizer, metrics=["accuracy"],
                      scheduler=scheduler)
    print(f"{len(train)} training images, {len(test)} test images, backend {backend.name!r}")

    def report(trainer: Trainer) -> None:
        row = trainer.history[-1]
        print(f"epoch {row['epoch']:2d}/{args.epochs}: loss {row['loss']:.4f}, "
              f"accuracy {row['accuracy']:.4f}, {row['seconds']:.1f} s", flush=True)

    loader = DataLoader(train, args.batch_size, shuffle=True)
    trainer.fit(loader, epochs=args.epochs, callbacks=[report], progress=False)
    accuracy = trainer.evaluate(DataLoader(test, 1000))["accuracy"]
    gpuprop.save(args.out / "mnist.safetensors", model.state_dict())
    trainer.history.to_csv(args.out / "history.csv")
    record(args.record, Figure("test accuracy, %", 100 * accuracy, 2,
                               {"published by Keras": 98.40}))
    print(f"test accuracy: {accuracy:.4f}")


if __name__ == "__main__":
    main()
