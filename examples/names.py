"""New names, one letter at a time: an LSTM learns how 32 033 names are spelt, and makes up others.

The names are those of A. Karpathy's makemore.  What a letter costs, on average, is the cross-entropy in nats: 3.30 for
who knows only that there are 27 (one of them is the end), 2.45 for who counts all pairs of letters in all the names.
Here a tenth of the names is held back, with all copies of each, so that no name is in both parts: what the LSTM has
not read costs it 1.92 a letter, after eleven minutes on two busy CPU cores.

    python examples/names.py [--data DIR] [--epochs 8] [--batch-size 128] [--seed 0] [--backend cpu|cuda|auto]
                             [--out out]

`names.txt` is looked for in `--data`, else in the folder that the environment variable GPUPROP_DATA names, else it is
downloaded, once, into the cache.  New names go to `out`/names.txt, the losses to `out`/names.png.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from command_line import arguments
from texts import download, find

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader
from gpuprop.training import History

SOURCE = "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt"
SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
LETTERS = ".abcdefghijklmnopqrstuvwxyz"  # the first begins and ends a name
NOTHING = -1                             # where a name has ended


def encoded(names: list[str]) -> ArrayDataset:
    """What is read (N, T) of each name, and what comes next (N, T)."""
    codes = np.full((len(names), max(map(len, names)) + 2), NOTHING)
    for row, name in zip(codes, names, strict=True):
        row[:len(name) + 2] = [LETTERS.index(letter) for letter in f".{name}."]
    return ArrayDataset(np.maximum(codes[:, :-1], 0), codes[:, 1:])


def bigram(train: ArrayDataset, test: ArrayDataset) -> float:
    """The loss of who has counted the pairs of letters in `train`, each once more than it is there."""
    counts = np.ones((27, 27))
    x, y = train.arrays
    np.add.at(counts, (x[y >= 0], y[y >= 0]), 1)
    x, y = test.arrays
    return -np.log(counts / counts.sum(axis=1, keepdims=True))[x[y >= 0], y[y >= 0]].mean()


class Speller(nn.Module):
    """From letters (N, T) to the scores (N, T, 27) of the ones that follow, and the state to go on with."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(27, 32)
        self.lstm = nn.LSTM(32, width, num_layers=2, dropout=0.2, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, 27)

    def forward(self, letters: Any, state: Any = None) -> Any:
        features, state = self.lstm(self.embedding(letters), state)
        return self.head(self.dropout(features)), state


def loss_of(model: Speller, x: Any, y: Any, reduction: str = "mean") -> Any:
    """The cross-entropy of a batch, in nats a letter."""
    logits, _ = model(x)
    return F.cross_entropy(logits.reshape(-1, 27), y.reshape(-1), ignore_index=NOTHING, reduction=reduction)


def evaluate(model: Speller, data: ArrayDataset) -> float:
    """The mean cross-entropy, in nats a letter."""
    model.eval()
    with gpuprop.no_grad():
        total = sum(loss_of(model, x, y, "sum").item() for x, y in DataLoader(data, 500))
    return total / (data.arrays[1] >= 0).sum()


def invent(model: Speller, count: int, rng: np.random.Generator) -> list[str]:
    """So many new names, all at once: each letter is drawn, and read to draw the next."""
    model.eval()
    letters, state, names = np.zeros((count, 1), "int64"), None, [""] * count
    with gpuprop.no_grad():
        for _ in range(20):
            logits, state = model(gpuprop.tensor(letters), state)
            p = F.softmax(logits[:, -1], dim=-1).numpy().astype("float64")
            letters = np.array([[rng.choice(27, p=row / row.sum())] for row in p])
            names = [name + LETTERS[i] for name, i in zip(names, letters[:, 0], strict=True)]
    return [name.split(".")[0] for name in names]


def main() -> None:
    args = arguments(__doc__, epochs=8, batch_size=128)

    path = find(args.data, "names", "names.txt") if args.data else download(SOURCE, SHA256, "names")
    names = path.read_text().split()
    known, rng = sorted(set(names)), np.random.default_rng(args.seed)
    held = set(rng.choice(known, len(known) // 10, replace=False))
    train, test = encoded([n for n in names if n not in held]), encoded([n for n in names if n in held])
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"{len(train)} names to learn from, {len(test)} to be tested on; backend {backend.name!r}\n"
          f"who counts pairs of letters: {bigram(train, test):.4f} nats a letter", flush=True)

    model, loader = Speller(), DataLoader(train, args.batch_size, shuffle=True)
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(loader))
    history = History()
    for epoch in range(1, args.epochs + 1):
        start, total = time.perf_counter(), 0.0
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = loss_of(model, x, y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() / len(loader)
        history.rows.append({"epoch": epoch, "loss": total, "val_loss": evaluate(model, test)})
        print(f"epoch {epoch:2d}/{args.epochs}: loss {total:.4f}, on the test names {history[-1]['val_loss']:.4f}, "
              f"{time.perf_counter() - start:.1f} s", flush=True)
    new = [name for name in invent(model, 60, rng) if name not in known]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "names.txt").write_text("\n".join(new) + "\n")
    history.plot(args.out / "names.png")
    print(f"names that are in no list: {', '.join(new[:20])}\ntest loss: {history[-1]['val_loss']:.4f} nats a letter")


if __name__ == "__main__":
    main()
