"""An LSTM that predicts the next character."""

from __future__ import annotations

from typing import Any

from gpuprop._bench.workload import Sizes, Training
from gpuprop._bench.workloads.gpt import CHARACTERS, texts


def model(lib: Any, s: Sizes) -> Any:
    nn = lib.nn

    class CharacterLSTM(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(CHARACTERS, s.width)
            self.lstm = nn.LSTM(s.width, s.width, s.layers, batch_first=True)
            self.head = nn.Linear(s.width, CHARACTERS)

        def forward(self, x: Any) -> Any:
            y, _ = self.lstm(self.tokens(x))
            return self.head(y).reshape(-1, CHARACTERS)

    return CharacterLSTM()


WORKLOADS = {
    "lstm": Training(
        what="character LSTM of 2 layers of 256, 32 sequences of 64 characters, Adam",
        model=model, data=texts,
        sizes={"layers": 2, "width": 256, "length": 64, "batch": 32},
        quick={"width": 8, "length": 5, "batch": 3}, steps=10),
}
