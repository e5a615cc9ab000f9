"""Train a character-level LSTM on 32,033 first names, and generate new names.

The names are those of A. Karpathy's makemore.  The loss is the mean cross-entropy per letter, in
nats.  A uniform guess among 27 symbols (26 letters and the end of the name) has a loss of 3.30;
a bigram model, fitted to all names, has 2.45.  Here a tenth of the distinct names, with all their
copies, is the test set, so that no name is in both sets.

    python examples/names.py [--data DIR] [--epochs 8] [--batch-size 128] [--seed 0]
                             [--backend cpu|cuda|auto] [--out out]

The script reads `names.txt` from `--data`, or from the folder in the environment variable
GPUPROP_DATA.  Without either, it downloads the file once and caches it.  It writes generated names
to `out`/names.txt and the losses to `out`/names.png.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from runs import training_run
from texts import find_or_download

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader
from gpuprop.training import History

SOURCE = "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt"
SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
SYMBOLS = ".abcdefghijklmnopqrstuvwxyz"  # the period marks the start and the end of a name
PADDING = -1  # the target after the end of a name


def encode(names: list[str]) -> ArrayDataset:
    """Inputs (N, T) and targets (N, T), the next symbol of each input."""
    longest = max(map(len, names))
    codes = np.full((len(names), longest + 2), PADDING)
    for row, name in zip(codes, names, strict=True):
        row[:len(name) + 2] = [SYMBOLS.index(symbol) for symbol in f".{name}."]
    return ArrayDataset(np.maximum(codes[:, :-1], 0), codes[:, 1:])


def bigram_loss(train: ArrayDataset, test: ArrayDataset) -> float:
    """The test loss of a bigram model: the counts in `train`, with one added to each."""
    counts = np.ones((27, 27))
    x, y = train.arrays
    np.add.at(counts, (x[y != PADDING], y[y != PADDING]), 1)
    probabilities = counts / counts.sum(axis=1, keepdims=True)
    x, y = test.arrays
    return -np.log(probabilities[x[y != PADDING], y[y != PADDING]]).mean()


class NameModel(nn.Module):
    """Maps symbols (N, T) to logits (N, T, 27) of the next symbols, and returns its state."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(27, 32)
        self.lstm = nn.LSTM(32, width, num_layers=2, dropout=0.2, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, 27)

    def forward(self, symbols: Any, state: Any = None) -> Any:
        features, state = self.lstm(self.embedding(symbols), state)
        return self.head(self.dropout(features)), state


def compute_loss(model: NameModel, x: Any, y: Any, reduction: str = "mean") -> Any:
    """The cross-entropy of a batch, in nats."""
    logits, _ = model(x)
    return F.cross_entropy(logits.reshape(-1, 27), y.reshape(-1), ignore_index=PADDING,
                           reduction=reduction)


def run() -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    model = NameModel()
    loader = DataLoader(encode(3 * ["emma", "olivia", "ava", "isabella"]), 4)
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    return training_run(model, compute_loss, optimizer, loader)


def evaluate(model: NameModel, data: ArrayDataset) -> float:
    """The mean cross-entropy per letter, in nats."""
    model.eval()
    with gpuprop.no_grad():
        total = sum(compute_loss(model, x, y, "sum").item() for x, y in DataLoader(data, 500))
    return total / (data.arrays[1] != PADDING).sum()


def generate_names(model: NameModel, count: int, rng: np.random.Generator) -> list[str]:
    """`count` names of at most 20 letters; each symbol is sampled, then fed back as input."""
    model.eval()
    symbols = np.zeros((count, 1), "int64")
    state = None
    names = [""] * count
    with gpuprop.no_grad():
        for _ in range(20):
            logits, state = model(gpuprop.tensor(symbols), state)
            p = F.softmax(logits[:, -1], dim=-1).numpy().astype("float64")
            symbols = np.array([[rng.choice(27, p=row / row.sum())] for row in p])
            names = [name + SYMBOLS[i] for name, i in zip(names, symbols[:, 0], strict=True)]
    return [name.split(".")[0] for name in names]


def main() -> None:
    args = parse_arguments(__doc__, epochs=8, batch_size=128)

    path = find_or_download(args.data, "names", SOURCE, SHA256)
    names = path.read_text().split()
    known = sorted(set(names))
    rng = np.random.default_rng(args.seed)
    test_names = set(rng.choice(known, len(known) // 10, replace=False))
    train = encode([name for name in names if name not in test_names])
    test = encode([name for name in names if name in test_names])
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"{len(train)} training names, {len(test)} test names, backend {backend.name!r}")
    baseline = bigram_loss(train, test)
    print(f"test loss of a bigram model: {baseline:.4f} nats per letter", flush=True)

    model = NameModel()
    loader = DataLoader(train, args.batch_size, shuffle=True)
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs * len(loader))
    history = History()
    for epoch in range(1, args.epochs + 1):
        start = time.perf_counter()
        mean_loss = 0.0
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = compute_loss(model, x, y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            mean_loss += loss.item() / len(loader)
        test_loss = evaluate(model, test)
        history.rows.append({"epoch": epoch, "loss": mean_loss, "val_loss": test_loss})
        seconds = time.perf_counter() - start
        print(f"epoch {epoch:2d}/{args.epochs}: loss {mean_loss:.4f}, test loss {test_loss:.4f}, "
              f"{seconds:.1f} s", flush=True)

    new = [name for name in generate_names(model, 60, rng) if name not in known]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "names.txt").write_text("\n".join(new) + "\n")
    history.plot(args.out / "names.png")
    print(f"generated names that are not in the data: {', '.join(new[:20])}")
    record(args.record, Figure("test loss, nats per letter", test_loss, 3,
                               {"bigram counts": baseline}))
    print(f"test loss: {test_loss:.4f} nats per letter")


if __name__ == "__main__":
    main()
