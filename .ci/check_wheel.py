"""Does the installed wheel stand by itself?  Run it on standard input, in an environment with the wheel and NumPy only,
from an empty folder: `python - < .ci/check_wheel.py`.
"""

import sys
from importlib import metadata
from pathlib import Path

import numpy as np

import gpuprop
import gpuprop.nn as nn
from gpuprop import functional as F
from gpuprop import optim

installed = {d.name.lower() for d in metadata.distributions()} - {"pip", "setuptools"}
assert installed == {"gpuprop", "numpy"}, f"more is installed than gpuprop and NumPy: {installed}"
assert Path(gpuprop.__file__).is_relative_to(sys.prefix), f"this is not the wheel: {gpuprop.__file__}"

files = metadata.files("gpuprop") or []
own = [Path(f.locate()) for f in files if f.suffix != ".pyc"]
size = sum(f.stat().st_size for f in own)
assert size <= 2e6, f"gpuprop takes {size / 1e6:.2f} MB installed; 2 are allowed"
assert Path("gpuprop/py.typed") in {Path(str(f)) for f in files}, "the wheel lacks py.typed"

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
assert losses[0] > losses[1] > losses[2], f"three steps of training did not lower the loss: {losses}"

try:
    gpuprop.use("cuda")
except ImportError as e:
    assert "gpuprop[cuda" in str(e), f"the error does not say what to install: {e}"
else:
    raise AssertionError("cuda was asked for without CuPy, and nobody said so")
print(f"gpuprop {gpuprop.__version__} with NumPy {np.__version__}: {size / 1e6:.2f} MB, losses {losses}")
