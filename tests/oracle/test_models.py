"""Whole models written by a PyTorch user: with other imports and a few other words they run, and agree with PyTorch."""

import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from compare import quietly

import gpuprop

MODELS, ROOT = Path(__file__).parent / "models", Path(__file__).parents[2]
IMPORTS = {"import torch\n": "import gpuprop as torch\n",
           "import torch.nn.functional as F\n": "import gpuprop.functional as F\n",
           "from torch import nn\n": "from gpuprop import nn\n",
           "from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence\n":
               "from gpuprop.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence\n"}


def published():
    """The table of words in docs/differences.md: in a line with the first word of a row, its words are replaced."""
    page = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
    table = page.partition("## Other words")[2].partition("\n## ")[0]
    rows = (row.split("|")[1:3] for row in table.splitlines() if row.startswith("| `"))
    return [list(zip(*(re.findall("`([^`]+)`", cell) for cell in row), strict=True)) for row in rows]


WORDS = published()


def translated(line):
    for row in WORDS:
        if row[0][0] in line:
            for theirs, ours in row:
                start = r"\b" if theirs[0].isalpha() else ""  # not the end of keepdim=
                line = re.sub(start + re.escape(theirs), ours.replace("gpuprop.", "torch."), line)
    return line


def load(name, change):
    """The model's file as a module, after the change of imports and words."""
    source = (MODELS / f"{name}.py").read_text(encoding="utf-8")
    if change:
        source = re.sub(r"^(import|from) torch.*\n", lambda line: IMPORTS[line[0]], source, flags=re.MULTILINE)
        source = "".join(map(translated, source.splitlines(keepends=True)))
    module = types.ModuleType(name)
    exec(compile(source, name, "exec"), vars(module))
    return module


def pair(name, make, training):
    """The model that `make` builds of the file's names, by PyTorch and by ours, which takes PyTorch's weights."""
    torch.manual_seed(0)
    theirs, ours = (quietly(make, load(name, change)).double() for change in (False, True))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    take_over(ours, theirs)
    return theirs.train(training), ours.train(training)


def take_over(ours, theirs):
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})


def agree(theirs, ours, want, got, labels, loss=lambda library, y, labels: library.cross_entropy(y, labels)):
    """The outputs, and after backward from a loss of them the gradients and buffers."""
    np.testing.assert_allclose(got.numpy(), want.detach().numpy(), rtol=1e-9, atol=1e-9)
    loss(torch.nn.functional, want, torch.tensor(labels)).backward()
    loss(gpuprop.functional, got, gpuprop.tensor(labels)).backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=1e-7, atol=1e-10, err_msg=name)
    for (name, b), c in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        np.testing.assert_allclose(b.numpy(), c.numpy(), rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_resnet18(training):
    theirs, ours = pair("resnet18", lambda file: file.ResNet18(width=8, num_classes=10), training)
    with torch.no_grad():  # statistics that are not those of the beginning
        theirs.train()(torch.randn(6, 3, 64, 64, dtype=torch.float64))
    theirs.train(training)
    take_over(ours, theirs)
    x, labels = np.random.default_rng(0).standard_normal((6, 3, 64, 64)), np.arange(6)
    agree(theirs, ours, theirs(torch.tensor(x)), ours(gpuprop.tensor(x)), labels)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_gpt(training):
    make = lambda file: file.GPT(vocab_size=19, block_size=12, layers=2, heads=2, width=16, dropout=0.0)
    theirs, ours = pair("gpt", make, training)
    tokens = np.random.default_rng(0).integers(0, 19, (3, 12))
    labels = np.where(np.arange(12) < 10, np.roll(tokens, -1, axis=1), -1)  # the last have no successor
    (want, one), (got, other) = (model(*map(library.tensor, (tokens, labels)))
                                 for model, library in ((theirs, torch), (ours, gpuprop)))
    np.testing.assert_allclose(other.item(), one.item(), rtol=1e-12)
    agree(theirs, ours, want, got, labels, lambda library, y, labels: library.cross_entropy(
        y.reshape(-1, 19), labels.reshape(-1), ignore_index=-1))
    theirs, ours = theirs.eval(), ours.eval()
    want, got = theirs.generate(torch.tensor(tokens[:, :5]), 12), ours.generate(gpuprop.tensor(tokens[:, :5]), 12)
    np.testing.assert_array_equal(got.numpy(), want.numpy())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_translator(training):
    files = []
    theirs, ours = pair("translator", lambda file: files.append(file) or file.Seq2SeqTransformer(
        2, 2, 16, 4, src_vocab_size=11, tgt_vocab_size=13, dim_feedforward=32, dropout=0.0), training)
    random = np.random.default_rng(0)
    src, tgt = random.integers(2, 11, (7, 3)), random.integers(2, 13, (6, 3))
    src[5:, 1], tgt[4:, 2] = 1, 1  # padding
    want, got = theirs(torch.tensor(src), torch.tensor(tgt)), ours(gpuprop.tensor(src), gpuprop.tensor(tgt))
    agree(theirs, ours, want, got, tgt, lambda library, y, labels: library.cross_entropy(
        y.reshape(-1, 13), labels.reshape(-1), ignore_index=1))
    want, got = (file.greedy_decode(model.eval(), library.tensor(src), 9, 2)
                 for file, model, library in zip(files, (theirs, ours), (torch, gpuprop), strict=True))
    np.testing.assert_array_equal(got.numpy(), want.numpy())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_tagger(training):
    theirs, ours = pair("tagger", lambda file: file.Tagger(17, 5, 8, 6, dropout=0.0), training)
    random, lengths = np.random.default_rng(0), [4, 9, 1, 6]
    words, tags = random.integers(1, 17, (4, 9)), random.integers(0, 5, (4, 9))
    padding = np.arange(9) >= np.array(lengths)[:, None]
    words[padding], tags[padding] = 0, -1
    want, got = (model(library.tensor(words), library.tensor(lengths))
                 for model, library in ((theirs, torch), (ours, gpuprop)))
    agree(theirs, ours, want, got, tags, lambda library, y, labels: library.cross_entropy(
        y.reshape(-1, 5), labels.reshape(-1), ignore_index=-1))


def test_every_word_is_needed():
    """No row of the table of words is there that the models do without."""
    lines = [line for file in MODELS.glob("*.py") for line in file.read_text(encoding="utf-8").splitlines()]
    assert [row for row in WORDS if not any(row[0][0] in line for line in lines)] == []
