"""A training step of nanoGPT's CPU configuration: 4 layers, 4 heads, 128 wide, 12 sequences of 64 characters, Adam."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.training import contenders

TOLERANCE = 1e-2
LAYERS, HEADS, WIDTH, LENGTH, CHARACTERS = 4, 4, 128, 64, 65


def build(nn: Any, F: Any) -> Any:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

        def forward(self, x: Any) -> Any:
            n, t, width = x.shape
            heads = self.qkv(self.ln_1(x)).reshape(n, t, 3, HEADS, width // HEADS).swapaxes(1, 3)
            y = F.scaled_dot_product_attention(heads[:, :, 0], heads[:, :, 1], heads[:, :, 2], is_causal=True)
            x = x + self.out(y.swapaxes(1, 2).reshape(n, t, width))
            return x + self.mlp(self.ln_2(x))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(CHARACTERS, WIDTH), nn.Embedding(LENGTH, WIDTH)
            self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
            self.last, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CHARACTERS)

        def forward(self, x: Any) -> Any:
            y = self.blocks(self.tokens(x) + self.places.weight)
            return self.head(self.last(y)).reshape(-1, CHARACTERS)

    return GPT()


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    """4 batches of sequences in which each character says the next."""
    rng = np.random.default_rng(0)
    successor = rng.permutation(CHARACTERS)
    found = []
    for _ in range(4):
        text = [rng.integers(0, CHARACTERS, 12)]
        for _ in range(LENGTH):
            text.append(np.where(rng.random(12) < 0.9, successor[text[-1]], rng.integers(0, CHARACTERS, 12)))
        tokens = np.stack(text, 1)
        found.append((tokens[:, :-1].copy(), tokens[:, 1:].ravel()))
    return found


CONTENDERS = contenders(build, batches)
