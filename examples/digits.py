"""Train a network to recognize handwritten digits: 1,797 images of 8 x 8 pixels by 13 writers.

    python examples/digits.py [--backend auto|cpu|cuda] [--epochs 40] [--batch-size 32]
                              [--seed 0] [--out out]

A quarter of the images is the test set.  The network trains on the rest; its test accuracy is the
fraction of test images that it classifies correctly.  The same code runs on the CPU and on an
NVIDIA GPU.  The script writes to the folder `out`:

    curves.png    loss and accuracy after each epoch
    history.csv   the same numbers as a table
    weights.npz   the trained weights, a NumPy archive with one array per parameter
"""

import logging

from command_line import parse_arguments
from figures import Figure, record
from runs import training_run
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gpuprop
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader
from gpuprop.training import Trainer


def make_network() -> nn.Sequential:
    """A network that maps 64 pixels to one score per digit."""
    return nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(128, 10),
    )


def make_loss() -> nn.CrossEntropyLoss:
    return nn.CrossEntropyLoss(label_smoothing=0.1)  # with smoothing, its minimum is above 0


def run() -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    pixels, digits = load_digits(return_X_y=True)
    model, loss = make_network(), make_loss()
    loader = DataLoader(ArrayDataset((pixels / 16).astype("float32"), digits), 32, shuffle=True)
    return training_run(model, lambda model, x, y: loss(model(x), y),
                        optim.AdamW(model.parameters(), lr=3e-3), loader)


def main() -> None:
    args = parse_arguments(__doc__, epochs=40, batch_size=32)
    logging.basicConfig(level="INFO", format="%(message)s")
    gpuprop.use(args.backend)  # logs which backend "auto" chose, and why
    gpuprop.manual_seed(args.seed)  # the same seed gives the same weights, bit for bit

    pixels, digits = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        pixels / 16, digits, test_size=0.25, stratify=digits, random_state=args.seed)

    model = make_network()
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    trainer = Trainer(model, make_loss(), optimizer, metrics=["accuracy"], scheduler=scheduler)

    # The test set is evaluated after every epoch for the curves only: it selects nothing.
    history = trainer.fit((x_train, y_train), validation=(x_test, y_test),
                          epochs=args.epochs, batch_size=args.batch_size)

    history.plot(args.out / "curves.png")
    history.to_csv(args.out / "history.csv")
    gpuprop.save(args.out / "weights.npz", model.state_dict())
    print(f"learning curves, history and weights: {args.out}/curves.png, history.csv, weights.npz")
    accuracy = trainer.evaluate((x_test, y_test))["accuracy"]
    record(args.record, Figure("test accuracy, %", 100 * accuracy, 1))
    print(f"test accuracy: {accuracy:.3f}")


if __name__ == "__main__":
    main()
