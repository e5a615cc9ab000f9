"""Divide Zachary's karate club with a graph network that is told the faction of two members.

The club of 34 members split after a conflict between its instructor (member 0) and its president
(member 33); W. W. Zachary (Journal of Anthropological Research, 1977) recorded who met whom outside
of the club and who went where.  His own model of the flow in this network places 33 of 34 members.

A graph convolutional network (Kipf and Welling, 2017) averages the features of neighbours and
applies a layer, three times.  It has no features but the members' numbers, and the loss knows two
labels, those of members 0 and 33; the other 32 follow from the network.

    python examples/karate.py [--runs 10] [--steps 200] [--seed 0] [--backend cpu|cuda|auto]
                              [--out out]

The script trains from several initial weights.  It draws the last run's prediction,
`out`/karate.png, and saves its weights as `out`/karate.safetensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from command_line import parse_arguments
from figures import Figure, record

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim

MEETINGS = {  # member -> the later members that he met
    0: [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 17, 19, 21, 31], 1: [2, 3, 7, 13, 17, 19, 21, 30],
    2: [3, 7, 8, 9, 13, 27, 28, 32], 3: [7, 12, 13], 4: [6, 10], 5: [6, 10, 16], 6: [16],
    8: [30, 32, 33], 9: [33], 13: [33], 14: [32, 33], 15: [32, 33], 18: [32, 33], 19: [33],
    20: [32, 33], 22: [32, 33], 23: [25, 27, 29, 32, 33], 24: [25, 27, 31], 25: [31],
    26: [29, 33], 27: [33], 28: [31, 33], 29: [32, 33], 30: [32, 33], 31: [32, 33], 32: [33],
}
MEMBERS = 34
WITH_INSTRUCTOR = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 16, 17, 19, 21]
FACTIONS = np.isin(np.arange(MEMBERS), WITH_INSTRUCTOR, invert=True).astype("int64")
LABELLED = np.array([0, 33])


def averages() -> np.ndarray:
    """``D^(-1/2) (A + I) D^(-1/2)``, with the adjacency matrix A and the degrees D of A + I."""
    a = np.eye(MEMBERS, dtype="float32")
    for i, others in MEETINGS.items():
        a[i, others] = 1
        a[others, i] = 1
    scale = a.sum(axis=1)**-0.5
    return scale[:, None] * a * scale


class GraphNetwork(nn.Module):
    """Returns the logits (34, 2) of the factions of all members."""

    averages: Any

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.register_buffer("averages", gpuprop.tensor(averages()))
        self.embedding = gpuprop.Parameter(gpuprop.random.normal((MEMBERS, width)))
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, 2)

    def forward(self) -> Any:
        h = gpuprop.tanh(self.averages @ self.embedding)
        h = gpuprop.tanh(self.averages @ self.hidden(h))
        return self.averages @ self.head(h)


def run() -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    model = GraphNetwork()
    optimizer = optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)

    def step(members: Any, factions: Any) -> Any:
        optimizer.zero_grad()
        logits = model()
        loss = F.cross_entropy(logits[members], factions)
        loss.backward()
        optimizer.step()
        return loss

    batch = gpuprop.tensor(LABELLED), gpuprop.tensor(FACTIONS[LABELLED])
    return model, step, [batch] * 3


def layout(steps: int = 400) -> np.ndarray:
    """Positions (34, 2) whose distances are close to the numbers of meetings between members.

    The stress of T. Kamada and S. Kawai (1989), minimized by Adam.
    """
    met = averages() > 0
    hops = np.full((MEMBERS, MEMBERS), np.inf)
    reached = np.eye(MEMBERS, dtype=bool)
    for n in range(MEMBERS):
        hops[reached] = np.minimum(hops[reached], n)
        reached = reached @ met
    pairs = np.triu_indices(MEMBERS, 1)
    distances = gpuprop.tensor(hops[pairs].astype("float32"))
    positions = gpuprop.Parameter(gpuprop.random.normal((MEMBERS, 2)))
    optimizer = optim.Adam([positions], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        difference = positions[pairs[0]] - positions[pairs[1]]
        length = gpuprop.sqrt((difference**2).sum(axis=1))
        ((length / distances - 1)**2).sum().backward()
        optimizer.step()
    return positions.numpy()


def draw(path: Path, logits: np.ndarray) -> None:
    from matplotlib.figure import Figure

    points = layout()
    probability = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    for i, others in MEETINGS.items():
        for j in others:
            axes.plot(*points[[i, j]].T, color="lightgray", linewidth=0.8, zorder=1)
    x, y = points.T
    marks = axes.scatter(x, y, c=probability, cmap="coolwarm", vmin=0, vmax=1, s=220, zorder=2)
    wrong = (probability > 0.5) != FACTIONS
    axes.scatter(x[wrong], y[wrong], s=420, facecolors="none", edgecolors="black", zorder=3)
    axes.scatter(x[LABELLED], y[LABELLED], s=420, marker="s", facecolors="none",
                 edgecolors="black", zorder=3)
    for i in range(MEMBERS):
        axes.annotate(str(i), (x[i], y[i]), ha="center", va="center", fontsize=8)
    figure.colorbar(marks, label="probability of the president's faction")
    axes.set(title="Squares: the labels given. Circle: an error.")
    axes.set_axis_off()
    figure.savefig(path, dpi=120)


def main() -> None:
    args = parse_arguments(__doc__, runs=10, steps=200)
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"{MEMBERS} members, {sum(map(len, MEETINGS.values()))} pairs that met, "
          f"backend {backend.name!r}")
    right = []
    for i in range(1, args.runs + 1):
        model, step, batches = run()
        for _ in range(args.steps):
            loss = step(*batches[0])
        with gpuprop.no_grad():
            logits = model().numpy()
        right.append(int((logits.argmax(axis=1) == FACTIONS).sum()))
        print(f"run {i:2d}/{args.runs}: loss {loss.item():.4f}, {right[-1]} of {MEMBERS} members "
              f"right", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    gpuprop.save(args.out / "karate.safetensors", model.state_dict())
    draw(args.out / "karate.png", logits)
    mean = float(np.mean(right))
    record(args.record, Figure(f"members in the right faction, of {MEMBERS}", mean, 1,
                               {"Zachary's model": 33}))
    print(f"members in the right faction: {mean:.1f} of {MEMBERS} (Zachary's model: 33)")


if __name__ == "__main__":
    main()
