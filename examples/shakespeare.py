"""A GPT learns to write like Shakespeare, letter by letter: nanoGPT's configuration for a CPU.

The text is A. Karpathy's tiny Shakespeare, 1 115 394 characters, of which the last tenth is held back.  Model and
training are nanoGPT's (https://github.com/karpathy/nanoGPT, "I only have a macbook"): 4 layers of 4 heads, 128 wide,
which see 64 characters, and 2 000 steps of AdamW; for it a loss of 1.88 nats a character is reported there, by random
samples of the held-back tenth.  Here the loss is exact: of all its characters but the first, each in a window of 64.

It is 1.77, after four minutes on two busy CPU cores.  The learning rate is ours: 3e-3 at its highest, with nanoGPT's
1e-3 the loss is 1.90.

    python examples/shakespeare.py [--data DIR] [--steps 2000] [--batch-size 12] [--seed 0] [--backend cpu|cuda|auto]
                                   [--out out]

`input.txt` is looked for in `--data`, else in the folder that the environment variable GPUPROP_DATA names, else it is
downloaded, once, into the cache.  What the model writes goes to `out`/shakespeare.txt.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from command_line import arguments
from texts import download, find

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader
from gpuprop.decoding import generate, sample

SOURCE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
LAYERS, HEADS, WIDTH, LENGTH = 4, 4, 128, 64


class Attention(nn.Module):
    """Each character (N, T, width) asks those before it, with several heads."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.output = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Any, cache: nn.KeyValueCache | None = None) -> Any:
        n, t, _ = x.shape
        q, k, v = (part.view(n, t, HEADS, -1).swapaxes(1, 2) for part in self.inputs(x).split(WIDTH, dim=2))
        if cache is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            k, v = cache.update(k, v)
            y = F.scaled_dot_product_attention(q, k, v, cache.mask(t))
        return self.output(y.swapaxes(1, 2).reshape(n, t, WIDTH))


class Block(nn.Module):
    """Attention, then two layers for each character by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(WIDTH, bias=False), Attention()
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH, bias=False), nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.GELU(),
                                 nn.Linear(4 * WIDTH, WIDTH, bias=False))

    def forward(self, x: Any, cache: nn.KeyValueCache | None = None) -> Any:
        x = x + self.attention(self.attention_norm(x), cache)
        return x + self.mlp(x)


class GPT(nn.Module):
    """From characters (N, T) to the scores (N, T, symbols) of those that follow; a cache knows the ones before."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(symbols, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH, bias=False), nn.Linear(WIDTH, symbols, bias=False)
        self.head.weight = self.symbols.weight
        for name, p in self.named_parameters():  # GPT-2's: what is added to the residual stream starts smaller
            if p.ndim == 2:
                small = name.endswith(("output.weight", "mlp.3.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * LAYERS) if small else 0.02)

    def forward(self, x: Any, caches: list | None = None) -> Any:
        start = caches[0].length if caches else 0
        y = self.symbols(x) + self.places(gpuprop.arange(x.shape[1]) + start)
        for block, cache in zip(self.blocks, caches or [None] * LAYERS, strict=True):
            y = block(y, cache)
        return self.head(self.norm(y))


def batch(text: np.ndarray, size: int, rng: np.random.Generator) -> tuple[gpuprop.Tensor, gpuprop.Tensor]:
    """Pieces (size, 64) from anywhere in the text, and the characters (size, 64) that follow each."""
    start = rng.integers(0, len(text) - LENGTH, (size, 1))
    return gpuprop.tensor(text[start + np.arange(LENGTH)]), gpuprop.tensor(text[start + np.arange(LENGTH) + 1])


def loss_of(model: GPT, x: Any, y: Any, reduction: str = "mean") -> Any:
    """The cross-entropy in nats a character."""
    return F.cross_entropy(model(x).reshape(y.size, -1), y.reshape(-1), reduction=reduction)


def evaluate(model: GPT, text: np.ndarray) -> float:
    """The mean loss of all characters but the first, and those left over, in windows of 64 that do not overlap."""
    text = text[:(len(text) - 1) // LENGTH * LENGTH + 1]
    windows = ArrayDataset(text[:-1].reshape(-1, LENGTH), text[1:].reshape(-1, LENGTH))
    with gpuprop.no_grad():
        return sum(loss_of(model, x, y, "sum").item() for x, y in DataLoader(windows, 100)) / (len(text) - 1)


def write(model: GPT, text: list[int], count: int) -> list[int]:
    """The text, and `count` characters more: each is drawn from the 20 likeliest, and read to draw the next."""
    caches = [nn.KeyValueCache(1, LENGTH, HEADS, WIDTH // HEADS) for _ in range(LAYERS)]
    step = lambda tokens: model(tokens, caches)[:, -1]
    end = len(text) + count
    while len(text) < end:
        for cache in caches:  # which are full: go on with the last half
            cache.reset()
        half = text[-LENGTH // 2:]
        more = generate(step, [half], LENGTH + 1 - len(half), choose=lambda scores: sample(scores, 0.8, top_k=20))
        text = text + more[0, len(half):].tolist()
    return text[:end]


def main() -> None:
    args = arguments(__doc__, steps=2000, batch_size=12)

    path = find(args.data, "tinyshakespeare", "input.txt") if args.data else download(SOURCE, SHA256, "tinyshakespeare")
    characters = path.read_text()
    symbols = sorted(set(characters))
    text = np.array([symbols.index(character) for character in characters])
    train, held = np.split(text, [int(0.9 * len(text))])
    rng = np.random.default_rng(args.seed)
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)

    model = GPT(len(symbols))
    matrices, vectors = ([p for p in model.parameters() if p.ndim == ndim] for ndim in (2, 1))
    optimizer = optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
                            lr=3e-3, betas=(0.9, 0.99))
    warm = min(100, args.steps // 2)
    schedule = optim.lr_scheduler.SequentialLR(optimizer, [
        optim.lr_scheduler.LinearLR(optimizer, 1 / warm, total_iters=warm),
        optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps - warm, eta_min=3e-4)], [warm])
    print(f"{len(train)} characters to learn from, {len(held)} to be tested on; "
          f"{sum(p.size for p in model.parameters())} parameters; backend {backend.name!r}", flush=True)

    start, losses = time.perf_counter(), []
    for step in range(1, args.steps + 1):
        optimizer.zero_grad()
        loss = loss_of(model, *batch(train, args.batch_size, rng))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 500 == 0 or step == args.steps:
            value = evaluate(model, held)
            print(f"step {step:4d}/{args.steps}: loss {np.mean(losses[-100:]):.4f}, held back {value:.4f}, "
                  f"{time.perf_counter() - start:.0f} s", flush=True)

    story = "".join(symbols[i] for i in write(model, [symbols.index("\n")], 500))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "shakespeare.txt").write_text(story)
    print(f"{story}\n\nvalidation loss: {value:.4f} nats a character")


if __name__ == "__main__":
    main()
