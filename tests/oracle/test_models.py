"""Whole models written for PyTorch agree with PyTorch after the changes in docs/differences.md.

These change imports and a few names.
"""

import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from compare import without_warnings

import gpuprop

MODELS = Path(__file__).parent / "models"
PAGE = Path(__file__).parents[2] / "docs" / "differences.md"
IMPORTS = {
    "import torch\n": "import gpuprop as torch\n",
    "import torch.nn.functional as F\n": "import gpuprop.functional as F\n",
    "from torch import nn\n": "from gpuprop import nn\n",
    "from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence\n":
        "from gpuprop.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence\n",
}


def read_table():
    """The table of new names in docs/differences.md: per row, pairs of an old and a new name."""
    section = PAGE.read_text(encoding="utf-8").partition("## Porting a PyTorch model")[2]
    table = section.partition("\n## ")[0]
    rows = []
    for line in table.splitlines():
        if line.startswith("| `"):
            old, new = (re.findall("`([^`]+)`", cell) for cell in line.split("|")[1:3])
            rows.append(list(zip(old, new, strict=True)))
    return rows


TABLE = read_table()


def port_line(line):
    """Replace all names of each row of the table whose first name is in the line."""
    for row in TABLE:
        first_name = row[0][0]
        if first_name in line:
            for old, new in row:
                start = r"\b" if old[0].isalpha() else ""  # dim= is not the end of keepdim=
                line = re.sub(start + re.escape(old), new.replace("gpuprop.", "torch."), line)
    return line


def load_module(name, port):
    """The model's file as a module, ported to gpuprop if `port`."""
    source = (MODELS / f"{name}.py").read_text(encoding="utf-8")
    if port:
        source = re.sub(r"^(import|from) torch.*\n", lambda line: IMPORTS[line[0]], source,
                        flags=re.MULTILINE)
        source = "".join(map(port_line, source.splitlines(keepends=True)))
    module = types.ModuleType(name)
    exec(compile(source, name, "exec"), vars(module))
    return module


def make_models(name, make, training):
    """The model by PyTorch and by gpuprop, with PyTorch's weights; `make` gets the module."""
    torch.manual_seed(0)
    theirs = without_warnings(make, load_module(name, port=False)).double()
    ours = without_warnings(make, load_module(name, port=True)).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    copy_state(theirs, ours)
    return theirs.train(training), ours.train(training)


def copy_state(theirs, ours):
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})


def compare(theirs, ours, expected, result, labels,
            loss=lambda functional, y, labels: functional.cross_entropy(y, labels)):
    """Compare the outputs; after backward from a loss, the gradients and the buffers."""
    np.testing.assert_allclose(result.numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-9)
    loss(torch.nn.functional, expected, torch.tensor(labels)).backward()
    loss(gpuprop.functional, result, gpuprop.tensor(labels)).backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=1e-7, atol=1e-10, err_msg=name)
    for (name, b), c in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        np.testing.assert_allclose(b.numpy(), c.numpy(), rtol=1e-9, atol=1e-12, err_msg=name)


def sequence_loss(classes, ignore_index):
    """The cross-entropy of logits (..., classes), without the labels `ignore_index`."""
    return lambda functional, y, labels: functional.cross_entropy(
        y.reshape(-1, classes), labels.reshape(-1), ignore_index=ignore_index)


both_modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


@both_modes
def test_resnet18(training):
    make = lambda module: module.ResNet18(width=8, num_classes=10)
    theirs, ours = make_models("resnet18", make, training)
    with torch.no_grad():  # updates the running statistics
        theirs.train()(torch.randn(6, 3, 64, 64, dtype=torch.float64))
    theirs.train(training)
    copy_state(theirs, ours)
    x = np.random.default_rng(0).standard_normal((6, 3, 64, 64))
    compare(theirs, ours, theirs(torch.tensor(x)), ours(gpuprop.tensor(x)), np.arange(6))


@both_modes
def test_gpt(training):
    make = lambda module: module.GPT(vocab_size=19, block_size=12, layers=2, heads=2, width=16,
                                     dropout=0.0)
    theirs, ours = make_models("gpt", make, training)
    tokens = np.random.default_rng(0).integers(0, 19, (3, 12))
    labels = np.roll(tokens, -1, axis=1)
    labels[:, 10:] = -1  # ignored
    expected, expected_loss = theirs(torch.tensor(tokens), torch.tensor(labels))
    result, loss = ours(gpuprop.tensor(tokens), gpuprop.tensor(labels))
    np.testing.assert_allclose(loss.item(), expected_loss.item(), rtol=1e-12)
    compare(theirs, ours, expected, result, labels, sequence_loss(19, ignore_index=-1))
    prompt = tokens[:, :5]
    expected = theirs.eval().generate(torch.tensor(prompt), 12)
    result = ours.eval().generate(gpuprop.tensor(prompt), 12)
    np.testing.assert_array_equal(result.numpy(), expected.numpy())


@both_modes
def test_translator(training):
    greedy_decode = []  # PyTorch's function, then gpuprop's

    def make(module):
        greedy_decode.append(module.greedy_decode)
        return module.Seq2SeqTransformer(2, 2, 16, 4, src_vocab_size=11, tgt_vocab_size=13,
                                         dim_feedforward=32, dropout=0.0)

    theirs, ours = make_models("translator", make, training)
    rng = np.random.default_rng(0)
    src = rng.integers(2, 11, (7, 3))
    tgt = rng.integers(2, 13, (6, 3))
    src[5:, 1] = 1  # padding
    tgt[4:, 2] = 1
    expected = theirs(torch.tensor(src), torch.tensor(tgt))
    result = ours(gpuprop.tensor(src), gpuprop.tensor(tgt))
    compare(theirs, ours, expected, result, tgt, sequence_loss(13, ignore_index=1))
    expected = greedy_decode[0](theirs.eval(), torch.tensor(src), 9, 2)
    result = greedy_decode[1](ours.eval(), gpuprop.tensor(src), 9, 2)
    np.testing.assert_array_equal(result.numpy(), expected.numpy())


@both_modes
def test_tagger(training):
    make = lambda module: module.Tagger(17, 5, 8, 6, dropout=0.0)
    theirs, ours = make_models("tagger", make, training)
    rng = np.random.default_rng(0)
    lengths = [4, 9, 1, 6]
    words = rng.integers(1, 17, (4, 9))
    tags = rng.integers(0, 5, (4, 9))
    padding = np.arange(9) >= np.array(lengths)[:, None]
    words[padding] = 0
    tags[padding] = -1
    expected = theirs(torch.tensor(words), torch.tensor(lengths))
    result = ours(gpuprop.tensor(words), gpuprop.tensor(lengths))
    compare(theirs, ours, expected, result, tags, sequence_loss(5, ignore_index=-1))


def test_every_row_of_the_table_is_used():
    source = "".join(file.read_text(encoding="utf-8") for file in MODELS.glob("*.py"))
    assert [row for row in TABLE if row[0][0] not in source] == []
