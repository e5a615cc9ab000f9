"""Recognize spoken digits twice: as one of ten classes, and spelled letter by letter with CTC.

The Free Spoken Digit Dataset (Z. Jackson and others) has 3 000 recordings, 50 of each digit by each
of six speakers, 8 kHz.  Its official test set are the recordings 0 to 4; here 5 to 9 choose the
weights, and 10 to 49 are for training.

Both networks read a log-mel spectrogram: the power in 40 bands of frequency, of equal width on the
mel scale, every 16 ms.  The first is a convolutional network on this picture.  The second spells
the word: convolutions and a bidirectional GRU return a distribution over letters, or none, at each
time.  The CTC loss (Graves, Fernández, Gomez and Schmidhuber, 2006) is minus the logarithm of the
total probability of all alignments of the word with the sound, so nobody needs to say when a letter
is spoken.  Decoding is greedy: the best letter at each time, repeats merged, blanks removed.  Both
end where the recording ends.

    python examples/spoken_digits.py [--data DIR] [--epochs 10] [--seed 0]
                                     [--backend cpu|cuda|auto] [--out out]

The script reads free-spoken-digit-dataset-master.zip from `--data` or GPUPROP_DATA.  It prints the
test accuracy beside that of logistic regression on each band's mean and deviation and that of
A. Thite's network on an earlier release (sound-mnist, 2017), and the share of words without an
error and the character error rate of the spelling.  It draws the recording of each digit that has
the most errors, with the letters' times, `out`/spoken_digits.png, and saves both networks.  The
second network takes twice the epochs.
"""

from __future__ import annotations

import io
import itertools
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from runs import train_best
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from texts import find_given

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader, RandomCrop

FILE = "free-spoken-digit-dataset-master.zip"
PUBLISHER = "github.com/Jakobovski/free-spoken-digit-dataset, Code, Download ZIP"
PUBLISHED = {"published, MFCC and convolutions, three speakers": 97.0}
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LETTERS = "-" + "".join(sorted(set("".join(WORDS))))  # the first is CTC's blank
RATE, FRAME, HOP = 8000, 256, 128  # samples per second, per Fourier transform, between two of them
BANDS, TIMES = 40, 64  # of a spectrogram: about one second
SHIFT = 2  # in training, sound is moved by up to so many times and bands
DECIBELS = 80  # below the loudest: 0 in a spectrogram


class Recordings(NamedTuple):
    """Log-mel spectrograms (N, 1, BANDS, TIMES), the digits (N,), and the recordings' numbers."""

    x: np.ndarray
    times: np.ndarray  # of a spectrogram that are sound (N,); the others are silence
    digits: np.ndarray
    numbers: np.ndarray

    def between(self, first: int, last: int) -> Recordings:
        rows = (self.numbers >= first) & (self.numbers <= last)
        return Recordings(*(a[rows] for a in self))


# ---- sound ---------------------------------------------------------------------------------------


def mel_filters() -> np.ndarray:
    """Triangles (BANDS, FRAME // 2 + 1) over frequency, at equal distances in mel."""
    mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), BANDS + 2)
    corners = 700 * (10**(mel / 2595) - 1)
    left, middle, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    f = np.fft.rfftfreq(FRAME, 1 / RATE)
    return np.maximum(0, np.minimum((f - left) / (middle - left), (right - f) / (right - middle)))


def power_spectrum(sound: np.ndarray) -> np.ndarray:
    """The squared Fourier transform (T, FRAME // 2 + 1) under a Hann window, every HOP samples."""
    padded = np.pad(sound, FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    window = np.sin(np.pi * np.arange(FRAME) / FRAME)**2
    return np.abs(np.fft.rfft(frames * window))**2


def log_mel(sound: np.ndarray) -> np.ndarray:
    """The spectrogram (BANDS, TIMES): 1 for the loudest, 0 for DECIBELS less and for the rest."""
    power = mel_filters() @ power_spectrum(sound)[:TIMES].T
    decibels = 10 * np.log10(np.maximum(power / power.max(), 1e-20))
    scaled = np.maximum(1 + decibels / DECIBELS, 0)
    return np.pad(scaled, ((0, 0), (0, TIMES - scaled.shape[1]))).astype("float32")


def read_wave(data: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(data)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype("float64")


def read_recordings(path: Path) -> Recordings:
    """The files `digit_speaker_number.wav` of the archive."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in sorted(archive.namelist()) if name.endswith(".wav")]
        sounds = [read_wave(archive.read(name)) for name in names]
    x = np.stack([log_mel(sound) for sound in sounds])
    times = np.array([min(len(sound) // HOP + 1, TIMES) for sound in sounds])
    parts = [Path(name).stem.split("_") for name in names]
    return Recordings(x[:, None], times, np.array([int(part[0]) for part in parts]),
                      np.array([int(part[-1]) for part in parts]))


# ---- the networks --------------------------------------------------------------------------------


def classifier() -> nn.Module:
    """Maps spectrograms to the logits (N, 10) of the digits."""
    block = lambda before, after: [nn.Conv2d(before, after, 3, padding=1, bias=False),
                                   nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*block(1, 16), *block(16, 32), *block(32, 64), nn.Flatten(),
                         nn.Dropout(0.5), nn.Linear(64 * (BANDS // 8) * (TIMES // 8), 10))


class Speller(nn.Module):
    """Maps spectrograms to the logits (TIMES // 2, N, letters) of the letter at each time."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.sound = nn.Sequential(
            nn.Flatten(1, 2), nn.Conv1d(BANDS, 2 * width, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm1d(2 * width), nn.ReLU(), nn.Dropout(0.2))
        self.context = nn.GRU(2 * width, width, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * width, len(LETTERS)))

    def forward(self, x: Any) -> Any:
        h, _ = self.context(self.sound(x).transpose(2, 0, 1))
        return self.head(h)


def spelled() -> tuple[np.ndarray, np.ndarray]:
    """The letters (10, 5) of the words, filled with blanks, and their lengths (10,)."""
    rows = [[LETTERS.index(letter) for letter in word.ljust(5, "-")] for word in WORDS]
    return np.array(rows), np.array([len(word) for word in WORDS])


def class_loss(logits: Any, times: Any, digits: Any) -> Any:
    return F.cross_entropy(logits, digits)


def spelling_loss(logits: Any, times: Any, digits: Any) -> Any:
    letters, lengths = (gpuprop.tensor(a)[digits] for a in spelled())
    return F.ctc_loss(F.log_softmax(logits, dim=-1), letters, steps_of(times), lengths)


def steps_of(times: Any) -> Any:
    """How many of the speller's steps (N,) hear the sound, wherever it is moved to."""
    return ((times + SHIFT + 1) // 2).clip(0, TIMES // 2)


def greedy(logits: np.ndarray, times: np.ndarray) -> list[str]:
    """The words of logits (T, N, letters): repeats are merged, then blanks are removed."""
    best = zip(logits.argmax(axis=-1).T, steps_of(times), strict=True)
    return ["".join(LETTERS[i] for i, _ in itertools.groupby(row[:steps]) if i)
            for row, steps in best]


def edit_distance(a: str, b: str) -> int:
    """The least number of letters to insert, delete or replace so that `a` becomes `b`."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != other))
    return row[-1]


def character_error_rate(words: list[str], right: list[str]) -> float:
    edits = sum(map(edit_distance, words, right))
    return edits / sum(map(len, right))


# ---- training ------------------------------------------------------------------------------------


def run(model: nn.Module | None = None, loss_of: Callable = spelling_loss,
        data: Recordings | None = None, epochs: int = 1) -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    model = model or Speller()
    if data is None:  # noise
        x = gpuprop.random.uniform((96, 1, BANDS, TIMES)).numpy()
        data = Recordings(x, 40 + np.arange(96) % 20, np.arange(96) % 10, np.zeros(96))
    shifted = RandomCrop((BANDS, TIMES), padding=SHIFT)
    loader = DataLoader(ArrayDataset(*data[:3]), 32, shuffle=True, transform=shifted)
    optimizer = optim.AdamW(model.parameters(), weight_decay=0.05)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, epochs=epochs,
                                              steps_per_epoch=len(loader))

    def step(x: Any, times: Any, digits: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model(x), times, digits)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        return loss

    return model, step, loader


def logits_of(model: nn.Module, x: np.ndarray) -> np.ndarray:
    model.eval()
    with gpuprop.no_grad():
        return model(gpuprop.tensor(x)).numpy()


def fitted(model: nn.Module, loss_of: Callable, data: Recordings, held: Recordings,
           epochs: int) -> nn.Module:
    """The model with the weights of the epoch with the least loss on the held recordings."""
    model, *others = run(model, loss_of, data, epochs)

    def measure() -> tuple[float, str]:
        logits = logits_of(model, held.x)
        loss = loss_of(*map(gpuprop.tensor, (logits, held.times, held.digits))).item()
        return -loss, f"held recordings {loss:.4f}"

    return train_best((model, *others), epochs, measure)


# ---- results -------------------------------------------------------------------------------------


def logistic_regression(data: Recordings, test: Recordings) -> float:
    """The accuracy of a linear model that knows the mean and the deviation of each band."""
    features = lambda x: np.hstack([x.mean(axis=3), x.std(axis=3)]).reshape(len(x), -1)
    model = LogisticRegression(max_iter=5000).fit(features(data.x), data.digits)
    return accuracy_score(test.digits, model.predict(features(test.x)))


def draw(path: Path, test: Recordings, classes: np.ndarray, letters: np.ndarray) -> None:
    """Of each digit the recording with the most errors, its class, and when it says a letter."""
    from matplotlib.figure import Figure

    words = greedy(letters, test.times)
    edits = np.array([edit_distance(word, WORDS[digit])
                      for word, digit in zip(words, test.digits, strict=True)])
    best = np.where(np.arange(len(letters)) < steps_of(test.times)[:, None],
                    letters.argmax(axis=-1).T, 0)
    seconds = TIMES * HOP / RATE
    figure = Figure(figsize=(14, 6), layout="constrained")
    for digit, axes in enumerate(figure.subplots(2, 5, sharex=True, sharey=True).flat):
        rows = np.flatnonzero(test.digits == digit)
        i = rows[np.argmax(edits[rows] + (classes[rows] != digit))]
        axes.imshow(test.x[i, 0], origin="lower", aspect="auto", cmap="magma",
                    extent=(0, seconds, 0, BANDS))
        for t in np.flatnonzero((best[i] > 0) & (best[i] != np.roll(best[i], 1))):
            axes.text((t + 0.5) / len(best[i]) * seconds, 1, LETTERS[best[i, t]], color="white",
                      fontsize=14, weight="bold", ha="center")
        right = classes[i] == digit and words[i] == WORDS[digit]
        axes.set_title(f"{WORDS[digit]}: class {classes[i]}, spelled \"{words[i]}\"",
                       color="black" if right else "red", fontsize=10)
    figure.supxlabel("seconds")
    figure.supylabel("band of frequency")
    figure.savefig(path, dpi=110)


def main() -> None:
    args = parse_arguments(__doc__, epochs=10)
    recordings = read_recordings(find_given(args.data, "fsdd", FILE, PUBLISHER))
    test, held, data = (recordings.between(*numbers) for numbers in ((0, 4), (5, 9), (10, 49)))
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"{len(data.x)} recordings for training, {len(test.x)} for the test, backend "
          f"{backend.name!r}", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    logits = {}
    for name, model, loss, epochs in (
            ("classes", classifier(), class_loss, args.epochs),
            ("letters", Speller(), spelling_loss, 2 * args.epochs)):
        print(f"{name}:")
        model = fitted(model, loss, data, held, epochs)
        gpuprop.save(args.out / f"spoken_digits_{name}.safetensors", model.state_dict())
        logits[name] = logits_of(model, test.x)
    classes, words = logits["classes"].argmax(axis=-1), greedy(logits["letters"], test.times)
    draw(args.out / "spoken_digits.png", test, classes, logits["letters"])
    right = [WORDS[digit] for digit in test.digits]
    accuracy = 100 * accuracy_score(test.digits, classes)
    linear = 100 * logistic_regression(data, test)
    spelling = 100 * accuracy_score(right, words)
    errors = 100 * character_error_rate(words, right)
    record(args.record,
           Figure("test accuracy, %", accuracy, 1, {"logistic regression": linear, **PUBLISHED}),
           Figure("words spelled without an error, %", spelling, 1),
           Figure("character error rate, %", errors, 1))
    print(f"letters: {spelling:.1f} % of words without an error, character error rate "
          f"{errors:.1f} %")
    print(f"classes: test accuracy {accuracy:.1f} %; logistic regression {linear:.1f} %; "
          + "; ".join(f"{what} {value:.1f} %" for what, value in PUBLISHED.items()))


if __name__ == "__main__":
    main()
