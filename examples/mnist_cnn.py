"""A convolutional network reads MNIST's handwritten digits, and shows what it has learnt to see.

The network and its 12 epochs are those of Keras's example, which reports a test accuracy of 0.9925.  Here the learning
rate rises and falls once (L. N. Smith and N. Topin, "Super-convergence", 2018): seeds 0 to 2 give 0.9927, 0.9933 and
0.9928, in about 25 minutes each on one CPU core; 6 epochs give 0.9918.

    python examples/mnist_cnn.py [--data DIR] [--epochs 12] [--images 60000] [--batch-size 64] [--seed 0]
                                 [--backend cpu|cuda|auto] [--out out] [--resume]

The four files of MNIST are found or downloaded as in examples/mnist.py.  It leaves in the folder `out`

    mnist_cnn.npz      all that is needed to go on with `--resume`, written after every epoch
    curves.png         how loss and accuracy went, epoch by epoch
    features.png       the filters of the first layer, and what both layers make of one digit
    mistakes.png       the test digits that surprised it most, what they are and what it read
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from command_line import arguments
from mnist import digits, download, find

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader
from gpuprop.training import Trainer


def network() -> nn.Sequential:
    """From 784 pixels to a score for each of the ten digits; the shapes are those of one image."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 32, 3), nn.ReLU(),                           # (32, 26, 26)
        nn.Conv2d(32, 64, 3), nn.ReLU(),                          # (64, 24, 24)
        nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(),          # (64 * 12 * 12,)
        nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, 10),
    )


def report(trainer: Trainer) -> None:
    row = trainer.history[-1]
    print(f"epoch {row['epoch']:2d}/{trainer.last_epoch}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}; "
          f"on the test digits {row['val_loss']:.4f}, {row['val_accuracy']:.4f}; {row['seconds']:.1f} s", flush=True)


# ---- pictures -------------------------------------------------------------------------------------------------------

GAP = 3  # pixels between images


def tiles(axes: Any, images: np.ndarray, columns: int, title: str, **style: Any) -> None:
    """Images (N, H, W) in rows of so many, with a gap between them."""
    n, height, width = images.shape
    sheet = np.full((-(-n // columns) * columns, height + GAP, width + GAP), np.nan)
    sheet[:n, :height, :width] = images
    rows = np.split(sheet, len(sheet) // columns)
    axes.imshow(np.vstack([np.hstack([*row]) for row in rows])[:-GAP, :-GAP], **style)
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def show_features(model: nn.Sequential, image: np.ndarray, path: Path) -> None:
    """The filters of the first layer, and what both convolutions make of one image (784,)."""
    from matplotlib.figure import Figure

    with gpuprop.no_grad():
        first = model[:3](gpuprop.tensor(image[None]))
        second = model[3:5](first)
    bright = lambda seen: np.sqrt(seen.numpy()[0])  # the root, so that what is faint shows too
    filters = model[1].weight.numpy()[:, 0].repeat(9, axis=1).repeat(9, axis=2)
    largest = abs(filters).max()
    figure = Figure(figsize=(12, 6.4), dpi=120, layout="constrained")
    axes = figure.subplot_mosaic("abbcc;ddddd", height_ratios=[1, 1.25])
    tiles(axes["a"], image.reshape(1, 28, 28), 1, "a digit", cmap="gray_r")
    tiles(axes["b"], filters, 8, "the 32 filters of the first layer: red wants ink, blue wants none",
          cmap="RdBu_r", vmin=-largest, vmax=largest)
    tiles(axes["c"], bright(first), 8, "what they see in the digit", cmap="inferno")
    tiles(axes["d"], bright(second), 16, "what the 64 filters of the second layer see in that", cmap="inferno")
    figure.savefig(path)


def show_mistakes(logits: np.ndarray, test: ArrayDataset, path: Path) -> None:
    """The test digits with the highest loss, by the scores (N, 10)."""
    from matplotlib.figure import Figure

    images, labels = test.arrays
    sure = F.softmax(logits, dim=1)
    worst = np.argsort(-F.cross_entropy(logits, labels, reduction="none"))[:24]
    figure = Figure(figsize=(12, 6), dpi=120, layout="constrained")
    for axes, i in zip(figure.subplots(3, 8).flat, worst, strict=False):
        read = sure[i].argmax()
        axes.imshow(images[i].reshape(28, 28), cmap="gray_r")
        axes.set_title(f"a {labels[i]}, read as {read}\n{sure[i, read]:.0%} sure", fontsize=9)
        axes.set_axis_off()
    wrong = (logits.argmax(axis=1) != labels).sum()
    figure.suptitle(f"{wrong} of {len(labels)} test digits were read wrong; these surprised the network most")
    figure.savefig(path)


def main() -> None:
    args = arguments(__doc__, epochs=12, images=60000, batch_size=64, resume=False)

    train_images, train_labels, test_images, test_labels = find(args.data) if args.data else download()
    train, test = digits(train_images, train_labels), digits(test_images, test_labels)
    train = ArrayDataset(*train[:args.images])
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    model = network()
    loader, test_loader = DataLoader(train, args.batch_size, shuffle=True), DataLoader(test, 500)
    optimizer = optim.AdamW(model.parameters())
    schedule = optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, epochs=args.epochs, steps_per_epoch=len(loader))
    trainer = Trainer(model, nn.CrossEntropyLoss(), optimizer, ["accuracy"], schedule, schedule="step")
    checkpoint = args.out / "mnist_cnn.npz"
    keep = lambda trainer: gpuprop.save(checkpoint, trainer.state_dict())
    if args.resume:
        trainer.load_state_dict(gpuprop.load(checkpoint))
    print(f"{len(train)} images to learn from, {len(test)} to be tested on; backend {backend.name!r}", flush=True)

    # The test digits are read after every epoch, for the curves, but nothing is chosen by it.
    history = trainer.fit(loader, validation=test_loader, epochs=args.epochs - len(trainer.history),
                          callbacks=[report, keep], progress=False)
    history.plot(args.out / "curves.png")
    show_features(model.eval(), test.arrays[0][0], args.out / "features.png")
    logits, labels = trainer.predict(test_loader).numpy(), test.arrays[1]
    show_mistakes(logits, test, args.out / "mistakes.png")
    print(f"curves, features and mistakes: {args.out}/curves.png, features.png, mistakes.png")
    print(f"test accuracy: {(logits.argmax(axis=1) == labels).mean():.4f}")


if __name__ == "__main__":
    main()
