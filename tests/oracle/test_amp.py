"""GradScaler changes its scale and skips steps as PyTorch's does."""

import inspect

import numpy as np
import pytest
import torch

import gpuprop
import gpuprop.testing  # registers the strict backend
from gpuprop import Parameter, nn, optim
from gpuprop.amp import GradScaler


@pytest.mark.filterwarnings("ignore:.*encountered in")  # the infinities are meant
@pytest.mark.parametrize("backend", ["numpy", "strict"])
@pytest.mark.parametrize("seed", range(4))
def test_a_run_with_overflows(backend, seed):
    rng = np.random.default_rng(seed)
    options = {"init_scale": float(2.0 ** rng.integers(100, 127)), "growth_factor": 1.7,
               "backoff_factor": 0.3, "growth_interval": int(rng.integers(1, 4))}
    theirs = torch.amp.GradScaler("cpu", **options)
    ours = GradScaler(**options)
    values = rng.standard_normal(5)
    q = torch.nn.Parameter(torch.tensor(values))
    theirs_by = torch.optim.Adam([q], lr=0.1)
    with gpuprop.use(backend):
        p = Parameter(gpuprop.tensor(values))
        ours_by = optim.Adam([p], lr=0.1)
        for i in range(60):
            factor = rng.choice([1.0, 1.0, 1.0, np.inf, np.nan, 1e300])
            if i == 30:
                theirs.load_state_dict(ours.state_dict())
                ours.load_state_dict(theirs.state_dict())
            theirs_by.zero_grad()
            ours_by.zero_grad()
            theirs.scale((q * q * factor).sum()).backward()
            ours.scale((p * p * factor).sum()).backward()
            if rng.random() < 0.5:
                theirs.unscale_(theirs_by)
                ours.unscale_(ours_by)
                torch.nn.utils.clip_grad_norm_([q], 0.5)
                nn.utils.clip_grad_norm_([p], 0.5)
            theirs.step(theirs_by)
            ours.step(ours_by)
            theirs.update()
            ours.update()
            assert ours.state_dict() == theirs.state_dict()
            np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-9)


def test_signature_but_for_the_device():

    theirs = inspect.signature(torch.cuda.amp.GradScaler.__init__).parameters
    ours = inspect.signature(GradScaler).parameters
    assert [(n, p.default) for n, p in ours.items()] == [
        (n, p.default) for n, p in theirs.items() if n != "self"]
    public = {n for n in vars(torch.amp.GradScaler) if not n.startswith("_")}
    assert public == {n for n in vars(GradScaler) if not n.startswith("_")}
