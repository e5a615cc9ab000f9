"""Train a convolutional network on MNIST, and plot its features and its mistakes.

The network is that of Keras's example, which reports a test accuracy of 0.9925 after 12 epochs.
Here it trains for 4 epochs, and the learning rate follows one cycle (L. N. Smith and N. Topin,
"Super-convergence", 2018).

    python examples/mnist_cnn.py [--data DIR] [--epochs 4] [--images 60000] [--batch-size 64]
                                 [--seed 0] [--backend cpu|cuda|auto] [--out out] [--resume]

The script finds or downloads MNIST as examples/mnist.py does.  It writes to the folder `out`:

    mnist_cnn.npz   the state of the training after the last epoch, from which `--resume` continues
    curves.png      loss and accuracy after each epoch
    features.png    the first convolution's filters, and both convolutions' outputs for one digit
    mistakes.png    the test images with the highest loss, their labels and the predictions
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from mnist import load_mnist, random_batches
from runs import training_run

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader
from gpuprop.training import Trainer


def make_network() -> nn.Sequential:
    """A network that maps 784 pixels to one score per digit; the comments give output shapes."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 32, 3), nn.ReLU(),                           # (N, 32, 26, 26)
        nn.Conv2d(32, 64, 3), nn.ReLU(),                          # (N, 64, 24, 24)
        nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(),          # (N, 64 * 12 * 12)
        nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, 10),
    )


def run() -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    model = make_network()
    loss_of = lambda model, x, y: F.cross_entropy(model(x), y)
    return training_run(model, loss_of, optim.AdamW(model.parameters()), random_batches())


def report(trainer: Trainer) -> None:
    row = trainer.history[-1]
    print(f"epoch {row['epoch']:2d}/{trainer.last_epoch}: loss {row['loss']:.4f}, "
          f"accuracy {row['accuracy']:.4f}, test loss {row['val_loss']:.4f}, "
          f"test accuracy {row['val_accuracy']:.4f}, {row['seconds']:.1f} s", flush=True)


# ---- plots ---------------------------------------------------------------------------------------

GAP = 3  # pixels between images


def show_grid(axes: Any, images: np.ndarray, columns: int, title: str, **style: Any) -> None:
    """Show images (N, H, W) as a grid with gaps between them."""
    n, height, width = images.shape
    rows = -(-n // columns)
    cells = np.full((rows * columns, height + GAP, width + GAP), np.nan)
    cells[:n, :height, :width] = images
    grid = cells.reshape(rows, columns, height + GAP, width + GAP).swapaxes(1, 2)
    sheet = grid.reshape(rows * (height + GAP), columns * (width + GAP))
    axes.imshow(sheet[:-GAP, :-GAP], **style)
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def plot_features(model: nn.Sequential, image: np.ndarray, path: Path) -> None:
    """Plot the filters of the first convolution, and both convolutions' outputs for one image."""
    from matplotlib.figure import Figure

    with gpuprop.no_grad():
        first = model[:3](gpuprop.tensor(image[None]))
        second = model[3:5](first)
    brighten = lambda output: np.sqrt(output.numpy()[0])  # the root makes small values visible
    filters = model[1].weight.numpy()[:, 0].repeat(9, axis=1).repeat(9, axis=2)
    largest = abs(filters).max()
    figure = Figure(figsize=(12, 6.4), dpi=120, layout="constrained")
    axes = figure.subplot_mosaic("abbcc;ddddd", height_ratios=[1, 1.25])
    show_grid(axes["a"], image.reshape(1, 28, 28), 1, "a digit", cmap="gray_r")
    show_grid(axes["b"], filters, 8, "the 32 filters of layer 1: red responds to ink, blue to none",
              cmap="RdBu_r", vmin=-largest, vmax=largest)
    show_grid(axes["c"], brighten(first), 8, "output of layer 1", cmap="inferno")
    show_grid(axes["d"], brighten(second), 16, "output of layer 2, 64 channels", cmap="inferno")
    figure.savefig(path)


def plot_mistakes(logits: np.ndarray, test: ArrayDataset, path: Path) -> None:
    """Plot the test images with the highest loss, given the logits (N, 10)."""
    from matplotlib.figure import Figure

    images, labels = test.arrays
    predictions = logits.argmax(axis=1)
    probabilities = F.softmax(logits, dim=1).max(axis=1)
    losses = F.cross_entropy(logits, labels, reduction="none")
    worst = np.argsort(-losses)[:24]
    figure = Figure(figsize=(12, 6), dpi=120, layout="constrained")
    for axes, i in zip(figure.subplots(3, 8).flat, worst, strict=False):
        axes.imshow(images[i].reshape(28, 28), cmap="gray_r")
        axes.set_title(f"label {labels[i]}, predicted {predictions[i]}\n"
                       f"with probability {probabilities[i]:.0%}", fontsize=9)
        axes.set_axis_off()
    wrong = (predictions != labels).sum()
    figure.suptitle(f"{wrong} of {len(labels)} test images are misclassified; "
                    "these have the highest loss")
    figure.savefig(path)


def main() -> None:
    args = parse_arguments(__doc__, epochs=4, images=60000, batch_size=64, resume=False)

    train, test = load_mnist(args.data)
    train = ArrayDataset(*train[:args.images])
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    model = make_network()
    train_loader = DataLoader(train, args.batch_size, shuffle=True)
    test_loader = DataLoader(test, 500)
    optimizer = optim.AdamW(model.parameters())
    scheduler = optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, epochs=args.epochs, steps_per_epoch=len(train_loader))
    trainer = Trainer(model, nn.CrossEntropyLoss(), optimizer, metrics=["accuracy"],
                      scheduler=scheduler, schedule="step")
    checkpoint = args.out / "mnist_cnn.npz"
    save_checkpoint = lambda trainer: gpuprop.save(checkpoint, trainer.state_dict())
    if args.resume:
        trainer.load_state_dict(gpuprop.load(checkpoint))
    print(f"{len(train)} training images, {len(test)} test images, backend {backend.name!r}",
          flush=True)

    # The test set is evaluated after every epoch for the curves only: it selects nothing.
    history = trainer.fit(train_loader, validation=test_loader,
                          epochs=args.epochs - len(trainer.history),
                          callbacks=[report, save_checkpoint], progress=False)
    history.plot(args.out / "curves.png")
    plot_features(model.eval(), test.arrays[0][0], args.out / "features.png")
    logits = trainer.predict(test_loader).numpy()
    plot_mistakes(logits, test, args.out / "mistakes.png")
    print(f"plots: {args.out}/curves.png, features.png, mistakes.png")
    accuracy = (logits.argmax(axis=1) == test.arrays[1]).mean()
    record(args.record, Figure("test accuracy, %", 100 * accuracy, 2,
                               {"published by Keras": 99.25}))
    print(f"test accuracy: {accuracy:.4f}")


if __name__ == "__main__":
    main()
