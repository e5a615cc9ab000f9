"""Balance a pole on a cart: reinforcement learning with an own simulator.

A cart on a track is pushed to the left or to the right, fifty times a second; the pole on it must
not lean by more than 12 degrees, nor the cart leave the track (Barto, Sutton and Anderson, 1983).
The simulator has the equations and limits of Gymnasium's CartPole-v1, for many carts at a time:
an episode has at most 500 steps, and the task counts as solved with a mean of 475.

The method is proximal policy optimization (Schulman, Wolski, Dhariwal, Radford and Klimov, 2017).
All carts drive for some steps; advantages are estimated from the values of states (Schulman,
Moritz, Levine, Jordan and Abbeel, 2016); the policy takes steps with a clipped objective.  Every
few rounds, episodes without chance in the actions choose the policy that is kept.

    python examples/cartpole.py [--rounds 100] [--seed 0] [--backend cpu|cuda|auto] [--out out]

The script prints the mean length of 100 episodes that it has not used before, beside that of random
pushes.  It draws the learning curve and what the carts do before and after training,
`out`/cartpole.png, and saves the policy, `out`/cartpole.safetensors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from command_line import parse_arguments
from figures import Figure, record

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader

GRAVITY = 9.8
CART, POLE = 1.0, 0.1  # masses
HALF = 0.5  # half of the pole's length
FORCE = 10.0
SECONDS = 0.02  # a step
LIMITS = np.array([2.4, 12 * np.pi / 180])  # of position and angle
LONGEST = 500  # steps

CARTS = 16
STEPS = 128  # of each cart in a round
DISCOUNT, TRACE = 0.99, 0.95  # gamma and lambda
CLIP = 0.2
SOLVED = 475

Judge = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # states -> logits, values


# ---- the simulator -------------------------------------------------------------------------------


def moved(state: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The states (N, 4) after one step: position, velocity, angle, angular velocity."""
    _, velocity, angle, turning = state.T
    sin, cos = np.sin(angle), np.cos(angle)
    total = CART + POLE
    push = (np.where(right, FORCE, -FORCE) + POLE * HALF * turning**2 * sin) / total
    angular = (GRAVITY * sin - cos * push) / (HALF * (4 / 3 - POLE * cos**2 / total))
    linear = push - POLE * HALF * angular * cos / total
    return state + SECONDS * np.stack([velocity, linear, turning, angular], axis=1)


class Carts:
    """Carts that start again at random where an episode ends."""

    def __init__(self, number: int, seed: Any) -> None:
        self.rng = np.random.default_rng(seed)
        self.state = np.zeros((number, 4))
        self.age = np.zeros(number, int)
        self.restart(np.ones(number, bool))

    def restart(self, which: np.ndarray) -> None:
        fresh = self.rng.uniform(-0.05, 0.05, self.state.shape)
        self.state = np.where(which[:, None], fresh, self.state)
        self.age = np.where(which, 0, self.age)

    def step(self, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The states after a step, which carts failed, and which are at the longest episode."""
        self.state = moved(self.state, right)
        self.age = self.age + 1
        failed = np.any(abs(self.state[:, ::2]) > LIMITS, axis=1)
        return self.state, failed, ~failed & (self.age >= LONGEST)


# ---- the policy ----------------------------------------------------------------------------------


def network(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(),
                         nn.Linear(64, outputs))


class Agent(nn.Module):
    """Maps states (B, 4) to the logits (B,) of a push to the right, and to values (B,)."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = network(1)
        self.critic = network(1)

    def forward(self, state: Any) -> tuple[Any, Any]:
        return self.policy(state)[:, 0], self.critic(state)[:, 0]

    def judge(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and values as NumPy's arrays."""
        with gpuprop.no_grad():
            logits, values = self(gpuprop.tensor(state.astype("float32")))
        return logits.numpy(), values.numpy()


def undecided(state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and values without an agent: random pushes."""
    return np.zeros(len(state)), np.zeros(len(state))


class Drive(NamedTuple):
    """What the carts (N) did in T steps."""

    state: np.ndarray  # (T, N, 4)
    right: np.ndarray  # (T, N): the actions
    after: np.ndarray  # (T, N, 4)
    failed: np.ndarray  # (T, N)
    ended: np.ndarray  # (T, N): failed or late
    lengths: list[int]  # of the episodes that ended


def drive(judge: Judge, carts: Carts, steps: int = STEPS) -> Drive:
    rows: list[tuple] = []
    lengths: list[int] = []
    for _ in range(steps):
        state = carts.state
        chance = 1 / (1 + np.exp(-judge(state)[0]))
        right = carts.rng.random(len(chance)) < chance
        after, failed, late = carts.step(right)
        ended = failed | late
        rows.append((state, right, after, failed, ended))
        lengths += carts.age[ended].tolist()
        carts.restart(ended)
    state, right, after, failed, ended = map(np.stack, zip(*rows, strict=True))
    return Drive(state, right, after, failed, ended, lengths)


def advantages(drive: Drive, value: np.ndarray, value_after: np.ndarray) -> np.ndarray:
    """Generalized advantage estimation (T, N).

    ``A[t] = delta[t] + gamma lambda A[t + 1]``, with the error of the value ``delta[t] = 1 + gamma
    V[t + 1] - V[t]``.  The value is 0 after a failure; A[t + 1] is 0 after any end.
    """
    delta = 1 + DISCOUNT * np.where(drive.failed, 0, value_after) - value
    found = np.zeros_like(delta)
    later = np.zeros(delta.shape[1])
    for t in reversed(range(len(delta))):
        later = delta[t] + DISCOUNT * TRACE * np.where(drive.ended[t], 0, later)
        found[t] = later
    return found


def batches_of(judge: Judge, drive: Drive) -> DataLoader:
    """States, actions, their log-probabilities, advantages, and targets of the values."""
    flat = lambda a: a.reshape(-1, *a.shape[2:])
    logits, value = judge(flat(drive.state))
    value_after = judge(flat(drive.after))[1]
    shape = drive.right.shape
    advantage = advantages(drive, value.reshape(shape), value_after.reshape(shape)).ravel()
    sign = np.where(drive.right.ravel(), 1, -1)
    columns = (flat(drive.state), sign, -np.logaddexp(0, -sign * logits),
               (advantage - advantage.mean()) / (advantage.std() + 1e-8), advantage + value)
    return DataLoader(ArrayDataset(*(a.astype("float32") for a in columns)), 256, shuffle=True)


def training(agent: Agent) -> Any:
    """The training step of the agent."""
    optimizer = optim.Adam(agent.parameters(), lr=1e-3)

    def step(state: Any, sign: Any, old: Any, advantage: Any, target: Any) -> Any:
        optimizer.zero_grad()
        logits, value = agent(state)
        ratio = gpuprop.exp(F.logsigmoid(sign * logits) - old)
        clipped = gpuprop.clip(ratio, 1 - CLIP, 1 + CLIP)
        gain = gpuprop.minimum(ratio * advantage, clipped * advantage).mean()
        entropy = F.binary_cross_entropy_with_logits(logits, F.sigmoid(logits))
        loss = 0.5 * F.mse_loss(value, target) - gain - 0.01 * entropy
        loss.backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()
        return loss

    return step


def run() -> tuple:
    """(model, step, batches) after random pushes, as `gpuprop verify` takes it."""
    agent = Agent()
    return agent, training(agent), batches_of(undecided, drive(undecided, Carts(CARTS, seed=0)))


# ---- training and results ------------------------------------------------------------------------


def episodes(judge: Judge, number: int, seed: Any) -> tuple[np.ndarray, np.ndarray]:
    """The lengths (N,) of episodes without chance in the actions, and all states (T, N, 4)."""
    carts = Carts(number, seed)
    alive, lengths, states = np.ones(number, bool), np.zeros(number), []
    while alive.any():
        states.append(carts.state)
        _, failed, late = carts.step(judge(carts.state)[0] > 0)
        lengths += alive
        alive &= ~(failed | late)
    return lengths, np.stack(states)


def trained(agent: Agent, rounds: int, seed: Any, held_seed: Any,
            every: int = 5) -> list[tuple[int, float]]:
    """Leave the best policy in the agent; returns steps and mean lengths of the episodes."""
    step, carts = training(agent), Carts(CARTS, seed)
    curve: list[tuple[int, float]] = []
    lengths: list[int] = []
    best, best_state = 0.0, agent.state_dict()
    for number in range(1, rounds + 1):
        seen = drive(agent.judge, carts)
        lengths += seen.lengths
        batches = batches_of(agent.judge, seen)
        for _ in range(4):
            for batch in batches:
                step(*batch)
        if number % every == 0:
            held = float(episodes(agent.judge, 50, held_seed)[0].mean())
            if held >= best:
                best, best_state = held, agent.state_dict()
            curve.append((number * STEPS * CARTS, float(np.mean(lengths[-100:]))))
            print(f"round {number:3d}/{rounds}: length of the last episodes {curve[-1][1]:5.1f}, "
                  f"held {held:5.1f}, best {best:5.1f}", flush=True)
    agent.load_state_dict(best_state)
    return curve


def draw_angles(axes: Any, before: tuple, after: tuple) -> None:
    """The angle of the pole in some episodes."""
    for (lengths, states), color, name in ((before, "tab:red", "before training"),
                                           (after, "tab:blue", "after training")):
        for i in range(10):
            angle = np.degrees(states[:int(lengths[i]), i, 2])
            axes.plot(SECONDS * np.arange(len(angle)), angle, color=color, linewidth=0.8,
                      label=None if i else name)
    for limit in np.degrees(LIMITS[1]) * np.array([-1, 1]):
        axes.axhline(limit, color="black", linestyle="--", linewidth=0.8)
    axes.set(title="Ten episodes; beyond the dashed lines, the pole falls", xlabel="seconds",
             ylabel="angle of the pole, degrees")
    axes.legend(loc="lower right")


def draw_policy(axes: Any, agent: Agent, states: np.ndarray) -> Any:
    """The chance of a push to the right where the cart rests in the middle, and an episode (T, 4).

    Returns the picture of the chances.
    """
    angle, turning = np.linspace(-0.06, 0.06, 101), np.linspace(-0.7, 0.7, 101)
    grid = np.zeros((len(turning), len(angle), 4))
    grid[..., 2], grid[..., 3] = angle, turning[:, None]
    chance = 1 / (1 + np.exp(-agent.judge(grid.reshape(-1, 4))[0])).reshape(grid.shape[:2])
    picture = axes.pcolormesh(np.degrees(angle), turning, chance, cmap="coolwarm", vmin=0, vmax=1)
    axes.plot(np.degrees(states[:, 2]), states[:, 3], ".", color="black", markersize=3)
    axes.set(title="Where the policy pushes, and an episode", xlabel="angle, degrees",
             ylabel="angular velocity, radians a second",
             xlim=np.degrees(angle[[0, -1]]), ylim=turning[[0, -1]])
    return picture


def draw(path: Path, curve: list[tuple[int, float]], chance: float, agent: Agent, before: tuple,
         after: tuple) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    axes: Any = figure.subplot_mosaic([["curve", "policy"], ["angles", "angles"]])
    steps, lengths = np.array(curve).T
    axes["curve"].plot(steps / 1000, lengths, label="last 100 episodes of training")
    axes["curve"].axhline(SOLVED, color="tab:green", linestyle="--", label="solved")
    axes["curve"].axhline(chance, color="gray", linestyle=":", label="random pushes")
    axes["curve"].set(title="Learning curve", xlabel="thousand steps",
                      ylabel="mean length of an episode", ylim=(0, 1.05 * LONGEST))
    axes["curve"].legend()
    picture = draw_policy(axes["policy"], agent, after[1][:int(after[0][0]), 0])
    figure.colorbar(picture, label="probability of a push to the right")
    draw_angles(axes["angles"], before, after)
    figure.savefig(path, dpi=110)


def main() -> None:
    args = parse_arguments(__doc__, rounds=100)
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"{CARTS} carts, rounds of {STEPS} steps, backend {backend.name!r}", flush=True)
    agent = Agent()
    training_seed, held_seed, test_seed = np.random.SeedSequence(args.seed).spawn(3)
    before = episodes(agent.judge, 100, test_seed)
    curve = trained(agent, args.rounds, training_seed, held_seed)
    after = episodes(agent.judge, 100, test_seed)
    chance = float(np.mean(drive(undecided, Carts(100, test_seed), LONGEST).lengths))

    args.out.mkdir(parents=True, exist_ok=True)
    gpuprop.save(args.out / "cartpole.safetensors", agent.state_dict())
    draw(args.out / "cartpole.png", curve, chance, agent, before, after)
    mean = float(after[0].mean())
    record(args.record, Figure(f"mean length of 100 episodes, steps of {LONGEST}", mean, 1,
                               {"solved": SOLVED, "random pushes": chance}))
    print(f"mean length of 100 episodes: {mean:.1f} of {LONGEST} steps, random pushes "
          f"{chance:.1f}, solved from {SOLVED} on")


if __name__ == "__main__":
    main()
