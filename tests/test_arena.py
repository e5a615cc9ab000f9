"""The arena: flat memory of parameters and gradients, which users do not notice."""

import ml_dtypes
import numpy as np
import pytest
from stepping import GRADS, VALUES, arena, equal, feed, host, make, steps

import gpuprop
from gpuprop import BackendMismatchError, Parameter, nn, optim
from gpuprop._core.arena import ALIGNMENT
from gpuprop._core.registry import backend_of, get_backend


def test_parameters_start_at_256_bytes_and_views_share_memory():
    params = make(get_backend("numpy"), "float32")
    optimizer = optim.SGD(params, lr=0.1, momentum=0.9)
    steps(optimizer, params, [0])
    memory = arena(optimizer)
    for p in params:
        assert p.data.ctypes.data % ALIGNMENT == 0 == p.grad.ctypes.data % ALIGNMENT
        if p.size:
            assert np.shares_memory(p.data, memory.data) and np.shares_memory(p.grad, memory.grad)
    assert all(flat.ctypes.data % ALIGNMENT == 0 for flat in memory.states.values())
    assert memory.data.size == 64 * 5  # of five parameters one is empty and one takes two units


def test_memory_stays_the_same_and_zero_grad_writes_none(backend):
    params = make(backend)
    optimizer = optim.AdamW(params)
    memory = arena(optimizer)
    ids = [(id(p.data), id(p.grad_buffer)) for p in params]
    for i in range(3):
        steps(optimizer, params, [i])
        assert all(p.grad is p.grad_buffer for p in params)
        before = host([memory.grad])
        optimizer.zero_grad()
        assert all(p.grad is None for p in params)
        np.testing.assert_array_equal(host([memory.grad]), before)
    assert ids == [(id(p.data), id(p.grad_buffer)) for p in params]
    assert arena(optimizer) is memory


def test_gradients_accumulate_in_the_arena(backend):
    params = make(backend)
    optimizer = optim.SGD(params, lr=1.0)
    feed(params, 0)
    feed(params, 1)
    assert all(p.grad is p.grad_buffer for p in params)
    optimizer.zero_grad(set_to_none=False)
    feed(params, 2)
    optimizer.step()
    equal(params, [v - g for v, g in zip(VALUES, GRADS[2], strict=True)])


def test_assigned_arrays_are_copied_into_the_arena(backend):
    params = make(backend)
    p, q = params[:2]
    optimizer = optim.SGD(params, lr=1.0)
    p.data = backend.asarray(np.array([1.0, 2.0, 3.0], "float32"))  # another dtype, too
    q.grad = backend.asarray(np.full((2, 2), 0.5))
    p.grad = gpuprop.Tensor(backend.asarray(np.ones(3)))
    optimizer.step()
    equal(params, [[0, 1, 2], VALUES[1] - 0.5, *VALUES[2:]])
    assert p.dtype == "float32" and p.grad is p.grad_buffer and q.grad is q.grad_buffer


def test_values_and_gradients_may_be_swapped_and_views_of_themselves(backend):
    a, b = np.arange(4.0).reshape(2, 2), np.arange(4.0, 8.0).reshape(2, 2)
    params = make(backend, values=[a, b])
    p, q = params
    optimizer = optim.SGD([{"params": [p]}, {"params": [q]}], lr=1.0)
    p.grad, q.grad = backend.asarray(np.ones((2, 2))), backend.asarray(np.full((2, 2), 2.0))
    optimizer.step()
    equal(params, [a - 1, b - 2])
    p.data, q.data = q.data, p.data.T
    p.grad, q.grad = q.grad, p.grad
    optimizer.step()
    equal(params, [b - 4, a.T - 2])


def test_a_0d_parameter_may_become_a_numpy_scalar():
    p = Parameter(np.array(2.0))
    optimizer = optim.SGD([p], lr=1.0)
    p.data, p.grad = p.data * 2, np.array(1.0) * 3
    optimizer.step()
    assert p.item() == 1 and type(p.data) is np.ndarray


def test_a_model_moves_and_its_state_with_it():
    """Steps between casts and moves to another backend and back give the same values."""
    import gpuprop.testing  # noqa: F401 (registers strict)

    stay, move = make(get_backend("numpy")), make(get_backend("numpy"))
    one, other = optim.Adam(stay, lr=0.1, amsgrad=True), optim.Adam(move, lr=0.1, amsgrad=True)
    destinations = [("numpy", "float64"), ("numpy", "float32"), ("strict", "float32"),
                    ("strict", "float64"), ("numpy", "float64")]
    for i, (name, dtype) in enumerate(destinations):
        for p in move:
            p.data = get_backend(name).asarray(p.numpy().astype(dtype))
            p.grad = p.grad_buffer = None
        for optimizer, params in ((one, stay), (other, move)):
            steps(optimizer, params, [i], (1,) if i == 2 else ())
        assert backend_of(arena(other).data).name == name and arena(other).dtype == dtype
    equal(move, host(stay), 1e-5)
    assert [e["step"] for e in other.state_dict()["state"].values()] == [5, 4, 5, 5, 5]


def test_gradients_move_with_the_model(backend):
    params = make(backend)
    optimizer = optim.SGD(params, lr=1.0)
    feed(params, 0)
    for p in params:
        p.data, p.grad, p.grad_buffer = p.data.astype("float32"), p.grad.astype("float32"), None
    optimizer.step()
    equal(params, [v - g for v, g in zip(VALUES, GRADS[0], strict=True)], 1e-6)
    optim.SGD(params, lr=0.0).step()  # gradients older than the optimizer are used, too
    assert all(p.grad is p.grad_buffer for p in params)


def test_dtypes_have_arenas_of_their_own(backend):
    dtypes = ["float64", "float32", "float16", ml_dtypes.bfloat16, "float32"]
    params = [Parameter(backend.asarray(np.ones(3, d))) for d in dtypes]
    optimizer = optim.SGD(params, lr=0.5, momentum=0.9)
    for _ in range(2):
        for p in params:
            p.grad = backend.xp.ones_like(p.data)
        optimizer.step()
    assert [len(a.params) for a in optimizer.param_groups[0].arenas] == [1, 2, 1, 1]
    equal(params, [np.full(3, 1 - 0.5 - 0.5 * 1.9)] * 5, 1e-2)


def test_a_changed_shape_raises_with_both_shapes(backend):
    params = make(backend)
    optimizer = optim.SGD([(f"p{i}", p) for i, p in enumerate(params)], lr=1.0)
    feed(params, 0)
    params[0].data = backend.asarray(np.ones(3))
    params[1].data = backend.asarray(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"p1 .*\(2, 2\).*\(2, 3\)"):
        optimizer.step()
    equal([params[0], params[4]], [np.ones(3), VALUES[4]])  # nothing was stepped


def test_gradients_of_wrong_shape_or_backend_raise(backend):
    params = make(backend)
    optimizer = optim.SGD(params, lr=1.0)
    params[1].grad = backend.asarray(np.ones(2))  # it would broadcast
    with pytest.raises(ValueError, match=r"parameter 1 .*\(2, 2\).*\(2,\)"):
        optimizer.step()
    if backend.name != "numpy":
        params[1].grad = np.ones((2, 2))
        with pytest.raises(BackendMismatchError, match=r"parameter 1 .*asarray"):
            optimizer.step()


def test_two_optimizers_on_one_parameter(backend):
    params = make(backend)
    one, other = optim.SGD(params, lr=1.0), optim.SGD(params[1:], lr=10.0)
    for i in range(2):
        one.zero_grad()
        feed(params, i)
        one.step()
        other.step()
    total = [a + b for a, b in zip(*GRADS[:2], strict=True)]
    rates = [1, 11, 11, 11, 11]
    equal(params, [v - lr * g for v, g, lr in zip(VALUES, total, rates, strict=True)])


def test_ties(backend):
    p, q = make(backend)[:2]
    with pytest.raises(ValueError, match=r"twice.*one Parameter"):
        optim.SGD([p, q, p])
    with pytest.raises(ValueError, match="Parameter twice"):
        optim.SGD([{"params": [p]}, {"params": [q, p]}])
    with pytest.raises(ValueError, match=r"twice.*one Parameter"):
        optim.SGD([p, Parameter(gpuprop.Tensor(p.data))])
    r = make(backend)[0]
    optimizer = optim.SGD([p, q, r])
    r.data = p.data
    with pytest.raises(ValueError, match=r"twice.*one Parameter"):
        optimizer.step()
    tied = nn.Linear(3, 3)
    tied.again = tied.weight
    assert len(list(tied.parameters())) == 2


def test_frozen_parameters_get_no_memory_until_unfrozen(backend):
    params = make(backend)
    for p in params[:2]:
        p.requires_grad_(False)
    integers = Parameter(backend.asarray(np.arange(3)), requires_grad=False)
    optimizer = optim.Adam([*params, integers], lr=0.1)
    assert arena(optimizer).params == params[2:]
    unfrozen = make(backend)
    other = optim.Adam(unfrozen, lr=0.1)
    steps(optimizer, params, [0], (0, 1))
    steps(other, unfrozen, [0], (0, 1))
    params[1].requires_grad_(True)
    steps(optimizer, params, [1], (0,))
    steps(other, unfrozen, [1], (0,))
    equal(params, host(unfrozen))
    assert arena(optimizer).params == params[1:] and integers.tolist() == [0, 1, 2]
    assert optimizer.state_dict()["state"].keys() == {1, 2, 3, 4}
    third = optim.Adam([*make(backend), integers], lr=0.1)
    third.param_groups[0]["params"][0].requires_grad_(False)
    third.load_state_dict(optimizer.state_dict())
    assert third.state_dict()["state"].keys() == {1, 2, 3, 4}


def test_parameters_with_equal_step_counts_share_a_segment(backend):
    params = make(backend)
    optimizer = optim.Adam(params)
    count = lambda: len(arena(optimizer).segments(optimizer.param_groups[0].state_names))
    steps(optimizer, params, [0])
    assert count() == 1
    steps(optimizer, params, [1], (0, 1))
    assert count() == 1  # the other three
    steps(optimizer, params, [2, 3])
    assert count() == 2  # step counts differ from now on
    plain = optim.SGD(params)
    steps(plain, params, [0], (0, 1))
    steps(plain, params, [1])
    assert len(arena(plain).segments(())) == 1  # without state, step counts do not matter
