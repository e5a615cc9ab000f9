"""torch.func and torch.autograd.functional: the same calls under torch and gpuprop.torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch as theirs

import gpuprop.torch as ours

CALLS = {}


def call(fn):
    CALLS[fn.__name__] = fn
    return fn


def array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def pair(x, y):
    return x.exp() * y[:1], (x * y.sum()).sum(1)


def scalar(x, y):
    return (x.sin() * y).max(1)[0].sum() * y.sum()


def inputs(torch):
    return torch.tensor(array(2, 3)), torch.tensor(array(2, 3, seed=1))


@call
def functional_products(torch):
    F, (x, y) = torch.autograd.functional, inputs(torch)
    v, w = torch.tensor(array(2, 3, seed=2)), torch.tensor(array(2, seed=3))
    return [F.vjp(pair, (x, y), (v, w)), F.jvp(pair, (x, y), (v, v * 2)),
            F.vjp(lambda x: x.sum() ** 2, x), F.hvp(scalar, (x, y), (v, v)),
            F.vhp(scalar, (x, y), (v, v)), F.hvp(lambda x: (x ** 3).sum(), x, v)]


@call
def functional_matrices(torch):
    F, (x, y) = torch.autograd.functional, inputs(torch)
    return [F.jacobian(pair, (x, y)), F.jacobian(lambda x: x ** 2, x),
            F.hessian(scalar, (x, y)), F.hessian(lambda x: (x ** 3).sum(), x),
            F.jacobian(lambda x: torch.zeros(2), x)]


@call
def functional_with_create_graph(torch):
    F, (x, y) = torch.autograd.functional, inputs(torch)
    x.requires_grad_()
    j = F.jacobian(lambda x: x ** 3, x, create_graph=True)
    (j ** 2).sum().backward()
    w = y.clone().requires_grad_()
    _, g = F.vjp(lambda x: (x ** 2 * w).sum(), x, create_graph=True)
    (g * g).sum().backward()
    return [j, x.grad, w.grad]


@call
def func_transforms(torch):
    f, (x, y) = torch.func, inputs(torch)
    v = torch.tensor(array(2, 3, seed=2))
    out, pull = f.vjp(pair, x, y)
    return [f.grad(scalar)(x, y), f.grad(scalar, argnums=(0, 1))(x, y),
            f.grad_and_value(scalar)(x, y), out, pull((v, v[:, 0])),
            f.jvp(pair, (x, y), (v, v)), f.jacrev(pair)(x, y)[1], f.jacfwd(lambda x: x ** 2)(x),
            f.hessian(scalar, argnums=0)(x, y),
            f.grad(lambda x: (f.grad(scalar)(x, y) ** 2).sum())(x),
            f.grad(lambda x: (scalar(x, y), x * 2), has_aux=True)(x),
            f.grad(lambda p: (p["a"] * p["b"][0]).sum())({"a": x, "b": [y]})["b"][0]]


@call
def maml_by_functional_call(torch):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    model.double()
    for i, p in enumerate(model.parameters()):
        p.data.copy_(torch.tensor(array(*p.shape, seed=i)))
    x, _ = inputs(torch)
    params = {k: p.detach().clone() for k, p in model.named_parameters()}
    loss = lambda p, x: (torch.func.functional_call(model, p, (x,)) ** 2).mean()
    inner = torch.func.grad(loss)(dict(model.named_parameters()), x)
    new = {k: p - 0.1 * inner[k] for k, p in model.named_parameters()}
    loss(new, x).backward()
    return [torch.func.grad(loss)(params, x)["0.weight"], *(p.grad for p in model.parameters())]


def leaves(value):
    if isinstance(value, tuple | list):
        for v in value:
            yield from leaves(v)
    else:
        yield value


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@call
def jacrev_of_dicts(torch):
    x = torch.tensor(array(3, seed=1))
    given = {"w": torch.tensor(array(2, 3)), "b": [torch.tensor(array(2))]}
    first = torch.func.jacrev(lambda p: (p["w"] @ x).exp() + p["b"][0])(given)
    pair = torch.func.jacrev(lambda p, y: (p["w"] @ y), argnums=(0, 1))(given, x)
    return first["w"], first["b"][0], pair[0]["w"], pair[0]["b"][0], pair[1]


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # of PyTorch's own modules, as it loads them
@pytest.mark.parametrize("name", CALLS)
def test_as_torch(name):
    expected, found = list(leaves(CALLS[name](theirs))), list(leaves(CALLS[name](ours)))
    assert len(expected) == len(found)
    for i, (e, f) in enumerate(zip(expected, found, strict=True)):
        assert isinstance(f, ours.Tensor) and f.requires_grad == e.requires_grad, i
        np.testing.assert_allclose(f.detach().numpy(), e.detach().numpy(), rtol=1e-9, atol=1e-12,
                                   err_msg=str(i))


def test_names():
    missing = set(theirs.func.__all__) - set(ours.func.__all__)
    assert missing == {
        "vmap", "linearize",  # every row is a run of its own
        "rearrange",  # einops has it
        "functionalize", "debug_unwrap",  # of PyTorch's compilers
        "stack_module_state", "replace_all_batch_norm_modules_"}  # of use with vmap
    theirs_functional = {"hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"}
    assert theirs_functional == set(ours.autograd.functional.__all__)


def import_from_torch():
    from gpuprop.torch import vmap  # noqa: F401


def import_from_func():
    from gpuprop.torch.func import grad, vmap  # noqa: F401


@pytest.mark.parametrize("absent", [lambda: ours.vmap, lambda: ours.func.vmap, import_from_torch,
                                    import_from_func])
def test_what_to_write_for_vmap(absent):
    """The whole batch, and the loop that the message names, give vmap's result."""
    expected_error = ImportError if absent.__name__.startswith("import") else AttributeError
    with pytest.raises(expected_error, match=r"torch\.stack\(\[f\(x\).*per_sample_gradients"):
        absent()
    batch = np.random.default_rng(0).standard_normal((3, 4))
    f = lambda torch: lambda x: (torch.softmax(x, -1) * x).sum(-1)
    expected = theirs.vmap(f(theirs))(theirs.tensor(batch)).numpy()
    xs = ours.tensor(batch)
    np.testing.assert_allclose(f(ours)(xs).numpy(), expected)
    np.testing.assert_allclose(ours.stack([f(ours)(x) for x in xs]).numpy(), expected)
