"""Train a GPT on Shakespeare's plays, character by character, with nanoGPT's settings for a CPU.

The text is A. Karpathy's tiny Shakespeare, 1,115,394 characters; the last tenth is the validation
set.  Except for the learning rate, the model and its training are those of nanoGPT
(https://github.com/karpathy/nanoGPT, "I only have a macbook"): 4 layers with 4 heads, width 128, a
context of 64 characters, and 2,000 steps of AdamW.
nanoGPT reports a validation loss of 1.88 nats per character, estimated from random samples.  Here
the loss is exact: the mean over consecutive windows of 64 characters.

The learning rate rises to 3e-3, three times nanoGPT's.

    python examples/shakespeare.py [--data DIR] [--steps 2000] [--batch-size 12] [--seed 0]
                                   [--backend cpu|cuda|auto] [--out out]

The script reads `input.txt` from `--data`, or from the folder in the environment variable
GPUPROP_DATA.  Without either, it downloads the file once and caches it.  It writes generated text
to `out`/shakespeare.txt.
"""

from __future__ import annotations

import math
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
from gpuprop.decoding import generate, sample

SOURCE = ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
          "input.txt")
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
LAYERS, HEADS, WIDTH, CONTEXT = 4, 4, 128, 64


class Attention(nn.Module):
    """Causal multi-head self-attention over characters (N, T, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.output = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Any, cache: nn.KeyValueCache | None = None) -> Any:
        n, t, _ = x.shape
        parts = self.inputs(x).split(WIDTH, dim=2)
        q, k, v = (part.view(n, t, HEADS, -1).swapaxes(1, 2) for part in parts)
        if cache is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            k, v = cache.update(k, v)
            y = F.scaled_dot_product_attention(q, k, v, cache.mask(t))
        return self.output(y.swapaxes(1, 2).reshape(n, t, WIDTH))


class Block(nn.Module):
    """Attention and a two-layer perceptron, each with layer norm and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH, bias=False)
        self.attention = Attention()
        self.mlp = nn.Sequential(
            nn.LayerNorm(WIDTH, bias=False),
            nn.Linear(WIDTH, 4 * WIDTH, bias=False),
            nn.GELU(),
            nn.Linear(4 * WIDTH, WIDTH, bias=False),
        )

    def forward(self, x: Any, cache: nn.KeyValueCache | None = None) -> Any:
        x = x + self.attention(self.attention_norm(x), cache)
        return x + self.mlp(x)


class GPT(nn.Module):
    """Maps characters (N, T) to logits (N, T, symbols) of the next characters.

    With `caches`, one per layer, the characters continue those of the previous calls.
    """

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, symbols, bias=False)
        self.head.weight = self.symbols.weight
        for name, p in self.named_parameters():
            if p.ndim == 2:  # as in GPT-2: smaller weights in layers that add to the residual
                is_residual = name.endswith(("output.weight", "mlp.3.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * LAYERS) if is_residual else 0.02)

    def forward(self, x: Any, caches: list | None = None) -> Any:
        start = caches[0].length if caches else 0
        y = self.symbols(x) + self.positions(gpuprop.arange(x.shape[1]) + start)
        for block, cache in zip(self.blocks, caches or [None] * LAYERS, strict=True):
            y = block(y, cache)
        return self.head(self.norm(y))


def sample_batch(text: np.ndarray, size: int,
                 rng: np.random.Generator) -> tuple[gpuprop.Tensor, gpuprop.Tensor]:
    """Random windows (size, 64) of the text, and the next character of each position."""
    start = rng.integers(0, len(text) - CONTEXT, (size, 1))
    window = start + np.arange(CONTEXT)
    return gpuprop.tensor(text[window]), gpuprop.tensor(text[window + 1])


def compute_loss(model: GPT, x: Any, y: Any, reduction: str = "mean") -> Any:
    """The cross-entropy of a batch, in nats."""
    return F.cross_entropy(model(x).reshape(y.size, -1), y.reshape(-1), reduction=reduction)


def run() -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    rng = np.random.default_rng(0)
    model = GPT(symbols=65)
    batches = [sample_batch(rng.integers(0, 65, 1000), 4, rng) for _ in range(3)]
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.99))
    return training_run(model, compute_loss, optimizer, batches)


def evaluate(model: GPT, text: np.ndarray) -> float:
    """The mean cross-entropy per character, in nats, over windows of 64 that do not overlap."""
    text = text[:(len(text) - 1) // CONTEXT * CONTEXT + 1]  # drops an incomplete last window
    windows = ArrayDataset(text[:-1].reshape(-1, CONTEXT), text[1:].reshape(-1, CONTEXT))
    with gpuprop.no_grad():
        losses = [compute_loss(model, x, y, "sum").item() for x, y in DataLoader(windows, 100)]
    return sum(losses) / (len(text) - 1)


def continue_text(model: GPT, text: list[int], count: int) -> list[int]:
    """`text` and `count` more characters, each sampled from the 20 most likely ones."""
    caches = [nn.KeyValueCache(1, CONTEXT, HEADS, WIDTH // HEADS) for _ in range(LAYERS)]
    next_logits = lambda tokens: model(tokens, caches)[:, -1]
    choose = lambda logits: sample(logits, 0.8, top_k=20)
    end = len(text) + count
    while len(text) < end:
        for cache in caches:  # the context is full: start again from its second half
            cache.reset()
        prompt = text[-CONTEXT // 2:]
        tokens = generate(next_logits, [prompt], CONTEXT + 1 - len(prompt), choose=choose)
        text = text + tokens[0, len(prompt):].tolist()
    return text[:end]


def main() -> None:
    args = parse_arguments(__doc__, steps=2000, batch_size=12)

    characters = find_or_download(args.data, "tinyshakespeare", SOURCE, SHA256).read_text()
    symbols = sorted(set(characters))
    text = np.array([symbols.index(character) for character in characters])
    train, validation = np.split(text, [int(0.9 * len(text))])
    rng = np.random.default_rng(args.seed)
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)

    model = GPT(len(symbols))
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.99))
    warmup_steps = max(1, min(100, args.steps // 2))
    warmup = optim.lr_scheduler.LinearLR(optimizer, 1 / warmup_steps, total_iters=warmup_steps)
    decay = optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps - warmup_steps, eta_min=3e-4)
    scheduler = optim.lr_scheduler.SequentialLR(optimizer, [warmup, decay], [warmup_steps])
    parameters = sum(p.size for p in model.parameters())
    print(f"{len(train)} training characters, {len(validation)} validation characters, "
          f"{parameters} parameters, backend {backend.name!r}", flush=True)

    start = time.perf_counter()
    losses = []
    for step in range(1, args.steps + 1):
        optimizer.zero_grad()
        loss = compute_loss(model, *sample_batch(train, args.batch_size, rng))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        if step % 500 == 0 or step == args.steps:
            validation_loss = evaluate(model, validation)
            seconds = time.perf_counter() - start
            print(f"step {step:4d}/{args.steps}: loss {np.mean(losses[-100:]):.4f}, "
                  f"validation loss {validation_loss:.4f}, {seconds:.0f} s", flush=True)

    tokens = continue_text(model, [symbols.index("\n")], 500)
    generated = "".join(symbols[i] for i in tokens)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "shakespeare.txt").write_text(generated)
    record(args.record, Figure("validation loss, nats per character", validation_loss, 3,
                               {"published by nanoGPT at a rate of 1e-3": 1.88}))
    print(f"{generated}\n\nvalidation loss: {validation_loss:.4f} nats per character")


if __name__ == "__main__":
    main()
