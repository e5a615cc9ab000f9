"""Find the heartbeats in an electrocardiogram, also in noise, and the beats that come too early.

Record 100 of the MIT-BIH Arrhythmia Database (Moody and Mark, 2001): half an hour of one patient,
two leads, 360 values a second.  Physicians have marked 2 273 beats; 33 are premature beats of the
atria.  The first 60 % of the time are for training, the next 20 % choose the epoch and all
thresholds, and the last 20 % are the test set.

A convolutional network with growing dilation (van den Oord et al., 2016) gives three probabilities
to every ninetieth of a second: no beat, a beat, a premature beat.  In training, each stretch has
noise of a random strength.  The baseline are the filters of Pan and Tompkins (1985), which find the
energy of steep waves, and a threshold; it calls a beat premature if the interval before it is
short.

    python examples/heartbeat.py [--data DIR] [--epochs 8] [--seed 0] [--backend cpu|cuda|auto]
                                 [--out out]

The script prints the sensitivity, the share of the marked beats that are found within 150 ms, the
window of the standard ANSI/AAMI EC57, and the positive predictive value (PPV), the share of the
found beats that are marked: of the recording, of the recording with noise three times as strong,
and of the premature beats alone, which are very few.  It reads the record from `--data` or
GPUPROP_DATA, or downloads it once.  It draws beats of the test set, `out`/heartbeat.png, and saves
the network, `out`/heartbeat.safetensors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from scipy.signal import butter, find_peaks, sosfiltfilt
from texts import find_or_download

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader

SOURCE = ("https://raw.githubusercontent.com/MIT-LCP/wfdb-python/"
          "6850ad1aa0c1fcb2282b3625f767de98396cf740/sample-data/")
SHA256 = {
    "100.hea": "95fbdda0454fffae1a2dab1a5ac53e924ae97691c028cdd3ee82f2446b73c066",
    "100.dat": "b2ea3c250e56e48f4b7b90697832b8ecd1afa1e0bb31f2dcfea4ed6e1075a639",
    "100.atr": "8d8a5349fb16638ebbf649f1779d12e96d91b736b2aafe59db43719ae583d471",
}
RATE = 360  # values a second
NOISE = 3  # its standard deviation, in multiples of the signal's
CELL = 4  # values that share a prediction
TOLERANCE = int(0.15 * RATE)
REFRACTORY = RATE // 5  # no heart beats again so soon
BEAT_CODES = [*range(1, 14), 25, 30, 34, 35, 38, 41]  # the other marks are of rhythm and noise
ATRIAL_PREMATURE = 8


class Beats(NamedTuple):
    """The times of beats (N,) in ascending order, and which of them are premature (N,)."""

    time: np.ndarray
    premature: np.ndarray

    def within(self, first: int, end: int) -> Beats:
        inside = (self.time >= first) & (self.time < end)
        return Beats(self.time[inside] - first, self.premature[inside])

    def early(self) -> Beats:
        return Beats(*(a[self.premature] for a in self))


class Stretch(NamedTuple):
    """Millivolts of the two leads (2, T), and the beats."""

    signal: np.ndarray
    beats: Beats

    def part(self, first: int, end: int) -> Stretch:
        return Stretch(self.signal[:, first:end], self.beats.within(first, end))

    def noisy(self, seed: int) -> Stretch:
        """With white noise of `NOISE` times the standard deviation of each lead."""
        noise = NOISE * np.random.default_rng(seed).normal(size=self.signal.shape)
        return self._replace(signal=(self.signal + noise * strength(self.signal)).astype("float32"))


def strength(signal: np.ndarray) -> np.ndarray:
    return signal.std(axis=1, keepdims=True)


# ---- the files, in the formats of PhysioNet ------------------------------------------------------


def read_signal(header: Path, data: Path) -> np.ndarray:
    """Millivolts (2, T) of a file in format 212: three bytes are two numbers of twelve bits."""
    lines = [line.split() for line in header.read_text().splitlines() if line[:1] not in ("", "#")]
    gain, zero = np.array([[float(line[2]), float(line[4])] for line in lines[1:3]]).T
    low, high, second = np.fromfile(data, "uint8").reshape(-1, 3).astype("int32").T
    values = np.stack([low + (high % 16) * 256, second + (high // 16) * 256])
    signed = np.where(values < 2048, values, values - 4096)
    return ((signed - zero[:, None]) / gain[:, None]).astype("float32")


def read_beats(path: Path) -> Beats:
    """The beats of a file of annotations: words of a code and of the time since the last one."""
    words = iter(np.fromfile(path, "<u2").tolist())
    time, marks = 0, []
    for code, value in (divmod(word, 1024) for word in words):
        if code == 59:  # a long time, in two words
            time += next(words) * 65536 + next(words)
        elif code == 63:  # a text of `value` bytes
            for _ in range((value + 1) // 2):
                next(words)
        elif code < 50:
            time += value
            marks.append((time, code))
    times, codes = np.array(marks).T
    is_beat = np.isin(codes, BEAT_CODES)
    return Beats(times[is_beat], codes[is_beat] == ATRIAL_PREMATURE)


# ---- how well beats are found --------------------------------------------------------------------


def matches(found: np.ndarray, marked: np.ndarray, tolerance: int = TOLERANCE) -> int:
    """The largest number of pairs of a found and a marked time that are close to each other."""
    i = j = pairs = 0
    while i < len(found) and j < len(marked):
        if abs(found[i] - marked[j]) <= tolerance:
            pairs, i, j = pairs + 1, i + 1, j + 1
        elif found[i] < marked[j]:
            i += 1
        else:
            j += 1
    return pairs


class Score(NamedTuple):
    sensitivity: float
    ppv: float

    @property
    def f1(self) -> float:
        """The harmonic mean."""
        return 2 * self.sensitivity * self.ppv / max(self.sensitivity + self.ppv, 1e-9)


def score(found: Beats, marked: Beats) -> Score:
    pairs = matches(found.time, marked.time)
    return Score(pairs / max(len(marked.time), 1), pairs / max(len(found.time), 1))


def best(levels: np.ndarray, find: Callable[[float], Beats], marked: Beats) -> float:
    """The level at which `find` has the highest F1: the middle one of these levels."""
    values = np.array([score(find(level), marked).f1 for level in levels])
    highest = levels[values == values.max()]
    return float(highest[len(highest) // 2])


class Detector(NamedTuple):
    """Finds beats in a signal (2, T) by what `measure` makes of it, a level and a share."""

    measure: Callable[[np.ndarray], Any]
    find: Callable[[Any, float, float], Beats]
    levels: np.ndarray  # to choose from
    shares: np.ndarray

    def tested(self, held: Stretch, test: Stretch) -> Beats:
        """The beats of the test set, with the level and the share that are best for `held`."""
        measured, marked = self.measure(held.signal), held.beats
        level = best(self.levels, lambda level: self.find(measured, level, 0.5), marked)
        share = best(self.shares, lambda share: self.find(measured, level, share).early(),
                     marked.early())
        return self.find(self.measure(test.signal), level, share)


# ---- the baseline --------------------------------------------------------------------------------


def energy(signal: np.ndarray) -> np.ndarray:
    """The energy (T,) of steep waves in both leads, in multiples of its mean."""
    band = butter(2, [5, 15], "bandpass", fs=RATE, output="sos")
    slope = np.gradient(sosfiltfilt(band, signal / strength(signal)), axis=1)
    width = int(0.15 * RATE)
    power = np.convolve((slope**2).sum(axis=0), np.ones(width) / width, "same")
    return power / power.mean()


def beats_of_energy(energy: np.ndarray, level: float, share: float) -> Beats:
    """The peaks above `level`; one is premature if it follows in less than the usual interval."""
    time, _ = find_peaks(energy, height=level, distance=REFRACTORY)
    intervals = np.diff(time, prepend=0)
    usual = np.array([np.median(intervals[max(0, i - 8):i + 1]) for i in range(len(time))])
    return Beats(time, intervals < share * usual)


BASELINE = Detector(energy, beats_of_energy, np.geomspace(0.2, 10, 40), np.linspace(0.6, 0.98, 39))


# ---- the network ---------------------------------------------------------------------------------


class Residual(nn.Module):
    """``x + conv(relu(x))``, with taps that are `dilation` apart."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 5, padding=2 * dilation, dilation=dilation)

    def forward(self, x: Any) -> Any:
        return x + self.conv(F.relu(x))


def network(width: int = 24) -> nn.Module:
    """Maps millivolts (B, 2, T) to logits (B, 3, T / 4): no beat, a beat, a premature beat."""
    return nn.Sequential(
        nn.Conv1d(2, width, 8, stride=2, padding=3), nn.ReLU(),
        nn.Conv1d(width, width, 8, stride=2, padding=3),
        *(Residual(width, 2**i) for i in range(6)), nn.ReLU(), nn.Conv1d(width, 3, 1))


def classes(beats: Beats, length: int) -> np.ndarray:
    """The classes (length / 4,) of the cells; a beat has three of them."""
    found = np.zeros(length // CELL, "int64")
    cells = beats.time[:, None] // CELL + [-1, 0, 1]
    inside = (cells >= 0) & (cells < len(found))
    found[cells[inside]] = np.broadcast_to(1 + beats.premature[:, None], cells.shape)[inside]
    return found


def windows(stretch: Stretch, length: int = 10 * RATE, every: int = RATE) -> ArrayDataset:
    """Overlapping windows (N, 2, length) of the signal, and the classes (N, length / 4)."""
    starts = range(0, stretch.signal.shape[1] - length + 1, every)
    parts = [stretch.part(i, i + length) for i in starts]
    return ArrayDataset(np.stack([part.signal for part in parts]),
                        np.stack([classes(part.beats, length) for part in parts]))


def made_stretch(seconds: int = 60) -> Stretch:
    """A signal of a beat each second, for runs without data."""
    time = np.arange(RATE // 2, seconds * RATE, RATE)
    phase = np.arange(seconds * RATE) % RATE - RATE // 2
    signal = np.stack([np.exp(-phase**2 / 50), -np.exp(-phase**2 / 90)])
    return Stretch(signal.astype("float32"), Beats(time, time % 5 == 0)).noisy(0)


def run(train: Stretch | None = None) -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    train = train or made_stretch()
    model = network()
    optimizer = optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    weight = gpuprop.tensor(np.array([1, 1, 5], "float32"))  # premature beats are rare
    scale = gpuprop.tensor(strength(train.signal).astype("float32"))

    def step(signal: Any, classes: Any) -> Any:
        optimizer.zero_grad()
        level = NOISE * gpuprop.random.uniform((len(signal), 1, 1))
        noise = scale * level * gpuprop.random.normal(signal.shape)
        loss = F.cross_entropy(model(signal + noise), classes, weight)
        loss.backward()
        optimizer.step()
        return loss

    return model, step, DataLoader(windows(train), 16, shuffle=True)


def chances(model: nn.Module, signal: np.ndarray) -> np.ndarray:
    """The probabilities (3, T / 4) of the classes."""
    model.eval()
    with gpuprop.no_grad():
        return F.softmax(model(gpuprop.tensor(signal[None])), 1).numpy()[0]


def beats_of_chances(chances: np.ndarray, level: float, share: float) -> Beats:
    """The peaks above `level`; one is premature if this class has the `share` of its chance."""
    beat = chances[1:].sum(axis=0)
    padded = np.pad(beat, 1)  # a beat at the end is a peak too
    cells = find_peaks(padded, height=level, distance=REFRACTORY // CELL)[0] - 1
    return Beats(cells * CELL + CELL // 2, chances[2, cells] > share * beat[cells])


def detector(model: nn.Module) -> Detector:
    return Detector(lambda signal: chances(model, signal), beats_of_chances,
                    np.linspace(0.05, 0.95, 37), np.linspace(0.05, 0.95, 37))


def fitted(train: Stretch, held: list[Stretch], epochs: int) -> nn.Module:
    """A network with the weights of the epoch that has the least loss on the held stretches."""
    model, step, batches = run(train)
    marked = classes(held[0].beats, held[0].signal.shape[1])
    lowest, best_state = np.inf, model.state_dict()
    for epoch in range(1, epochs + 1):
        model.train()
        mean = np.mean([step(*batch).item() for batch in batches])
        right = np.stack([np.choose(marked, chances(model, part.signal)) for part in held])
        loss = -np.log(right + 1e-9).mean()
        if loss < lowest:
            lowest, best_state = loss, model.state_dict()
        print(f"epoch {epoch:2d}/{epochs}: loss {mean:.4f}, held {loss:.4f}, best {lowest:.4f}",
              flush=True)
    model.load_state_dict(best_state)
    return model


# ---- results -------------------------------------------------------------------------------------


def draw_signal(axes: Any, stretch: Stretch, found: Beats, title: str) -> None:
    seconds = np.arange(stretch.signal.shape[1]) / RATE
    axes.plot(seconds, stretch.signal[0], color="black", linewidth=0.7)
    top = stretch.signal[0].max()
    for beats, height, marker, name in ((stretch.beats, 1.15, "v", "marked by physicians"),
                                        (found, 1.35, "o", "found by the network")):
        for early, color in ((False, "tab:blue"), (True, "tab:red")):
            time = beats.time[beats.premature == early] / RATE
            label = f"{name}, premature" if early else name
            axes.plot(time, np.full(len(time), height * top), marker, color=color, label=label,
                      markersize=6)
    axes.set(title=title, ylabel="mV", xlabel="seconds", ylim=(None, 1.5 * top))
    axes.legend(ncols=4, loc="lower center", fontsize=8)


def draw_intervals(axes: Any, marked: Beats, found: Beats) -> None:
    """The time from beat to beat: premature beats are the points far below."""
    interval = np.diff(marked.time) / RATE
    minutes, premature = marked.time[1:] / RATE / 60, marked.premature[1:]
    axes.plot(minutes, interval, ".", color="gray", markersize=4, label="from beat to beat")
    axes.plot(minutes[premature], interval[premature], "v", color="tab:red", markersize=8,
              label="premature, marked by physicians")
    for time in found.early().time / RATE / 60:
        axes.axvline(time, color="tab:red", linewidth=0.8, alpha=0.5)
    axes.set(title="Intervals in the test set; lines: premature beats that the network found",
             xlabel="minutes", ylabel="seconds")
    axes.legend(loc="upper right", fontsize=8)


def draw(path: Path, test: list[Stretch], found: list[Beats]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), layout="constrained")
    panels = figure.subplots(3)
    early = [*test[0].beats.early().time, 0][0]
    first = max(0, int(early) - 5 * RATE)
    end = first + 10 * RATE
    titles = "ten seconds of the test set", "the same with noise, three times as strong"
    for axes, part, beats, title in zip(panels, test, found, titles, strict=False):
        draw_signal(axes, part.part(first, end), beats.within(first, end), title)
    draw_intervals(panels[2], test[0].beats, found[0])
    figure.savefig(path, dpi=110)


def compared(what: str, network: Beats, baseline: Beats, marked: Beats) -> list[Figure]:
    """Sensitivity and PPV of both, in percent, which are printed."""
    own, simple = (score(beats, marked) for beats in (network, baseline))
    print(f"{what}: {len(marked.time)} marked; network: sensitivity {own.sensitivity:.2%}, PPV "
          f"{own.ppv:.2%}; filters: sensitivity {simple.sensitivity:.2%}, PPV {simple.ppv:.2%}")
    return [Figure(f"{what}: {measure}, %", 100 * a, 1, {"filters and threshold": 100 * b})
            for measure, a, b in zip(("sensitivity", "PPV"), own, simple, strict=True)]


def main() -> None:
    args = parse_arguments(__doc__, epochs=8)
    header, data, marks = (find_or_download(args.data, "ecg_mitdb100", SOURCE + name, sha256)
                           for name, sha256 in SHA256.items())
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    whole = Stretch(read_signal(header, data), read_beats(marks))
    length = whole.signal.shape[1]
    print(f"{length / RATE / 60:.0f} minutes, {len(whole.beats.time)} beats, "
          f"{whole.beats.premature.sum()} of them premature, backend {backend.name!r}", flush=True)
    cuts = [int(share * length / RATE) * RATE for share in (0, 0.6, 0.8, 1)]
    train, held, test = map(whole.part, cuts, cuts[1:])
    helds, tests = [held, held.noisy(1)], [test, test.noisy(2)]
    model = fitted(train, helds, args.epochs)

    args.out.mkdir(parents=True, exist_ok=True)
    gpuprop.save(args.out / "heartbeat.safetensors", model.state_dict())
    network, baseline = ([method.tested(*pair) for pair in zip(helds, tests, strict=True)]
                         for method in (detector(model), BASELINE))
    draw(args.out / "heartbeat.png", tests, network)
    marked = test.beats
    record(args.record,
           *compared("beats", network[0], baseline[0], marked),
           *compared("beats in noise", network[1], baseline[1], marked),
           *compared("premature beats", network[0].early(), baseline[0].early(), marked.early()))


if __name__ == "__main__":
    main()
