"""Check that the installed wheel works with NumPy as its only dependency.

Run it from standard input, in an empty folder and an environment that has only the wheel and NumPy:
`python - < .ci/check_wheel.py`.
"""

import sys
from importlib import metadata
from pathlib import Path

import numpy as np

import gpuprop
import gpuprop.nn as nn
from gpuprop import functional as F
from gpuprop import optim

MAX_SIZE = 3e6  # bytes

installed = {d.name.lower() for d in metadata.distributions()} - {"pip", "setuptools"}
assert installed == {"gpuprop", "numpy"}, f"installed: {installed}, expected gpuprop and numpy"
assert Path(gpuprop.__file__).is_relative_to(sys.prefix), f"not the wheel: {gpuprop.__file__}"

files = [f for f in metadata.files("gpuprop") or [] if f.suffix != ".pyc"]
size = sum(Path(f.locate()).stat().st_size for f in files)
assert size <= MAX_SIZE, f"gpuprop takes {size / 1e6:.2f} MB, more than {MAX_SIZE / 1e6:.0f} MB"
assert "gpuprop/py.typed" in {f.as_posix() for f in files}, "the wheel lacks py.typed"

gpuprop.use("cpu")
gpuprop.manual_seed(0)
x = gpuprop.tensor(np.eye(8, dtype=np.float32))
labels = gpuprop.tensor(np.arange(8) % 3)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = optim.Adam(model.parameters(), lr=0.1)
losses = []
for _ in range(3):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), labels)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[0] > losses[1] > losses[2], f"the loss does not decrease: {losses}"

try:
    gpuprop.use("cuda")
except ImportError as e:
    assert "gpuprop[cuda" in str(e), f"the error does not name the extra to install: {e}"
else:
    raise AssertionError('gpuprop.use("cuda") must raise without CuPy')
print(f"gpuprop {gpuprop.__version__} with NumPy {np.__version__}: {size / 1e6:.2f} MB, "
      f"losses {losses}")
