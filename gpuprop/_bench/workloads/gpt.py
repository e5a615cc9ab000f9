"""GPT: a Transformer that predicts the next character."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuprop._bench.workload import Inference, Sizes, Training

CHARACTERS = 65


def model(lib: Any, s: Sizes) -> Any:
    """Blocks of causal attention and an MLP, each after a LayerNorm, with residual sums."""
    nn, F = lib.nn, lib.F

    class Block(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1 = nn.LayerNorm(s.width)
            self.ln_2 = nn.LayerNorm(s.width)
            self.qkv = nn.Linear(s.width, 3 * s.width)
            self.out = nn.Linear(s.width, s.width)
            self.mlp = nn.Sequential(
                nn.Linear(s.width, 4 * s.width), nn.GELU(), nn.Linear(4 * s.width, s.width))

        def forward(self, x: Any) -> Any:
            n, t, width = x.shape
            qkv = self.qkv(self.ln_1(x)).reshape(n, t, 3, s.heads, width // s.heads).swapaxes(1, 3)
            q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.swapaxes(1, 2).reshape(n, t, width))
            return x + self.mlp(self.ln_2(x))

    class GPT(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(CHARACTERS, s.width)
            self.positions = nn.Embedding(s.length, s.width)
            self.blocks = nn.Sequential(*(Block() for _ in range(s.layers)))
            self.last = nn.LayerNorm(s.width)
            self.head = nn.Linear(s.width, CHARACTERS)

        def forward(self, x: Any) -> Any:
            y = self.blocks(self.tokens(x) + self.positions.weight)
            return self.head(self.last(y)).reshape(-1, CHARACTERS)

    return GPT()


def texts(rng: np.random.Generator, s: Sizes) -> list:
    """Sequences; each character determines the next one with probability 0.9."""
    successor = rng.permutation(CHARACTERS)
    found = []
    for _ in range(2):
        text = [rng.integers(0, CHARACTERS, s.batch)]
        for _ in range(s.length):
            follows = rng.random(s.batch) < 0.9
            other = rng.integers(0, CHARACTERS, s.batch)
            text.append(np.where(follows, successor[text[-1]], other))
        tokens = np.stack(text, 1)
        found.append((tokens[:, :-1].copy(), tokens[:, 1:].ravel()))
    return found


SMALL = {"layers": 4, "heads": 4, "width": 128, "length": 64}
QUICK = {"layers": 1, "heads": 2, "width": 8, "length": 6, "batch": 2}

WORKLOADS = {
    "gpt_small": Training(
        what="GPT of 4 layers of 128, 12 sequences of 64 characters, Adam",
        model=model, data=texts, steps=10, sizes={**SMALL, "batch": 12}, quick=QUICK),
    "gpt": Training(
        what="GPT of 6 layers of 384, 8 sequences of 256 characters, Adam",
        model=model, data=texts, steps=4,
        sizes={"layers": 6, "heads": 6, "width": 384, "length": 256, "batch": 8}, quick=QUICK),
    "gpt_one": Inference(
        what="inference of the GPT of 4 layers on one sequence", model=model, data=texts,
        sizes={**SMALL, "batch": 1}, quick={**QUICK, "batch": 1}),
    "gpt_1000": Inference(
        what="inference of the GPT of 4 layers on 1000 sequences", model=model, data=texts,
        sizes={**SMALL, "batch": 1000}, quick=QUICK),
}
