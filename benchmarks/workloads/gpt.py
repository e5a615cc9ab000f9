"""A training step of nanoGPT's CPU configuration: 4 layers, 4 heads, width 128, batch 12, Adam.

The sequences have 64 characters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.training import contenders

TOLERANCE = 1e-2
LAYERS, HEADS, WIDTH = 4, 4, 128
LENGTH, CHARACTERS = 64, 65


def build(nn: Any, F: Any) -> Any:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1 = nn.LayerNorm(WIDTH)
            self.ln_2 = nn.LayerNorm(WIDTH)
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
            self.out = nn.Linear(WIDTH, WIDTH)
            self.mlp = nn.Sequential(
                nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

        def forward(self, x: Any) -> Any:
            n, t, width = x.shape
            qkv = self.qkv(self.ln_1(x)).reshape(n, t, 3, HEADS, width // HEADS).swapaxes(1, 3)
            q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.swapaxes(1, 2).reshape(n, t, width))
            return x + self.mlp(self.ln_2(x))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(CHARACTERS, WIDTH)
            self.positions = nn.Embedding(LENGTH, WIDTH)
            self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
            self.last = nn.LayerNorm(WIDTH)
            self.head = nn.Linear(WIDTH, CHARACTERS)

        def forward(self, x: Any) -> Any:
            y = self.blocks(self.tokens(x) + self.positions.weight)
            return self.head(self.last(y)).reshape(-1, CHARACTERS)

    return GPT()


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    """4 batches of sequences; each character determines the next one with probability 0.9."""
    rng = np.random.default_rng(0)
    successor = rng.permutation(CHARACTERS)
    found = []
    for _ in range(4):
        text = [rng.integers(0, CHARACTERS, 12)]
        for _ in range(LENGTH):
            follows = rng.random(12) < 0.9
            text.append(np.where(follows, successor[text[-1]], rng.integers(0, CHARACTERS, 12)))
        tokens = np.stack(text, 1)
        found.append((tokens[:, :-1].copy(), tokens[:, 1:].ravel()))
    return found


CONTENDERS = contenders(build, batches)
