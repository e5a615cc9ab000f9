"""Classify sentences of film reviews as negative or positive with a convolutional network.

The data are the 10,662 sentences of B. Pang and L. Lee, "Seeing stars" (2005); half are positive.
The network is CNN-rand of Y. Kim, "Convolutional neural networks for sentence classification"
(2014): word embeddings, convolutions over windows of 3, 4 and 5 words, the maximum of each feature
over the sentence, dropout 0.5.  Kim reports an accuracy of 0.761 in ten-fold cross-validation.

Each fold is a tenth of the sentences and is the test set once.  A tenth of the other sentences is
the validation set, which selects the best epoch; the network trains on the rest.  Words that occur
only once in the training set are unknown.  Embeddings have size 128 (Kim's 300) and dropout 0.3.

    python examples/sentiment.py [--data DIR] [--folds 10] [--epochs 6] [--batch-size 50] [--seed 0]
                                 [--backend cpu|cuda|auto] [--out out]

The script reads `sentence_polarity.zip` from `--data`, or from the folder in the environment
variable GPUPROP_DATA.  Without either, it downloads the file once and caches it.  It writes the
learning curves of the last fold to `out`/sentiment.png.
"""

from __future__ import annotations

import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from runs import training_run
from texts import find_or_download

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import DataLoader
from gpuprop.training import EarlyStopping, Trainer

SOURCE = ("https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora/"
          "sentence_polarity.zip")
SHA256 = "6e1ed4405b65c7eabf1d199a7f7c437091ac21da0ea7467b410a74062574566b"
PADDING, UNKNOWN = 0, 1
WINDOWS = 3, 4, 5  # sizes of the convolutions, in words
Samples = list[tuple[list[str], int]]  # the words of a sentence, and its label: 1 is positive


def read_sentences(path: Path) -> Samples:
    """All sentences, the negative ones first."""
    samples = []
    with zipfile.ZipFile(path) as archive:
        for label, name in enumerate(("neg", "pos")):
            text = archive.read(f"sentence_polarity/rt-polarity.{name}").decode()
            samples += [(line.split(), label) for line in text.splitlines()]
    return samples


def make_batches(samples: Samples, vocabulary: dict[str, int],
                 size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of word indices (N, T) and labels (N,); sentences in a batch are similarly long."""
    samples = sorted(samples, key=lambda sample: len(sample[0]))
    batches = []
    for start in range(0, len(samples), size):
        batch = samples[start:start + size]
        longest = len(batch[-1][0])
        words = np.full((len(batch), max(longest, *WINDOWS)), PADDING)
        for row, (sentence, _) in zip(words, batch, strict=True):
            row[:len(sentence)] = [vocabulary.get(word, UNKNOWN) for word in sentence]
        batches.append((words, np.array([label for _, label in batch])))
    return batches


class SentenceCNN(nn.Module):
    """Maps word indices (N, T) to the logits (N, 2) of the classes negative and positive."""

    def __init__(self, words: int, width: int = 128, features: int = 100) -> None:
        super().__init__()
        self.embedding = nn.Sequential(nn.Embedding(words, width, padding_idx=PADDING),
                                       nn.Dropout(0.3))
        self.convolutions = nn.ModuleList(nn.Conv1d(width, features, window) for window in WINDOWS)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(features * len(WINDOWS), 2)
        self.embedding[0].weight.data *= 0.1  # so that training soon outweighs the initial values

    def forward(self, words: Any) -> Any:
        x = self.embedding(words).swapaxes(1, 2)                           # (N, width, T)
        maxima = [F.relu(conv(x)).max(axis=2) for conv in self.convolutions]  # (N, features) each
        return self.head(self.dropout(gpuprop.concatenate(maxima, axis=1)))


def run() -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    model = SentenceCNN(words=100)
    batch = (gpuprop.arange(20 * 12).reshape(20, 12) % 100, gpuprop.arange(20) % 2)
    loss_of = lambda model, words, labels: F.cross_entropy(model(words), labels)
    return training_run(model, loss_of, optim.AdamW(model.parameters(), lr=1e-3), [batch] * 3)


def main() -> None:
    args = parse_arguments(__doc__, folds=10, epochs=6, batch_size=50)
    if not 1 <= args.folds <= 10:
        raise SystemExit(f"--folds {args.folds}: expected 1 to 10")

    path = find_or_download(args.data, "sentence_polarity", SOURCE, SHA256)
    samples = read_sentences(path)
    order = np.random.default_rng(args.seed).permutation(len(samples))
    folds = np.array_split(order, 10)
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"{len(samples)} sentences in ten folds, backend {backend.name!r}", flush=True)

    accuracies = []
    for number in range(args.folds):
        start = time.perf_counter()
        test = [samples[i] for i in folds[number]]
        others = folds[:number] + folds[number + 1:]
        rest = [samples[i] for fold in others for i in fold]
        validation = rest[:len(rest) // 10]
        train = rest[len(rest) // 10:]
        counts = Counter(word for sentence, _ in train for word in sentence)
        frequent = [word for word, count in counts.items() if count > 1]
        vocabulary = {word: i for i, word in enumerate(frequent, start=2)}

        batches = make_batches(train, vocabulary, args.batch_size)
        loader = DataLoader(batches, batch_size=None, shuffle=True)
        model = SentenceCNN(len(vocabulary) + 2)
        optimizer = optim.AdamW(model.parameters(), lr=1e-3)
        scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
        trainer = Trainer(model, nn.CrossEntropyLoss(), optimizer, metrics=["accuracy"],
                          scheduler=scheduler)
        stopping = EarlyStopping("val_accuracy", patience=3)
        history = trainer.fit(loader, validation=make_batches(validation, vocabulary, 500),
                              epochs=args.epochs, callbacks=[stopping], progress=False)
        accuracy = trainer.evaluate(make_batches(test, vocabulary, 500))["accuracy"]
        accuracies.append(accuracy)
        seconds = time.perf_counter() - start
        print(f"fold {number + 1:2d}: {len(vocabulary)} words, best epoch {stopping.best}, "
              f"test accuracy {accuracy:.4f} on {len(test)} sentences, {seconds:.0f} s", flush=True)

    args.out.mkdir(parents=True, exist_ok=True)
    history.plot(args.out / "sentiment.png")
    record(args.record, Figure("test accuracy, mean of ten folds, %",
                               100 * float(np.mean(accuracies)), 1,
                               {"published by Kim (2014)": 76.1}))
    print(f"mean test accuracy ({args.folds} of 10 folds): {np.mean(accuracies):.4f}")


if __name__ == "__main__":
    main()
