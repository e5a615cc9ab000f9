"""Memory, histories and dtypes of Tensors are those of PyTorch: the same programs agree."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings

import numpy as np
import pytest
import torch as theirs

import gpuprop.torch as ours

PROGRAMS = []
REFUSED = []


def program(fn):
    """A function of torch, run by both libraries: the results agree."""
    PROGRAMS.append(fn)
    return fn


def refused(fn):
    """A function of torch that returns calls, each of which both libraries refuse."""
    REFUSED.append(fn)
    return fn


def ignoring_warnings(fn):
    @functools.wraps(fn)
    def call(torch):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return fn(torch)

    return call


def assert_agree(found, expected, where=""):
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for i, pair in enumerate(zip(found, expected, strict=True)):
            assert_agree(*pair, f"{where}[{i}]")
    elif isinstance(expected, theirs.Tensor):
        assert isinstance(found, ours.Tensor), (where, type(found))
        assert str(found.dtype) == str(expected.dtype).removeprefix("torch."), where
        assert tuple(found.shape) == tuple(expected.shape), where
        tolerance = 1e-2 if found.element_size() == 2 else 1e-6
        np.testing.assert_allclose(found.detach().double().numpy(),
                                   expected.detach().double().numpy(), tolerance, tolerance, where)
    else:
        assert found == expected, where


@pytest.mark.parametrize("run", PROGRAMS, ids=lambda f: f.__name__)
def test_as_torch(run):
    assert_agree(run(ours), run(theirs))


@pytest.mark.parametrize("calls", REFUSED, ids=lambda f: f.__name__)
def test_refused(calls):
    for torch in theirs, ours:
        for i, call in enumerate(calls(torch)):
            with pytest.raises((RuntimeError, IndexError, TypeError, ValueError)):
                pytest.fail(f"{torch.__name__}, {i}: {call()}")


# ---- gradients that a program keeps --------------------------------------------------------------


@program
def views_of_a_gradient_that_is_kept(torch):
    w = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.SGD([w], lr=0.1)
    kept = []
    for i in range(3):
        optimizer.zero_grad()
        (w * (i + 1)).sum().backward()
        g = w.grad
        g[0].mul_(2)
        kept += [g, g[1], g.view(-1), g.detach(), g.data, w.grad, w.grad.t(),
                 torch.from_numpy(g.cpu().numpy()), w.grad is g]
        optimizer.step()
    return [*kept, w]


@program
def gradients_that_a_program_writes(torch):
    """An optimizer reads a gradient where the program keeps it, in each step."""
    a, b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([a, b], lr=0.5, momentum=0.9)
    flat = torch.arange(4.0)
    a.grad, b.grad = flat[:2], flat[2:]
    optimizer.step()
    flat.add_(1)
    optimizer.step()
    shared = torch.ones(2)
    a.grad = b.grad = shared
    optimizer.step()
    shared.mul_(3)
    optimizer.step()
    is_same = a.grad is shared, b.grad is shared
    optimizer.zero_grad(set_to_none=False)
    (a * b).sum().backward()
    return [a, b, flat, shared, is_same]


@program
def tensors_in_the_memory_of_parameters(torch):
    """An optimizer moves parameters; what was in their memory before still is."""
    layer, tied = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
    layer.weight.data.fill_(1)
    tied.weight.data = layer.weight.data
    w = layer.weight
    before = [w.data, w.detach(), w.detach()[0], w.detach().t(), layer.state_dict()["weight"],
              tied.weight]
    source = torch.ones(3)
    p = torch.nn.Parameter(source)
    optimizer = torch.optim.SGD([w, p], lr=0.5)
    before[0][1, 1] = 5
    (layer(torch.ones(1, 2)).sum() + (p * p).sum()).backward()
    optimizer.step()
    return [*before, w, source, p]


@program
def the_gradient_of_a_value_that_is_written(torch):
    x = torch.ones(4, requires_grad=True)
    y = x * 2
    y.retain_grad()
    y.mul_(3)
    y[1:].add_(1)
    (y * y).sum().backward()
    return [x.grad, y.grad, y.retains_grad]


@program
def copies_of_leaves(torch):
    p, x = torch.nn.Parameter(torch.ones(2)), torch.ones(2, requires_grad=True)
    ((p + x) * 2).sum().backward()
    q, y = copy.deepcopy(p), copy.deepcopy(x)
    y.grad.fill_(7)
    return [p.grad, x.grad, q.grad, y.grad, q, y]


@program
def a_hook_that_steps(torch):
    """Nothing is recorded while a gradient is passed on."""
    p = torch.nn.Parameter(torch.ones(2))
    seen = []

    def step(p):
        seen.append(torch.is_grad_enabled())
        p.sub_(p.grad * 0.1)
        p.grad = None

    p.register_post_accumulate_grad_hook(step)
    for _ in range(3):
        (p * p).sum().backward()
    return [p, p.grad, seen]


def test_a_tensor_that_cannot_follow_its_parameters_warns():
    flat = ours.ones(4)
    parts = [ours.nn.Parameter(flat[:2]), ours.nn.Parameter(flat[2:])]
    with pytest.warns(UserWarning, match="shares memory"):
        ours.optim.SGD(parts, lr=0.1)


@program
def copies_and_views(torch):
    x = torch.arange(12.0).view(3, 4)
    x.flip(0).add_(1), x.flip([0, 1]).fill_(7), x.fliplr()[0].mul_(2), x.flipud().zero_()
    torch.rot90(x).zero_()
    x.diagonal().add_(10), x.diagonal(1)[0].fill_(-1)
    x.diagonal(-1, 1, 0)[:] = 5
    cube = torch.zeros(2, 3, 3)
    cube.diagonal(0, 1, 2)[1] = 4
    array = np.asarray(x)
    array[0, 0] = 99
    return [x, cube, x.diagonal(9), torch.zeros(0, 3).diagonal()]


@program
def values_written_from_leaves_and_constants(torch):
    x, w = torch.ones(3, requires_grad=True), torch.full((3,), 2.0, requires_grad=True)
    h, k, c = x * 1.5, x * 2, x * 3
    h.copy_(w)
    k.copy_(w.mean())
    c.fill_(4)
    h.mul_(2), k[0].add_(1)
    ((h + k) * c).sum().backward()
    return [h, k, c, x, w, x.grad, w.grad, c.requires_grad, c.is_leaf]


VIEWS_OF_AXES = "row last every_second narrow sum index_add set_row flip".split()
NEW = {
    "t": lambda torch, a, b: a.t() if a.dim() <= 2 else a.transpose(0, 1),
    "view": lambda torch, a, b: a.reshape(-1) if a.is_contiguous() else a.clone(),
    "row": lambda torch, a, b: a[0], "last": lambda torch, a, b: a[..., -1],
    "every_second": lambda torch, a, b: a[::2], "narrow": lambda torch, a, b: a.narrow(0, 0, 1),
    "detach": lambda torch, a, b: a.detach(), "unsqueeze": lambda torch, a, b: a.unsqueeze(0),
    "expand": lambda torch, a, b: a.unsqueeze(0).expand(2, *a.shape),
    "diagonal": lambda torch, a, b: a.diagonal() if a.dim() == 2 else a * 1,
    "times": lambda torch, a, b: a * b, "plus": lambda torch, a, b: a + b,
    "sum": lambda torch, a, b: a.sum(0), "where": lambda torch, a, b: torch.where(a > 0, a, b),
    "exp": lambda torch, a, b: (a * 0.1).exp(), "clone": lambda torch, a, b: a.clone(),
    "flip": lambda torch, a, b: a.flip(0),
    "index_add": lambda torch, a, b: a.index_add(0, torch.tensor([0]), a[:1]),
}
WRITES = {
    "mul_": lambda a, b, n: a.mul_(1 + n), "add_": lambda a, b, n: a.add_(n),
    "mul_by_": lambda a, b, n: a.mul_(b), "relu_": lambda a, b, n: a.relu_(),
    "set_row": lambda a, b, n: a.__setitem__(0, n), "fill_": lambda a, b, n: a.fill_(n),
    "zero_": lambda a, b, n: a.zero_(), "copy_": lambda a, b, n: a.copy_(b),
    "masked_fill_": lambda a, b, n: a.masked_fill_(a > 0.5, n),
    "add_no_grad": lambda a, b, n: a.add_(n),
    "backward": lambda a, b, n: a.requires_grad and (a * a).sum().backward(retain_graph=True),
}
STEPS = [*NEW, *WRITES]


def random_program(seed):
    """A function of torch: views of a tensor, values computed from them, and writes into both."""
    rng = np.random.default_rng(seed)
    steps = [(rng.choice(STEPS), *rng.integers(9, size=2), rng.random()) for _ in range(8)]

    def run(torch):
        x = torch.tensor(rng_values(seed), requires_grad=True)
        tensors = [x, x * 1.5]
        for step, i, j, number in steps:
            a, b = tensors[i % len(tensors)], tensors[j % len(tensors)]
            new = done(torch, step, a, b if a.shape == b.shape else b.mean(), number)
            tensors += [] if new is None else [new]
        sum((i + 1) * (t ** 2).sum() for i, t in enumerate(tensors)).backward()
        return [*tensors, x.grad]

    return run


def rng_values(seed):
    return np.random.default_rng(seed).standard_normal((3, 4))


def done(torch, step, a, b, number):
    """The new tensor of a step of a random program, or None if it writes."""
    if not a.dim() and step in VIEWS_OF_AXES:
        return a * 1
    if step in WRITES:
        with torch.no_grad() if step == "add_no_grad" else contextlib.nullcontext():
            WRITES[step](a, b, number)
        return None
    return NEW[step](torch, a, b)


@pytest.mark.parametrize("seed", range(12))
def test_random_programs(seed):
    """Where both libraries give a result it is the same; gpuprop may refuse more or fewer."""
    count = 0
    for i in range(20):
        run = random_program([seed, i])
        try:
            expected = run(theirs)
        except RuntimeError:
            continue
        with contextlib.suppress(RuntimeError):
            found = run(ours)
            assert_agree(found, expected, f"{seed}, {i}: ")
            count += 1
    assert count


# ---- functions of programs -----------------------------------------------------------------------


def function(torch, forward, backward, **more):
    body = {"forward": staticmethod(forward), "backward": staticmethod(backward), **more}
    return type("Own", (torch.autograd.Function,), body).apply


def saving(torch):
    return function(torch, lambda ctx, x, w: (ctx.save_for_backward(w), x * w)[1],
                    lambda ctx, g: (g * ctx.saved_tensors[0], None))


@program
def outputs_of_a_function(torch):
    seen = []

    def forward(ctx, x):
        values, places = x * 2, x.argsort()
        other = x * 3
        ctx.mark_non_differentiable(places, other)
        ctx.set_materialize_grads(False)
        return values, places, None, other, 5

    def backward(ctx, *grads):
        seen.append([g is None for g in grads])
        return grads[0] * 2

    x = torch.ones(3, requires_grad=True)
    values, places, none, other, five = function(torch, forward, backward)(x)
    (values.sum() + other.sum()).backward()
    return [x.grad, places, none, other, five, other.requires_grad, places.requires_grad, seen]


@program
def arguments_of_a_function(torch):
    scaled = function(torch, lambda ctx, x, k=2: x * k,
                      lambda ctx, g: (g * 5, None, None, None))
    x = torch.ones(3, requires_grad=True)
    y = scaled(x), scaled(x, 4), scaled(x, k=3)
    sum(y).sum().backward()
    return [*y, x.grad]


@program
def a_function_that_writes(torch):
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    doubled = function(torch, forward, lambda ctx, g: g * 2)
    x = torch.ones(3, requires_grad=True)
    y = x * 1
    z = doubled(y)
    z.sum().backward()
    return [x.grad, y, z is y]


@program
def writes_that_a_function_does_not_check(torch):
    """Only saved tensors are checked: not other attributes of ctx, and not the arguments."""
    def forward(ctx, x, w):
        ctx.w = w
        return x * w

    scaled = function(torch, forward, lambda ctx, g: (g * ctx.w, None))
    doubled = function(torch, lambda ctx, x: x * 2, lambda ctx, g: g * 2)
    x, w = torch.ones(3, requires_grad=True), torch.full((3,), 2.0)
    y = (scaled(x, w) + doubled(x)).sum()
    with torch.no_grad():
        x.add_(1)
        w.fill_(5)
    y.backward()
    return x.grad


@program
def grad_mode_in_a_function(torch):
    modes = []

    def forward(ctx, x):
        modes.append(torch.is_grad_enabled())
        return x * 2

    def backward(ctx, g):
        modes.append(torch.is_grad_enabled())
        return g * 2

    x = torch.ones(3, requires_grad=True)
    function(torch, forward, backward)(x).sum().backward()
    return [x.grad, modes]


@program
def a_saved_output_differentiated_twice(torch):
    exp = function(torch, lambda ctx, x: (ctx.save_for_backward(y := x.exp()), y)[1],
                   lambda ctx, g: g * ctx.saved_tensors[0])
    x = torch.full((3,), 0.5, requires_grad=True)
    found = [exp(x).sum()]
    for _ in range(3):
        found += torch.autograd.grad(found[-1].sum(), x, create_graph=True)
    return found


@program
def unused_outputs_of_a_function_differentiated_twice(torch):
    both = function(torch, lambda ctx, x: (ctx.save_for_backward(x), (x ** 2, x ** 3))[1],
                    lambda ctx, g, h: 2 * g * ctx.saved_tensors[0]
                    + 3 * h * ctx.saved_tensors[0] ** 2)
    x = torch.full((3,), 0.5, requires_grad=True)
    found = []
    for y in both(x):
        found += torch.autograd.grad(y.sum(), x, create_graph=True)
        found += torch.autograd.grad(found[-1].sum(), x)
    return found


# ---- optimizers ----------------------------------------------------------------------------------


@program
def the_state_of_lbfgs_is_loaded(torch):
    def run(p, optimizer, steps):
        def closure():
            optimizer.zero_grad()
            loss = ((p - torch.arange(3.0)) ** 4).sum()
            loss.backward()
            return loss

        for _ in range(steps):
            optimizer.step(closure)

    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.LBFGS([p], lr=0.5, max_iter=3)
    run(p, optimizer, 2)
    q = torch.nn.Parameter(p.detach().clone())
    again = torch.optim.LBFGS([q], lr=0.5, max_iter=3)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(p, optimizer, 3)
    run(q, again, 3)
    return [p, q, bool((p == q).all())]


@program
def states_of_parameters(torch):
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([p], lr=0.1)
    for i in range(3):
        optimizer.zero_grad()
        (p * p).sum().backward()
        optimizer.step()
        if i == 1:
            optimizer.state[p]["exp_avg"].mul_(0.5)
    return [p, optimizer.state[p]["exp_avg"], float(optimizer.state[p]["step"])]


@program
def averaged_models(torch):
    swa_utils = torch.optim.swa_utils
    model = torch.nn.Linear(2, 1)
    model.weight.data.fill_(1), model.bias.data.fill_(1)
    kinds = []

    def average(old, new, n):
        kinds.append(isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor))
        return old.lerp(new, 0.5)

    found = []
    for averaged in (swa_utils.AveragedModel(model), swa_utils.AveragedModel(model, avg_fn=average),
                     swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn())):
        for _ in range(3):
            averaged.update_parameters(model)
            model.weight.data.add_(1)
        found += [averaged.state_dict()["module.weight"], averaged.n_averaged,
                  averaged(torch.ones(1, 2)), copy.deepcopy(averaged)(torch.ones(1, 2)),
                  isinstance(averaged, torch.nn.Module)]
    return [*found, kinds]


@refused
def writes_to_what_a_function_saved(torch):
    def late_write(write):
        x, w = torch.ones(3, requires_grad=True), torch.ones(3)
        y = saving(torch)(x, w)
        write(w)
        y.sum().backward()

    return [lambda: late_write(lambda w: w.mul_(3)), lambda: late_write(lambda w: w.fill_(0)),
            lambda: late_write(lambda w: w.detach()[0].fill_(2))]


def test_what_a_function_saved_keeps_its_value():
    """PyTorch refuses such a backward."""
    x = ours.ones(3, requires_grad=True)
    y = x * 2
    z = function(ours, lambda ctx, a: (ctx.save_for_backward(a), a * a)[1],
                 lambda ctx, g: 2 * g * ctx.saved_tensors[0])(y)
    y.mul_(5)
    z.sum().backward()
    assert x.grad.tolist() == [8.0, 8.0, 8.0]


# ---- dtypes and indices --------------------------------------------------------------------------


@refused
def numbers_that_the_dtype_of_a_write_loses(torch):
    i, b, x = torch.arange(3), torch.ones(3, dtype=torch.bool), torch.ones(3)
    return [lambda: i.add_(1.5), lambda: i.mul_(x), lambda: i.div_(2), lambda: i.__iadd__(0.5),
            lambda: i.__itruediv__(2), lambda: b.add_(i), lambda: i.exp_(),
            lambda: i.addcmul_(x, x),
            lambda: torch.ones(2, dtype=torch.int64, requires_grad=True),
            lambda: torch.zeros_like(i, requires_grad=True)]


@program
def dtypes_of_writes(torch):
    i, h = torch.arange(3), torch.ones(3, dtype=torch.float16)
    u = torch.tensor([250, 1, 2], dtype=torch.uint8)
    x = torch.ones(3)
    i[1] = 2.7
    return [i.copy_(torch.tensor([1.5, 2.5, -3.5])).clone(), i.fill_(2.5).clone(), i.eq_(2).clone(),
            h.add_(x.double()), u.add_(10), u.sub_(20), x.mul_(i), x.pow_(2), i.floor_divide_(2),
            i.masked_fill_(i == 0, 1.5)]


@program
def dtypes_of_sums(torch):
    names = torch.int8, torch.int32, torch.float16, torch.float64
    x = torch.tensor([[1, 100, 100]], dtype=torch.int8)
    return [f(x, *args, dtype=d) for d in names for f, *args in (
        (torch.sum,), (torch.sum, 1), (torch.prod, 1), (torch.cumsum, 1), (torch.cumprod, 1),
        (torch.nansum,))]


@refused
def indices_from_the_end(torch):
    x, row, i = torch.ones(3, 4), torch.ones(3, 1), torch.tensor([[-1]])
    return [lambda: x.gather(1, i), lambda: x.scatter(1, i, row), lambda: x.scatter(1, i, 2.0),
            lambda: x.scatter_(1, i, row), lambda: x.scatter_add_(1, i, row),
            lambda: x.scatter_reduce(1, i, row, "amax"), lambda: x.index_select(0, i[0]),
            lambda: x.index_add(0, i[0], x[:1]), lambda: x.index_copy_(0, i[0], x[:1])]


@program
def means_of_half_types(torch):
    x = torch.tensor([1.0, 2.0, 4.0]).bfloat16()
    i = torch.tensor([0, 0, 1])
    nan = torch.tensor([1.0, float("nan"), 2.0, 3.0]).bfloat16()
    return [x.scatter_reduce(0, i, x, "mean"), nan.cummax(0), nan.cummin(0)]


@program
def results_in_the_words_of_the_program(torch):
    """Functions that are no ops return Tensors of the program too."""
    rnn, layer = torch.nn.utils.rnn, torch.nn.Linear(2, 2)
    layer.weight.data.fill_(1), layer.bias.data.fill_(1)
    layer(torch.ones(1, 2)).sum().backward()
    total = torch.nn.utils.clip_grad_norm_(layer.parameters(), 0.1)
    packed = rnn.pack_padded_sequence(torch.ones(3, 2, 1), torch.tensor([1, 3]),
                                      enforce_sorted=False)
    return [total, packed.batch_sizes, packed.sorted_indices, *rnn.pad_packed_sequence(packed),
            torch.ones(2).real]


@refused
def sizes_that_do_not_fit(torch):
    x, v = torch.ones(2, 3), torch.ones(3)
    return [lambda: x.narrow(0, 1, 5), lambda: x.narrow(0, 0, -1), lambda: x.narrow(1, -4, 1),
            lambda: x.split([1, 5]), lambda: x.split([1, 2], 1)[5], lambda: x.split(-1),
            lambda: x.split(0), lambda: x.chunk(0), lambda: x.reshape(-2, 3), lambda: x.view(-3, 2),
            lambda: x.repeat(2), lambda: x.repeat(-1, 1), lambda: v.kthvalue(0),
            lambda: v.kthvalue(4), lambda: x.as_strided((2, 2), (-1, 1)),
            lambda: torch.multinomial(v, 4), lambda: torch.multinomial(-v, 1),
            lambda: torch.multinomial(v * 0, 1), lambda: torch.multinomial(v * float("inf"), 1)]


@program
def parts_of_empty_tensors(torch):
    z, e = torch.zeros(0), torch.zeros(0, 3)
    x = torch.arange(6.0).view(2, 3)
    return [z.chunk(2), z.split(2), e.split(2, 1), x.narrow(1, -2, 2), x.narrow(0, 2, 0),
            x.split([0, 2]), x.chunk(5, 1), torch.tensor(2.0).sort(), torch.tensor(2.0).topk(1),
            torch.tensor(2.0).cummax(0), torch.isreal(x), z.diff(), z.sum()]


@program
@ignoring_warnings
def variances_of_too_few(torch):
    return [torch.zeros(0).var(), torch.zeros(0).std(), torch.ones(1).std(),
            torch.ones(2, 1).var(1), torch.ones(2).var(correction=3),
            torch.ones(2).std(correction=0)]


@program
@ignoring_warnings
def indices_in_lists_and_masks_of_bytes(torch):
    x = torch.arange(24.0).view(2, 3, 4)
    mask = (x > 5).byte()
    found = [x[[[0, 1], [1, 0]]], x[[torch.tensor([0, 1]), torch.tensor([1, 2])]],
             x[[0, slice(0, 2)]], x[[0, 1]]]
    found.append(x[mask])
    found.append(x[0, torch.tensor([1, 0, 1], dtype=torch.uint8)])
    x[0, 0, 0] = torch.ones(1) * 7
    x[0, 1] = torch.ones(1, 1, 4) * 8
    y = torch.zeros(2, requires_grad=True) * 1
    y[0] = torch.ones(1, requires_grad=True)
    return [*found, x, y]


@pytest.mark.parametrize("write", [lambda h: h.add_(1), lambda h: h.data[0].mul_(2),
                                   lambda h: h.detach().fill_(3), lambda h: h[1:].zero_()])
def test_a_value_that_was_written_is_not_computed_again(write):
    """With create_graph, ops run again; the written value would be the old one."""
    gradients = []
    for torch in theirs, ours:
        x = torch.ones(3, requires_grad=True)
        h = x * 1.5
        with torch.no_grad():
            write(h)
        loss = (h * h).sum()
        gradients.append(torch.autograd.grad(loss, x, retain_graph=True)[0].tolist())
        if torch is ours:
            with pytest.raises(RuntimeError, match="multiply was written in place"):
                torch.autograd.grad(loss, x, create_graph=True)
            assert torch.autograd.grad(loss, h, create_graph=True)[0].tolist() == (2 * h).tolist()
    assert gradients[0] == gradients[1]
