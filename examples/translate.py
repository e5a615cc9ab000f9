"""Train an encoder-decoder Transformer to translate Chinese into English.

The data are Tatoeba's 26,388 sentence pairs, `cmn.txt` in `cmn-eng.zip` from
https://www.manythings.org/anki/.  The Transformer is that of A. Vaswani et al., "Attention is all
you need" (2017), but small.  Its source tokens are characters, in traditional and simplified
script; its target tokens are lower-case words.  No test sentence, Chinese or English, occurs in the
training set.

The measure is BLEU (K. Papineni et al., 2002; computed by sacrebleu, ignoring case) on the test
sentences.  The baseline is a nearest neighbor: the translation of the training sentence that is
most similar by TF-IDF of its characters and character pairs.

    python examples/translate.py [--data DIR] [--epochs 14] [--batch-size 64] [--seed 0]
                                 [--backend cpu|cuda|auto] [--out out]

The script reads `cmn.txt` from `--data`, or from the folder in the environment variable
GPUPROP_DATA.  It writes translations to `out`/translations.txt and learning curves to
`out`/translate.png.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter, defaultdict
from itertools import zip_longest
from typing import Any

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from runs import training_run
from sacrebleu import corpus_bleu
from sklearn.feature_extraction.text import TfidfVectorizer
from texts import find

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import DataLoader
from gpuprop.training import EarlyStopping, Trainer

PADDING, UNKNOWN, BEGIN, END = range(4)
MAX_WORDS = 20  # English training sentences are shorter; translations are at most this long
Pairs = list[tuple[str, str]]  # Chinese, English


def split(pairs: Pairs, rng: np.random.Generator) -> tuple[Pairs, Pairs, Pairs]:
    """Training, validation and test pairs; the last two are each about a twentieth of all pairs.

    Pairs are dropped so that no sentence is in two of the three sets.
    """
    shuffled = [pairs[i] for i in rng.permutation(len(pairs))]
    n = len(pairs) // 20
    test = shuffled[:n]
    validation = without_sentences_of(test, shuffled[n:2 * n])
    train = without_sentences_of(test + validation, shuffled[2 * n:])
    return train, validation, test


def without_sentences_of(others: Pairs, pairs: Pairs) -> Pairs:
    """The members of `pairs` that share no sentence with `others`."""
    used = {sentence for pair in others for sentence in pair}
    return [pair for pair in pairs if used.isdisjoint(pair)]


def split_words(english: str) -> list[str]:
    return re.findall(r"\w+(?:['-]\w+)*|[^\w\s]", english)


class Vocabulary:
    """Indices of the tokens that occur at least twice, after four special tokens."""

    def __init__(self, sentences: list[list[str]]) -> None:
        counts = Counter(token for sentence in sentences for token in sentence)
        frequent = sorted(token for token, count in counts.items() if count > 1)
        self.tokens = ["", "?", "<", ">", *frequent]
        self.indices = {token: i for i, token in enumerate(self.tokens)}

    def encode(self, sentences: list[list[str]]) -> np.ndarray:
        """The padded indices (N, T) of sentences, with BEGIN and END."""
        rows = []
        for sentence in sentences:
            indices = [self.indices.get(token, UNKNOWN) for token in sentence]
            rows.append([BEGIN, *indices, END])
        return np.array(list(zip_longest(*rows, fillvalue=PADDING))).T

    def decode(self, indices: list[int]) -> str:
        """The English sentence, up to END."""
        if END in indices:
            indices = indices[:indices.index(END)]
        tokens = [self.tokens[i] for i in indices]
        return re.sub(r" ([.,:;?!])", r"\1", " ".join(tokens))


def make_batches(pairs: Pairs, chinese: Vocabulary, english: Vocabulary, size: int) -> list[tuple]:
    """Batches of sources (N, S), target inputs (N, T) and next words (N, T).

    Pairs in a batch have similar lengths.
    """
    tokens = [(list(source), split_words(target)) for source, target in pairs]
    tokens.sort(key=lambda pair: (len(pair[0]), len(pair[1])))
    batches = []
    for start in range(0, len(tokens), size):
        batch = tokens[start:start + size]
        sources = chinese.encode([source for source, _ in batch])
        targets = english.encode([target for _, target in batch])
        batches.append((sources, targets[:, :-1], targets[:, 1:]))
    return batches


class Translator(nn.Module):
    """Maps characters (N, S) and preceding words (N, T) to logits (N, T, words) of the next words.

    The output layer shares its weight with the embedding of words.
    """

    def __init__(self, characters: int, words: int, width: int = 128, layers: int = 3,
                 dropout: float = 0.2) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, width)
        self.words = nn.Embedding(words, width)
        self.positions = nn.SinusoidalPositionalEncoding(width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.transformer = nn.Transformer(width, 4, layers, layers, 4 * width, dropout,
                                          batch_first=True, norm_first=True)
        self.head = nn.Linear(width, words)
        self.head.weight = self.words.weight
        for embedding in (self.characters, self.words):
            nn.init.normal_(embedding.weight, std=width**-0.5)

    def embed(self, embedding: nn.Embedding, tokens: Any) -> Any:
        scaled = embedding(tokens) * math.sqrt(embedding.embedding_dim)
        return self.dropout(self.positions(scaled))

    def encode(self, source: Any) -> Any:
        return self.transformer.encoder(self.embed(self.characters, source),
                                        src_key_padding_mask=source == PADDING)

    def decode(self, target: Any, memory: Any, source: Any) -> Any:
        causal_mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.transformer.decoder(self.embed(self.words, target), memory,
                                        tgt_mask=causal_mask, tgt_is_causal=True,
                                        memory_key_padding_mask=source == PADDING)

    def forward(self, source: Any, target: Any) -> Any:
        return self.head(self.decode(target, self.encode(source), source))

    def translate(self, source: Any) -> Any:
        """Translations by greedy decoding, as indices (N, MAX_WORDS) of words."""
        memory = self.encode(source)
        target = gpuprop.full((len(source), 1), BEGIN)
        for _ in range(MAX_WORDS):
            logits = self.head(self.decode(target, memory, source)[:, -1])
            word = logits.argmax(axis=-1)
            target = gpuprop.concatenate([target, word[:, None]], axis=1)
        return target[:, 1:]


def summed_loss(logits: Any, target: Any) -> tuple[Any, Any]:
    """The sum of the cross-entropy over all words, with label smoothing, and their number."""
    total = F.cross_entropy(logits.reshape(target.size, -1), target.reshape(-1),
                            ignore_index=PADDING, label_smoothing=0.1, reduction="sum")
    return total, (target != PADDING).sum()


def run() -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    model = Translator(characters=50, words=40)

    def loss_of(model: Translator, source: Any, target: Any) -> Any:
        total, count = summed_loss(model(source, target[:, :-1]), target[:, 1:])
        return total / count

    tokens = gpuprop.arange(8 * 12).reshape(8, 12) % 30 + END
    return training_run(model, loss_of, optim.AdamW(model.parameters()), [(tokens, tokens)] * 3)


def nearest_translations(train: Pairs, sources: list[str]) -> list[str]:
    """The translation of the most similar training sentence, for each source."""
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 2))
    known = vectorizer.fit_transform(source for source, _ in train)
    similarity = vectorizer.transform(sources) @ known.T
    nearest = np.asarray(similarity.argmax(axis=1)).ravel()
    return [train[i][1] for i in nearest]


def read_pairs(folder: str | None) -> Pairs:
    """The sentence pairs of `cmn.txt`, the English in lower case."""
    if not folder:
        raise SystemExit("cmn.txt not found: download cmn-eng.zip from "
                         "https://www.manythings.org/anki/, unzip it, and give the folder with "
                         "--data or GPUPROP_DATA")
    text = find(folder, "tatoeba_cmn_eng", "cmn.txt").read_text(encoding="utf-8")
    pairs = []
    for line in text.splitlines():
        english, chinese, *_ = line.split("\t")
        pairs.append((chinese, english.lower()))
    return pairs


def main() -> None:
    args = parse_arguments(__doc__, epochs=14, batch_size=64)

    pairs = read_pairs(args.data)
    train, validation, test = split(pairs, np.random.default_rng(args.seed))
    train = [pair for pair in train if len(split_words(pair[1])) < MAX_WORDS]
    chinese = Vocabulary([list(source) for source, _ in train])
    english = Vocabulary([split_words(target) for _, target in train])
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"{len(train)} training pairs, {len(validation)} validation pairs, {len(test)} test "
          f"pairs, {len(chinese.tokens)} characters, {len(english.tokens)} words, "
          f"backend {backend.name!r}", flush=True)

    model = Translator(len(chinese.tokens), len(english.tokens))
    batches = make_batches(train, chinese, english, args.batch_size)
    loader = DataLoader(batches, batch_size=None, shuffle=True)
    optimizer = optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    scheduler = optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, epochs=args.epochs, steps_per_epoch=len(loader), pct_start=0.1,
        cycle_momentum=False)
    trainer = Trainer(model, summed_loss, optimizer, scheduler=scheduler, schedule="step",
                      clip_grad_norm=1.0)

    def report(trainer: Trainer) -> None:
        row = trainer.history[-1]
        print(f"epoch {row['epoch']:2d}/{args.epochs}: loss {row['loss']:.3f}, "
              f"validation loss {row['val_loss']:.3f}, {row['seconds']:.0f} s", flush=True)

    trainer.fit(loader, validation=make_batches(validation, chinese, english, args.batch_size),
                epochs=args.epochs, callbacks=[report, EarlyStopping(patience=3)], progress=False)

    references = defaultdict(list)  # all translations of each test sentence
    for source, target in test:
        references[source].append(target)
    sources = list(references)
    indices = chinese.encode([list(source) for source in sources])
    with gpuprop.no_grad():
        words = model.eval().translate(gpuprop.tensor(indices)).tolist()
    translations = [english.decode(row) for row in words]

    args.out.mkdir(parents=True, exist_ok=True)
    trainer.history.plot(args.out / "translate.png")
    lines = [f"{source} {translation} ({' / '.join(references[source])})"
             for source, translation in zip(sources, translations, strict=True)]
    (args.out / "translations.txt").write_text("\n".join(lines), encoding="utf-8")

    reference_sets = list(zip_longest(*references.values()))
    bleu = lambda guesses: corpus_bleu(guesses, reference_sets, lowercase=True).score
    baseline = bleu(nearest_translations(train, sources))
    # a terminal whose encoding lacks Chinese prints question marks
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    print(*lines[:10], sep="\n")
    score = bleu(translations)
    record(args.record, Figure("test BLEU", score, 1, {"nearest training sentence": baseline}))
    print(f"BLEU of the nearest training sentence: {baseline:.1f}")
    print(f"test BLEU: {score:.1f}")


if __name__ == "__main__":
    main()
