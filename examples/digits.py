"""Train a network to read handwritten digits: 1 797 of them, by 13 people, 8 x 8 pixels each.

    python examples/digits.py [--backend auto|cpu|cuda] [--epochs 40] [--batch-size 32] [--seed 0] [--out out]

A quarter of the digits is held back: the network learns from the rest, and is judged by how many of that quarter it
reads right.  The same code runs on the CPU and on an NVIDIA GPU.  It leaves in the folder `out`

    curves.png    how loss and accuracy went, epoch by epoch
    history.csv   the same as numbers
    weights.npz   what was learnt: NumPy's own format, by the name of each parameter
"""

import argparse
import logging
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gpuprop
from gpuprop import nn, optim
from gpuprop.training import Trainer


def network() -> nn.Sequential:
    """From 64 pixels to a score for each of the ten digits."""
    return nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(128, 10),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="auto", help="auto (a GPU if one answers), cpu, cuda, cuda:1 ...")
    parser.add_argument("--epochs", type=int, default=40, help="how often each digit is looked at")
    parser.add_argument("--batch-size", type=int, default=32, help="how many digits make a step")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the first weights, the order and dropout")
    parser.add_argument("--out", type=Path, default="out", help="the folder for curves, numbers and weights")
    args = parser.parse_args()

    logging.basicConfig(level="INFO", format="%(message)s")
    gpuprop.use(args.backend)        # the log says what "auto" chose, and why
    gpuprop.manual_seed(args.seed)   # the same seed, the same weights: to the last bit on one machine

    pixels, digits = load_digits(return_X_y=True)
    x, held_x, y, held_y = train_test_split(
        pixels / 16, digits, test_size=0.25, stratify=digits, random_state=args.seed)

    model = network()
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)  # taught to be 90 % sure, so it does not go down to 0
    trainer = Trainer(model, loss, optimizer, metrics=["accuracy"], scheduler=scheduler)

    # The held-back quarter is measured after every epoch, for the curves, but nothing is chosen by it.
    history = trainer.fit((x, y), validation=(held_x, held_y), epochs=args.epochs, batch_size=args.batch_size)

    history.plot(args.out / "curves.png")
    history.to_csv(args.out / "history.csv")
    gpuprop.save(args.out / "weights.npz", model.state_dict())
    print(f"learning curves, numbers and weights: {args.out}/curves.png, history.csv, weights.npz")
    print(f"test accuracy: {trainer.evaluate((held_x, held_y))['accuracy']:.3f}")


if __name__ == "__main__":
    main()
