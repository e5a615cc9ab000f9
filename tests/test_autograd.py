"""The autograd engine: backward, hooks, modes, dtypes, higher derivatives and errors."""

import copy
import gc
import inspect
import pickle
import threading
import weakref
from collections import namedtuple

import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop import Array, BackendMismatchError, Parameter, Tensor, grad, op, optim, value_and_grad
from gpuprop._core.ops import linear_op
from gpuprop._core.registry import get_backend


def leaf(backend, value=1.0, shape=(3,)):
    return Tensor(backend.asarray(np.full(shape, value, "float32")), requires_grad=True)


def values(backend, a):
    return backend.to_numpy(a)


class TestBackward:
    def test_long_chain(self, backend):
        x = y = leaf(backend, shape=(1,))
        for _ in range(20_000):
            y = y + x
        y.sum().backward()
        assert values(backend, x.grad) == 20_001

    def test_long_graph_is_freed_without_recursion(self, backend):
        y = leaf(backend, shape=(1,))
        for _ in range(20_000):
            y = gpuprop.negative(y)
        del y

    def test_gradients_do_not_alias(self, backend):
        a, b, t = Parameter(leaf(backend)), Parameter(leaf(backend)), leaf(backend)
        for _ in range(2):
            ((a + b) + (t + a)).sum().backward()
        for x, expected in ((a, 4), (b, 2), (t, 2)):
            assert (values(backend, x.grad) == expected).all()
        a.grad *= 0
        assert (values(backend, b.grad) == 2).all()

    def test_unwanted_gradients_are_not_computed(self, backend):
        calls = []

        @op
        def watched(xp, x: Array, y: Array):
            return x + y, (lambda d: calls.append("x") or d, lambda d: calls.append("y") or d)

        watched(Tensor(leaf(backend).data), leaf(backend)).sum().backward()
        assert calls == ["y"]

    def test_gradients_are_summed_over_broadcast_axes(self, backend):
        x, y = leaf(backend, shape=(4, 1)), leaf(backend, shape=(3,))
        (x * y).sum().backward()
        assert x.grad.shape == (4, 1) and (values(backend, x.grad) == 3).all()
        assert y.grad.shape == (3,) and (values(backend, y.grad) == 4).all()

    def test_gradients_have_the_dtype_of_the_input(self, backend):
        x = leaf(backend)
        y = Tensor(backend.asarray(np.ones(3)), requires_grad=True)
        (x * y).sum().backward()
        assert x.grad.dtype == "float32" and y.grad.dtype == "float64"

    @pytest.mark.parametrize("f", [
        F.relu, gpuprop.tanh, gpuprop.exp, gpuprop.sum, gpuprop.mean, lambda h: h + h,
        lambda h: h.astype("float64"), lambda h: gpuprop.concatenate([h, h])])
    def test_inputs_that_no_pullback_needs_are_freed(self, f, backend):
        x = leaf(backend)
        h = x + x
        alive = weakref.ref(h.data)
        y = f(h)
        del h
        assert alive() is None
        y.sum().backward()

    def test_pullbacks_of_constants_keep_no_arrays(self, backend):
        x, w = Tensor(leaf(backend, shape=(2, 3)).data), leaf(backend, shape=(4, 3))
        h = x + x
        alive = weakref.ref(h.data)
        y = gpuprop.maximum(h, w[:1])  # both pullbacks need h
        z = h + w[:1]  # neither pullback does
        del h, y
        assert alive() is None
        z.sum().backward()

    def test_backward_twice_raises(self, backend):
        y = F.relu(leaf(backend)).sum()
        y.backward()
        with pytest.raises(RuntimeError, match="run the forward pass again"):
            y.backward()

    def test_retain_graph(self, backend):
        x = leaf(backend)
        y = (x * x).sum()
        y.backward(retain_graph=True)
        y.backward()
        assert (values(backend, x.grad) == 4).all()

    def test_backward_needs_a_scalar_or_a_gradient(self, backend):
        x = leaf(backend)
        with pytest.raises(RuntimeError, match=r"shape \(3,\).*reduce it first"):
            (x * 2).backward()
        with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
            (x * 2).backward(Tensor(backend.asarray(np.ones(2, "float32"))))
        (x * 2).backward(Tensor(backend.asarray(np.arange(3))))
        assert values(backend, x.grad).tolist() == [0, 2, 4] and x.grad.dtype == "float32"

    def test_backward_without_a_gradient_raises(self, backend):
        with pytest.raises(RuntimeError, match="requires no gradient"):
            Tensor(backend.asarray(np.ones(()))).backward()
        with gpuprop.no_grad():
            y = leaf(backend).sum()
        with pytest.raises(RuntimeError, match="no_grad"):
            y.backward()

    def test_integers_cannot_require_a_gradient(self, backend):
        with pytest.raises(TypeError, match=r"int64.*astype"):
            gpuprop.tensor([1, 2], requires_grad=True)
        with pytest.raises(TypeError, match="bool"):
            gpuprop.tensor([True]).requires_grad_()
        assert not leaf(backend).astype("int32").requires_grad

    def test_values_changed_between_forward_and_backward(self, backend):
        p = Parameter(leaf(backend))
        y = (p * p).sum()
        p.data[...] = 2.0
        p.touch()
        with pytest.raises(RuntimeError, match=r"multiply.*shape \(3,\).*changed"):
            y.backward()

    def test_several_outputs(self, backend):
        @op
        def both(xp, x: Array):
            def vjp(d):
                return d[0] * 2 + d[1] * 3,
            return (x * 2, x * 3, x.argmax()), vjp

        cases = [(lambda a, b: a, 2), (lambda a, b: b, 3), (lambda a, b: a + b, 5)]
        for use, expected in cases:
            x = leaf(backend)
            a, b, i = both(x)
            assert not i.requires_grad
            use(a, b).sum().backward()
            assert (values(backend, x.grad) == expected).all()


class TestHooks:
    def test_hook_of_a_leaf_is_called_once_with_the_sum(self, backend):
        x, seen = leaf(backend), []
        remove = x.register_hook(lambda g: seen.append(values(backend, g).tolist()) or g * 10)
        (x * 2 + x * 3).sum().backward()
        assert seen == [[5, 5, 5]] and (values(backend, x.grad) == 50).all()
        remove()
        (x * 2).sum().backward()
        assert (values(backend, x.grad) == 52).all()

    def test_hook_of_a_result(self, backend):
        x = leaf(backend)
        h = x * 2
        h.register_hook(lambda g: g * 10)
        h.retain_grad()
        (h * 3 + h).sum().backward()
        assert (values(backend, h.grad) == 40).all() and (values(backend, x.grad) == 80).all()

    def test_hook_without_a_gradient_raises(self, backend):
        with pytest.raises(RuntimeError, match="requires no gradient"):
            Tensor(leaf(backend).data).register_hook(print)


class TestModes:
    def test_no_grad(self, backend):
        x = leaf(backend)
        with gpuprop.no_grad():
            assert not (x * 2).requires_grad
            with gpuprop.enable_grad():
                assert (x * 2).requires_grad
        assert (x * 2).requires_grad

    def test_decorator_in_threads(self):
        @gpuprop.no_grad()
        def is_enabled_inside(depth=3):
            if depth == 0 or gpuprop.is_grad_enabled():
                return gpuprop.is_grad_enabled()
            return is_enabled_inside(depth - 1)

        found = []
        record = lambda: found.append((is_enabled_inside(), gpuprop.is_grad_enabled()))
        threads = [threading.Thread(target=record) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [(False, True)] * 4

    def test_autocast(self, backend):
        x, w = leaf(backend, shape=(2, 3)), Parameter(leaf(backend, shape=(4, 3)))
        with gpuprop.autocast("float16"):
            y = F.linear(x, w)
            assert y.dtype == "float16"
            loss = F.softmax(y, -1)
            assert loss.dtype == "float32"
        loss[:, 0].sum().backward()
        assert w.grad.dtype == "float32" and x.grad.dtype == "float32"

    def test_autocast_ignores_float64_and_plain_arrays(self, backend):
        w = backend.asarray(np.ones((4, 3), "float32"))
        with gpuprop.autocast("float16"):
            assert F.linear(w, w).dtype == "float32"
            x = Tensor(backend.asarray(np.ones((4, 3))))
            assert F.linear(x, x).dtype == "float64"


class TestTypes:
    def test_plain_arrays_give_plain_arrays(self, backend):
        a = backend.asarray(np.ones((2, 3), "float32"))
        assert type(F.relu(a)) is backend.array_type
        assert isinstance(F.relu(Tensor(a)), Tensor)
        assert type(gpuprop.sum(a)) is backend.array_type

    def test_numbers_do_not_widen_float32(self, backend):
        x = leaf(backend)
        integers = Tensor(backend.asarray(np.arange(3)))
        results = [x * 2, 2 * x, x * 2.5, x * np.float64(2.5), x * np.int64(3), x * True,
                   x * integers, integers - x, gpuprop.where(x > 0, x, 0.0)]
        for y in results:
            assert y.dtype == "float32"

    def test_dtypes_of_new_tensors(self, backend):
        assert gpuprop.tensor(np.ones(2)).dtype == "float64"
        assert gpuprop.tensor([1.0, 2]).dtype == "float32"
        assert gpuprop.tensor(1.5).dtype == "float32"
        assert gpuprop.tensor([1, 2]).dtype == "int64"
        assert gpuprop.tensor([True]).dtype == "bool"
        assert type(gpuprop.tensor([1.0]).data) is backend.array_type

    def test_tensor_copies(self, backend):
        a = np.ones(3, "float32")
        t = gpuprop.tensor(a)
        a[...] = 7
        assert t.tolist() == [1, 1, 1]
        assert t.numpy() is not t.data

    def test_arguments_that_are_not_arrays(self, backend):
        with pytest.raises(TypeError, match=r"relu.*'input'.*list.*gpuprop.tensor"):
            F.relu([1.0, 2.0])
        with pytest.raises(TypeError, match=r"'weight'.*str"):
            F.linear(leaf(backend, shape=(2, 3)), "weight")

    def test_array_subclasses(self):
        assert type(F.relu(np.ones((2, 2)).view(np.matrix))) is np.ndarray
        with pytest.raises(TypeError, match="mask"):
            F.relu(np.ma.masked_array([1.0, 2.0], [True, False]))

    def test_python_checks_the_arguments_of_a_call(self):
        assert str(inspect.signature(F.linear)).startswith("(input")
        with pytest.raises(TypeError, match=r"linear\(\) missing 1 required .*'weight'"):
            F.linear(np.ones(3))
        with pytest.raises(TypeError, match="unexpected keyword argument 'biass'"):
            F.linear(np.ones(3), np.ones((2, 3)), biass=1)

    def test_constants_between_arrays(self, backend):
        @op
        def scaled(xp, input: Array, factor, weight: Array = None, power=1):
            y = input * factor**power
            pullbacks = (lambda d: d * factor**power, lambda d: d * y)
            return y if weight is None else y * weight, pullbacks

        x = leaf(backend)
        assert (scaled(x, 2, power=3).numpy() == 8).all()
        assert (scaled(x, 2, x).numpy() == 2).all()
        assert (scaled(x, factor=2, weight=x, power=2).numpy() == 4).all()

    def test_mixing_backends(self, backend):
        other = get_backend("strict" if backend.name == "numpy" else "numpy")
        names = rf"linear.*'input'.*'{backend.name}'.*'weight'.*'{other.name}'"
        remedy = rf"weight\.to\('{backend.name}'\)"
        with pytest.raises(BackendMismatchError, match=f"{names}.*{remedy}"):
            F.linear(leaf(backend), leaf(other, shape=(2, 3)))

    def test_retain_grad_twice(self, backend):
        y = leaf(backend) * 2
        y.retain_grad()
        y.retain_grad()
        y.sum().backward()
        assert (values(backend, y.grad) == 1).all()

    @pytest.mark.parametrize("make", [lambda x: x * 2, lambda x: x], ids=["computed", "leaf"])
    def test_a_hook_that_removes_itself(self, backend, make):
        y = make(leaf(backend))
        calls = []

        def once(g):
            calls.append("once")
            remove()

        remove = y.register_hook(once)
        y.register_hook(lambda g: calls.append("always"))
        y.sum().backward(retain_graph=True)
        y.sum().backward()
        assert calls == ["once", "always", "always"]

    def test_in_place_operators_of_parameters_raise(self, backend):
        p = Parameter(leaf(backend))
        with pytest.raises(TypeError, match=r"p.data\[...\] -= g"):
            p -= 1.0

    def test_deepcopy(self, backend):
        p = Parameter(leaf(backend))
        (p * 2).sum().backward()
        q = copy.deepcopy([p, p])
        assert q[0] is q[1] and q[0] is not p
        assert q[0].grad is not p.grad and (values(backend, q[0].grad) == 2).all()
        with pytest.raises(RuntimeError, match="detach"):
            copy.deepcopy(p * 2)

    def test_conversion_to_python_numbers(self, backend):
        assert float(gpuprop.tensor(2.5)) == 2.5
        assert int(gpuprop.tensor(3)) == 3
        assert bool(gpuprop.tensor(True))
        with pytest.raises(ValueError, match="ambiguous"):
            bool(leaf(backend))
        with pytest.raises(ValueError, match="one element"):
            leaf(backend).item()


class TestGradFunctions:
    def test_arguments_and_results(self):
        f = lambda x: (x * x).sum()
        assert grad(f)(np.array([1.0, 2])).tolist() == [2, 4]
        assert type(grad(f)(np.ones(2))) is np.ndarray
        assert isinstance(grad(f)(Tensor(np.ones(2))), Tensor)
        value, g = value_and_grad(f)(np.array([1.0, 2]))
        assert value == 5 and type(value) is np.ndarray and g.tolist() == [2, 4]
        da, db = grad(lambda a, b: (a * b).sum(), (0, 1))(np.array([1.0]), np.array([3.0]))
        assert da == 3 and db == 1
        parameters = {"w": np.array([1.0]), "b": [np.array([5.0])]}
        tree = grad(lambda p: (p["w"] * p["b"][0]).sum())(parameters)
        assert tree["w"] == 5 and tree["b"][0] == 1
        assert grad(lambda x: x * x)(3.0) == 6

    def test_nested_gradients(self, backend):
        """d/dx x (d/dy xy) = 2x, and higher derivatives."""
        array = lambda v: backend.asarray(np.array(v))
        one, two = Tensor(array(1.0)), Tensor(array(2.0))
        assert grad(lambda x: x * grad(lambda y: x * y)(one))(array(3.0)) == 6
        assert grad(grad(grad(lambda x: x**5)))(array(3.0)) == 540
        assert grad(grad(lambda x: x * grad(lambda y: x * x * y * y)(two)))(array(3.0)) == 72

    def test_gradient_of_a_gradient_reaches_parameters(self, backend):
        """A loss of an input gradient has gradients in the parameters; grad() itself sets none."""
        p = Parameter(backend.asarray(np.array([[2.0, 3.0]])))
        x = Tensor(backend.asarray(np.ones((1, 2))))
        g = grad(lambda x: (F.linear(x, p) ** 2).sum())(x)  # 2 (x.p) p = 10 p
        assert p.grad is None
        (g * g).sum().backward()  # 100 |p|², with d/dp = 2 g . dg/dp
        input_grad = lambda p: grad(lambda x: (F.linear(x, p) ** 2).sum())(x)
        expected = grad(lambda p: (input_grad(p) ** 2).sum())(p.data)
        np.testing.assert_allclose(values(backend, p.grad), values(backend, expected))

    def test_grad_inside_no_grad(self):
        with gpuprop.no_grad():
            assert grad(grad(lambda x: x**3))(2.0) == 12

    def test_function_must_return_a_scalar(self):
        with pytest.raises(ValueError, match=r"one number.*\(2,\)"):
            grad(lambda x: x * 2)(np.ones(2))
        with pytest.raises(TypeError, match="int64"):
            grad(lambda x: x.sum())(np.arange(3))

    def test_function_without_a_gradient_is_named(self):
        @op
        def wavy(xp, x: Array):
            return xp.i0(x), (lambda d: d * xp.i0(x),)

        with pytest.raises(NotImplementedError, match=r"xp\.i0 .*no gradient"):
            grad(grad(lambda x: wavy(x).sum()))(np.ones(3))


class TestVersions:
    """An op's definition, a faster version and a backend's override."""

    def test_override_then_faster_version_then_definition(self, backend, monkeypatch):
        from gpuprop._core.backend import forget_choices

        @op
        def answer(xp, x: Array):
            return x * 0 + 1, None

        assert answer(leaf(backend)).tolist() == [1, 1, 1]

        @answer.faster
        def faster(xp, x):
            return x * 0 + 2, None

        assert answer(leaf(backend)).tolist() == [2, 2, 2]
        override = lambda xp, x: (x * 0 + 3, None)
        monkeypatch.setattr(backend, "kernels", {answer.spec.name: override})
        forget_choices()
        assert answer(leaf(backend)).tolist() == [3, 3, 3]
        with gpuprop.generic():
            assert answer(leaf(backend)).tolist() == [1, 1, 1]
        monkeypatch.undo()
        forget_choices()

    def test_faster_version_must_have_the_same_parameters(self):
        @op
        def plain(xp, x: Array, n=1):
            return x, None

        with pytest.raises(TypeError, match=r"plain.*parameters"):
            plain.faster(lambda xp, x, m=1: (x, None))

    def test_overrides_of_linear_ops(self, backend, monkeypatch):
        from gpuprop._core.backend import forget_choices

        @linear_op(lambda xp, d, _, k: tripled.on(xp, d, k=k))
        def tripled(xp, x: Array, k):
            return x * k

        x = leaf(backend)
        tripled(x, 3).sum().backward()
        assert (values(backend, x.grad) == 3).all()
        monkeypatch.setattr(backend, "kernels", {tripled.spec.name: lambda xp, x, k: x * k * 2})
        forget_choices()
        assert tripled(x, 3).tolist() == [6, 6, 6]
        monkeypatch.undo()
        forget_choices()

    def test_op_without_array_annotations_raises(self):
        with pytest.raises(TypeError, match="annotate"):
            op(lambda xp, x: (x, None))


class TestBrokenBodies:
    """Errors name the op whose body breaks the contract; no gradient is silently wrong."""

    def test_no_pullbacks(self, backend):
        @op
        def bare(xp, x: Array):
            return x * 2

        with pytest.raises(TypeError, match=r"bare.*return \(output, pullbacks\)"):
            bare(leaf(backend, shape=(2,)))

    def test_single_pullback_must_return_a_tuple(self, backend):
        @op
        def bare(xp, x: Array):
            return x * 2, lambda d: d * 2

        with pytest.raises(TypeError, match=r"bare.*pullback must return a tuple of 1"):
            bare(leaf(backend, shape=(2, 2))).sum().backward()

    def test_too_few_pullbacks(self, backend):
        @op
        def short(xp, x: Array, w: Array):
            return x * w, (lambda d: d * w,)

        for x, w in ((leaf(backend), leaf(backend)), (leaf(backend).detach(), leaf(backend))):
            with pytest.raises(TypeError, match=r"short.*1 pullbacks.*2 arrays"):
                short(x, w)

    def test_none_means_no_gradient(self, backend):
        @op
        def half(xp, x: Array, w: Array, v: Array):
            return x * 2, (lambda d: d * 2, None, lambda d: None)

        x, w, v = leaf(backend), leaf(backend), leaf(backend)
        half(x, w, v).sum().backward()
        assert (values(backend, x.grad) == 2).all() and w.grad is None and v.grad is None

    @pytest.mark.parametrize("wrong", [lambda d: d.T, lambda d: d[0], lambda d: d[:1]])
    def test_gradient_of_the_wrong_shape(self, backend, wrong):
        @op
        def odd(xp, x: Array):
            return x * 2, (wrong,)

        with pytest.raises(ValueError, match=r"odd.*gradient of shape .*\(2, 3\)"):
            odd(leaf(backend, shape=(2, 3))).sum().backward()

    def test_several_outputs_must_be_a_tuple(self, backend):
        @op
        def listed(xp, x: Array):
            return [x, x * 2], None

        with pytest.raises(TypeError, match=r"listed.*several outputs.*list"):
            listed(leaf(backend))

    def test_arrays_of_a_linear_op_come_first(self):
        with pytest.raises(TypeError, match="first its arrays"):
            @linear_op(lambda xp, d, _, k, m: d)
            def mixed(xp, x: Array, k, m: Array):
                return x * k * m


class TestState:
    """State after errors, in copies and in pickles; hooks and gradients given by the user."""

    def test_backward_after_an_error_in_a_pullback(self, backend):
        @op
        def bad(xp, x: Array):
            def pull(d):
                raise KeyError("bad")
            return x * 1, (pull,)

        x = leaf(backend)
        trunk = x * 3
        head = bad(trunk)
        with pytest.raises(KeyError):
            (head + trunk * 5).sum().backward()
        (trunk * 7).sum().backward()
        assert (values(backend, x.grad) == 21).all()

    def test_hooks_must_return_a_gradient_of_the_same_shape(self, backend):
        for hook in (lambda g: g.sum(), lambda g: 0.0):
            for f in (lambda x: x, lambda x: x * 1):
                h = f(leaf(backend))
                h.register_hook(hook)
                with pytest.raises(ValueError, match=r"shape \(3,\) and returned"):
                    (h * 2).sum().backward()

    def test_hooks_get_arrays(self, backend):
        seen, x = [], leaf(backend, shape=())
        h = x * 1
        for t in (x, h):
            t.register_hook(lambda g: seen.append(type(g)))
        (h * h + h + x).backward()
        assert seen == [backend.array_type] * 2

    def test_same_hook_registered_twice(self, backend):
        x = leaf(backend)
        double = lambda g: g * 2
        remove = x.register_hook(double)
        x.register_hook(double)
        remove()
        remove()  # has no effect
        (x * 1).sum().backward()
        assert (values(backend, x.grad) == 2).all()

    def test_retained_gradients_accumulate(self, backend):
        h = leaf(backend) * 2
        h.retain_grad()
        y = h.sum()
        y.backward(retain_graph=True)
        y.backward()
        assert (values(backend, h.grad) == 2).all()

    def test_no_reference_cycles(self, backend):
        def run():
            h = leaf(backend) * 2
            h.retain_grad()
            (h * h).sum().backward()
            grad(grad(lambda x: (x**3).sum()))(leaf(backend).data[0])

        run()
        while gc.collect():  # what is freed here may free the code of Numba's loops, in cycles
            pass
        gc.disable()
        try:
            run()
            gc.set_debug(gc.DEBUG_SAVEALL)
            assert gc.collect() == 0, [repr(found)[:300] for found in gc.garbage]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    def test_pickled_parameter_has_no_version_and_no_grad_buffer(self):
        p = Parameter(np.ones(2, "float32"))
        optim.SGD([p], lr=0.1)
        p.touch()
        q = pickle.loads(pickle.dumps(p))
        assert type(q) is Parameter and q.requires_grad
        assert q.grad_buffer is None and q.changed == -1
        with pytest.raises(RuntimeError, match="detach"):
            pickle.dumps(p * 2)

    def test_integer_leaves_cannot_require_a_gradient(self, backend):
        with pytest.raises(TypeError, match="int64"):
            Tensor(backend.asarray(np.arange(3)), requires_grad=True)
        x = Tensor(backend.asarray(np.arange(3)))
        x.requires_grad = True
        with pytest.raises(TypeError, match="int64"):
            (x * 0.5).sum().backward()

    def test_gradient_set_by_the_user_is_not_overwritten(self, backend):
        p = Parameter(leaf(backend))
        optim.SGD([p], lr=0.1)
        given = backend.xp.broadcast_to(leaf(backend).data[:1], (3,))
        p.grad = given
        (p * 3).sum().backward()
        assert (values(backend, p.grad) == 4).all() and (values(backend, given) == 1).all()

    def test_gradient_on_another_backend(self, backend):
        other = get_backend("strict" if backend.name == "numpy" else "numpy")
        with pytest.raises(BackendMismatchError, match=r"backward\(gradient\).*to\("):
            leaf(backend).backward(other.asarray(np.ones(3, "float32")))

    def test_promotion_with_numbers_and_none(self, backend):
        assert gpuprop.where(leaf(backend) > 0, 1, 2).tolist() == [1, 1, 1]

        @op(promote=True)
        def gated(xp, c: Array, x: Array = None, y: Array = None):
            return c * 2, (lambda d: d * 2, None, None)

        assert gated(leaf(backend)).tolist() == [2, 2, 2]

    def test_no_grad_decorates_generators(self):
        @gpuprop.no_grad()
        def steps():
            yield gpuprop.is_grad_enabled()
            yield gpuprop.is_grad_enabled()

        found = []
        for inside in steps():
            found.append((inside, gpuprop.is_grad_enabled()))
        assert found == [(False, True)] * 2


class TestGradArguments:
    def test_inner_gradients_of_numbers_and_arrays_are_recorded(self, backend):
        """d/dx x (d/dy xy) = 2x, whether y is a number or an array."""
        array = lambda v: backend.asarray(np.array(v))
        assert grad(lambda x: x * grad(lambda y: x * y)(1.0))(3.0) == 6
        assert grad(lambda x: x * grad(lambda y: x * y)(array(1.0)))(array(3.0)) == 6
        value = lambda x: value_and_grad(lambda y: x * x * y)(array(1.0))[0]
        assert grad(value)(array(3.0)) == 6

    def test_argnum(self):
        product = lambda a, b: a * b
        assert grad(product, -1)(2.0, 3.0) == 2
        with pytest.raises(TypeError, match=r"argnum=2.*2 positional"):
            grad(product, 2)(2.0, 3.0)
        with pytest.raises(TypeError, match=r"argnum.*positional"):
            grad(lambda a: a)(a=2.0)

    def test_namedtuples_and_none(self):
        point = namedtuple("point", "w b")
        g = grad(lambda p: (p.w * 2).sum())(point(np.ones(2), None))
        assert isinstance(g, point) and g.w.tolist() == [2, 2] and g.b is None
