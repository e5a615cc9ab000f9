"""Modules: registration, state, errors, containers, layers, initialization and docstrings."""

import copy
import inspect
from typing import ClassVar

import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop import Parameter, Tensor, nn, optim
from gpuprop._core.registry import backend_of
from gpuprop.nn import init
from gpuprop.nn._function import option_values


class Block(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.first = nn.Linear(n, n)
        self.norm = nn.Parameter(gpuprop.ones(n))
        self.register_buffer("seen", gpuprop.zeros(()))
        self.register_buffer("scratch", gpuprop.zeros(2), persistent=False)

    def forward(self, x):
        return F.relu(self.first(x)) * self.norm


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(4), Block(4)])
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


LAYERS = [getattr(nn, name) for name in nn.__all__ if inspect.isclass(getattr(nn, name))]
FUNCTION_LAYERS = [c for c in LAYERS if issubclass(c, nn.Function) and c is not nn.Function]
NAMES = [f"blocks.{i}.{n}" for i in (0, 1) for n in ("norm", "first.weight", "first.bias")]


# Names that a user may give to attributes and methods of a module.
PRIVATE_NAMES = (
    "_state _states _walk _tensors _register _hooks _buffers _buffer _forward _call _options "
    "_parameters _params _modules _children _layers _names _entries _loss _sum_and_count _hook "
    "_pre_hooks _before _after _training _device _dtype _to _apply _cache _weights _named _unique "
    "_register_hook _forward_with_hooks _state_dict _option_values _input _output").split()


class TestModule:
    def test_private_names_of_the_base_class(self):
        """A new private name of Module needs a name that no user would choose."""
        private = [n for n in (*vars(nn.Module), *vars(nn.Module.__base__))
                   if n[0] == "_" and not n.endswith("__")]
        assert private == ["_state_minima", "_state_optional", "_buffer_persistence", "_hook_lists",
                           "_state_hook_lists"]

    @pytest.mark.parametrize("on_class", [True, False])
    def test_private_names_are_free(self, on_class):
        class Plain(nn.Module):
            def __init__(self):
                self.register_buffer("seen", gpuprop.zeros(()))
                self.layer = nn.Linear(2, 2)
                self.loss = nn.LinearCrossEntropyLoss(2, 2)
                self.body = nn.Sequential(nn.ReLU(), nn.Tanh())

            def forward(self, x):
                return self.body(self.layer(x))

        class Named(Plain):
            def __init__(self):
                super().__init__()
                for module in (self, self.loss, self.body):
                    for name in PRIVATE_NAMES:
                        setattr(module, name, None if "s" in name[-1:] else [1])

        if on_class:
            attributes = dict.fromkeys(PRIVATE_NAMES, 3)
            named = type("Named", (Plain,), attributes)()
        else:
            named = Named()
        plain = Plain()
        assert named.load_state_dict(plain.state_dict()) == ([], [])
        calls = []
        remove = named.register_forward_pre_hook(lambda module, args: calls.append(1))
        named.register_forward_hook(lambda module, args, output: calls.append(2))
        x = gpuprop.ones(3, 2)
        np.testing.assert_array_equal(named(x).numpy(), plain(x).numpy())
        assert calls == [1, 2]
        remove()
        named.train().eval().requires_grad_(True).apply(lambda m: None).to(dtype="float64")
        assert named.layer.weight.dtype == named.seen.dtype == "float64"
        assert [n for n, _ in named.named_modules()] == [n for n, _ in plain.named_modules()]
        assert len(named.body.append(nn.ReLU())) == 3 and repr(named)
        assert named.loss(x.astype("float64"), gpuprop.zeros(3, dtype="int64")).shape == ()

    def test_public_names_as_attributes(self):
        """A submodule may have the name of a method that the module itself does not need."""
        class Net(nn.Module):
            def __init__(self):
                self.modules = nn.ModuleList([nn.Linear(2, 2)])
                self.children = nn.Linear(2, 2)
                self.buffers = nn.Linear(2, 2)
                self.half = 3

        net = Net().to(dtype="float64").eval()
        assert not net.children.training and net.children.weight.dtype == "float64"
        assert len(net.state_dict()) == 6 and len(list(net.parameters())) == 6

    def test_names_of_parameters_buffers_and_modules(self):
        net = Net()
        assert sorted(n for n, _ in net.named_parameters()) == sorted([*NAMES, "head.weight"])
        assert [n for n, _ in net.named_buffers()] == [
            f"blocks.{i}.{n}" for i in (0, 1) for n in ("seen", "scratch")]
        assert [n for n, _ in net.named_modules()] == [
            "", "blocks", "blocks.0", "blocks.0.first", "blocks.1", "blocks.1.first", "head"]
        assert [n for n, _ in net.named_children()] == ["blocks", "head"]
        assert len(list(net.children())) == 2
        assert len(list(net.blocks[0].parameters(recurse=False))) == 1
        assert net.get_submodule("blocks.1.first") is net.blocks[1].first
        with pytest.raises(AttributeError, match=r"no module 'blocks.2'"):
            net.get_submodule("blocks.2")

    def test_a_shared_parameter_has_two_names(self):
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        net[1].weight = net[0].weight
        assert [n for n, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
        assert set(net.state_dict()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
        other = copy.deepcopy(net)
        assert other[1].weight is other[0].weight and other[0].weight is not net[0].weight
        net.to(dtype="float64")
        assert net[1].weight is net[0].weight and net[1].weight.dtype == "float64"

    def test_train_eval_apply_freeze(self):
        net = Net()
        net.eval()
        assert not any(m.training for m in net.modules())
        net.blocks[0].train()
        assert net.blocks[0].first.training and not net.training
        seen = []
        net.apply(lambda m: seen.append(type(m).__name__))
        assert seen[-1] == "Net" and seen[0] == "Linear" and len(seen) == 7
        net.requires_grad_(False)
        assert not any(p.requires_grad for p in net.parameters())

    def test_without_super_init(self):
        class Lazy(nn.Module):
            def __init__(self):
                self.layer = nn.Linear(2, 2)

            def forward(self, x):
                return self.layer(x)

        assert len(list(Lazy().parameters())) == 2 and Lazy()(gpuprop.ones(1, 2)).shape == (1, 2)

    def test_hooks(self, backend):
        layer, seen = nn.Identity(), []

        def before(module, args):
            seen.append("before")
            return args[0] * 2

        def after(module, args, output):
            seen.append("after")
            return output + 1

        removers = [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
        assert layer(gpuprop.ones(1)).tolist() == [3] and seen == ["before", "after"]
        for remove in removers:
            remove()
        assert layer(gpuprop.ones(1)).tolist() == [1]

    def test_backward_hooks(self, backend):
        layer, seen = nn.Identity(), []

        def before(module, grad_output):
            return tuple(g * 2 for g in grad_output)

        def after(module, grad_input, grad_output):
            seen.append([type(g) for g in (*grad_input, *grad_output)])
            return (grad_input[0] * 5,)

        x = gpuprop.ones(2, 3)
        x.requires_grad = True
        removers = [layer.register_full_backward_pre_hook(before),
                    layer.register_full_backward_hook(after)]
        layer(x).sum().backward()
        assert x.numpy().shape == (2, 3) and float(Tensor(x.grad).max()) == 10
        assert seen == [[type(x.data)] * 2]
        for remove in removers:
            remove()
        layer(x).sum().backward()
        assert float(Tensor(x.grad).max()) == 11 and len(seen) == 1

    def test_backward_hooks_of_a_model_in_half_types_and_second_order(self, backend):
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).half()
        model[2].register_full_backward_hook(lambda m, gi, go: (gi[0] * 0,))
        model(gpuprop.ones(2, 3).astype("float16")).sum().backward()
        assert not Tensor(model[0].weight.grad).any()
        assert Tensor(model[2].weight.grad).any()
        double = nn.Identity()
        double.register_full_backward_hook(lambda m, gi, go: (gi[0] * 2,))
        cube = lambda x: (double(gpuprop.tensor(x) if not hasattr(x, "shape") else x) ** 3).sum()
        inner = gpuprop.grad(cube)
        second = gpuprop.grad(lambda x: inner(x).sum())(gpuprop.ones(2).data)
        assert second.tolist() == [24, 24]  # each backward through the layer doubles

    def test_wrong_results_of_backward_hooks(self):
        x = gpuprop.ones(2)
        x.requires_grad = True
        for wrong in (lambda m, gi, go: (), lambda m, gi, go: (gi[0], gi[0])):
            layer = nn.Identity()
            layer.register_full_backward_hook(wrong)
            with pytest.raises(RuntimeError, match=r"backward hook of Identity returned"):
                layer(x).sum().backward()

    def test_repr(self):
        assert repr(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Dropout(0.2))) == (
            "Sequential(\n  (0): Linear(in_features=2, out_features=3, bias=True)\n"
            "  (1): ReLU()\n  (2): Dropout(p=0.2)\n)")
        assert repr(nn.Softmax(dim=1)) == "Softmax(dim=1)" and "alpha=2" in repr(nn.ELU(2))

    def test_no_forward(self):
        with pytest.raises(NotImplementedError, match="Module has no forward"):
            nn.Module()(1)


class TestErrors:
    def test_the_note_has_the_path_of_the_layer(self, backend):
        with pytest.raises(ValueError, match="5 features") as caught:
            Net()(gpuprop.ones(2, 5))
        first_line = caught.value.__notes__[0].splitlines()[0]
        assert first_line.startswith("in Net.blocks.0.first: Linear(in_features=4, out_features=4")

    def test_float64_input_to_float32_parameters(self, backend):
        keywords = r"float64.*float32.*astype\('float32'\).*to\(dtype='float64'\)"
        with pytest.raises(TypeError, match=keywords) as caught:
            nn.Sequential(nn.Linear(3, 3))(gpuprop.tensor(np.ones((2, 3))))
        first_line = caught.value.__notes__[0].splitlines()[0]
        assert first_line == "in Sequential.0: Linear(in_features=3, out_features=3, bias=True)"

    def test_one_note_for_each_error(self, backend):
        net = Net()
        for _ in range(2):
            with pytest.raises(ValueError) as caught:
                net(gpuprop.ones(2, 5))
            assert len(caught.value.__notes__) == 1


class TestState:
    def test_round_trip(self, backend):
        net, other = Net(), Net()
        state = net.state_dict()
        assert set(state) == {*NAMES, "head.weight", "blocks.0.seen", "blocks.1.seen"}
        assert all(type(v) is np.ndarray for v in state.values())
        arrays = [p.data for p in other.parameters()]
        assert other.load_state_dict(state) == ([], [])
        assert all(p.data is a for p, a in zip(other.parameters(), arrays, strict=True))
        for name, value in other.state_dict().items():
            np.testing.assert_array_equal(value, state[name])
        state["head.weight"][...] = 7
        assert not (net.head.weight.numpy() == 7).any()

    def test_a_mismatch_lists_everything_and_loads_nothing(self, backend):
        net = Net()
        state = {n: v + 1 for n, v in net.state_dict().items()}
        before = net.state_dict()
        state["stranger"] = state.pop("head.weight")
        state["blocks.0.norm"] = np.ones(5)
        keywords = r"blocks.0.norm.*\(5,\).*\(4,\).*missing: head.weight; unexpected: stranger"
        with pytest.raises(ValueError, match=keywords):
            net.load_state_dict(state)
        for name, value in net.state_dict().items():
            np.testing.assert_array_equal(value, before[name])
        state["blocks.0.norm"] = np.ones(4)
        assert net.load_state_dict(state, strict=False) == (["head.weight"], ["stranger"])

    def test_loading_between_forward_and_backward(self, backend):
        net = Net()
        loss = net(gpuprop.ones(2, 4)).sum()
        net.load_state_dict(net.state_dict())
        with pytest.raises(RuntimeError, match="changed by a step or a load"):
            loss.backward()

    def test_to(self, backend):
        net = Net()
        net(gpuprop.ones(2, 4)).sum().backward()
        net.to("numpy", dtype="float64")
        for p in net.parameters():
            assert backend_of(p.data).name == "numpy" and p.dtype == "float64" == p.grad.dtype
        assert net.blocks[0].seen.dtype == "float64"
        net.half().to(gpuprop.ones(1))
        assert net.head.weight.dtype == "float32" and backend_of(net.head.weight.data) is backend
        with pytest.raises(TypeError, match="floating dtype"):
            net.to("int32")

    def test_moving_during_training(self, backend):
        net = Net()
        optimizer = optim.Adam(net.parameters(), lr=1e-3)
        losses = []
        for i in range(6):
            if i == 3:
                net.to("strict" if backend.name == "numpy" else "numpy")
            x = Tensor(backend_of(net.head.weight.data).asarray(np.ones((2, 4), "float32")))
            optimizer.zero_grad()
            loss = (net(x) ** 2).sum()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[2] < losses[0]


class TestContainers:
    def test_sequential(self):
        net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        net.append(nn.Identity())
        net.insert(0, nn.Identity())
        assert [type(m).__name__ for m in net] == ["Identity", "Linear", "ReLU", "Identity"]
        assert len(net[1:3]) == 2 and type(net[-2]).__name__ == "ReLU" and net[1] in net
        del net[0]
        net[1] = nn.Tanh()
        assert [n for n, _ in net.named_children()] == ["0", "1", "2"]
        assert isinstance(net.pop(), nn.Identity)
        named = nn.Sequential({"a": nn.Linear(2, 3), "b": nn.ReLU()})
        assert named(gpuprop.ones(1, 2)).shape == (1, 3) and "a.weight" in named.state_dict()

    def test_changes_of_a_named_sequential(self):
        """Names and forward as in PyTorch: `del` and `insert` renumber, the rest keeps names."""
        def made():
            return nn.Sequential({"a": nn.Linear(2, 2), "b": nn.ReLU()})

        def names(net):
            assert [m for _, m in net.named_children()] == list(net) and len(net) == len(list(net))
            return [name for name, _ in net.named_children()]

        def deleted(net):
            del net[0]

        def replaced(net):
            net[0] = nn.Tanh()
            assert isinstance(net.a, nn.Tanh)

        changes = {
            "a b 2": lambda net: net.append(nn.Tanh()),
            "a b 2 3": lambda net: net.extend([nn.Tanh(), nn.Tanh()]),
            "0 1 2": lambda net: net.insert(0, nn.Tanh()),
            "0": deleted,
            "a b": replaced,
        }
        for expected, change in changes.items():
            net = made()
            change(net)
            assert names(net) == expected.split()
            assert net(gpuprop.ones(1, 2)).shape == (1, 2)
        net = made()
        assert names(net.insert(2, nn.Tanh())) == ["a", "b", "2"]
        assert isinstance(net[-1], nn.Tanh) and names(net[1:]) == ["b", "2"]
        assert isinstance(net.pop(0), nn.Linear) and names(net) == ["0", "1"]
        full = nn.Sequential({"a": nn.ReLU(), "2": nn.ReLU()}).append(nn.Tanh())
        assert names(full) == ["a", "2", "3"]

    def test_a_sequential_with_other_modules(self):
        class Net(nn.Sequential):
            def __init__(self):
                super().__init__(nn.Linear(2, 2))
                self.last = nn.ReLU()

        net = Net().append(nn.Tanh())
        assert [type(m).__name__ for m in net] == ["Linear", "ReLU", "Tanh"]
        assert [n for n, _ in net.named_children()] == ["0", "last", "2"]

    def test_entries_that_a_sequential_rejects(self):
        with pytest.raises(TypeError, match=r"Sequential.*Module, got 3"):
            nn.Sequential({"a": 3})
        for name in ("append", "a.b"):
            with pytest.raises(KeyError, match=r"name.*attribute.*dot"):
                nn.Sequential({name: nn.ReLU()})

    def test_lists_and_dicts(self):
        ps = nn.ParameterList([Parameter(gpuprop.ones(2)), Parameter(gpuprop.ones(3))])
        assert [n for n, _ in ps.named_parameters()] == ["0", "1"] and len(ps) == 2
        d = nn.ModuleDict({"x": nn.Linear(1, 1)})
        d["y"] = nn.ReLU()
        assert list(d) == ["x", "y"] and "x" in d
        assert d.pop("x") and list(d.keys()) == ["y"]
        p = nn.ParameterDict({"w": Parameter(gpuprop.ones(2))})
        assert [n for n, _ in p.named_parameters()] == ["w"]
        with pytest.raises(TypeError, match=r"ModuleList.*Module, got Parameter"):
            nn.ModuleList([Parameter(gpuprop.ones(1))])
        with pytest.raises(KeyError, match=r"'keys'.*attribute"):
            d["keys"] = nn.ReLU()

    def test_tensors_become_parameters(self):
        x = gpuprop.ones(2)
        both = nn.ParameterList([x]).append(x), nn.ParameterDict({"x": x})
        assert [[type(p) for p in c.parameters()] for c in both] == [[Parameter] * 2, [Parameter]]
        assert all(p.requires_grad and p.data is x.data for c in both for p in c.parameters())
        both[0][0] = gpuprop.zeros(3)
        assert both[0][0].shape == (3,) and type(both[0][0]) is Parameter


class TestLayers:
    def test_activations_equal_their_functions(self, backend):
        x = gpuprop.tensor(np.linspace(-3, 3, 12).reshape(3, 4).astype("float32"))
        arguments = {"Threshold": (0.5, 0.1), "Softmax": (1,), "Softmin": (1,), "LogSoftmax": (1,)}
        compared = 0
        for cls in FUNCTION_LAYERS:
            if cls.__module__ == "gpuprop.nn._activation":
                layer = cls(*arguments.get(cls.__name__, ())).eval()
                want = cls.function(x, **option_values(layer))
                np.testing.assert_array_equal(layer(x).numpy(), want.numpy(), err_msg=str(cls))
                compared += 1
        assert compared == 26

    def test_losses_keep_their_weights_as_buffers(self, backend):
        loss = nn.CrossEntropyLoss(weight=gpuprop.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)
        assert [n for n, _ in loss.named_buffers()] == ["weight"]
        x, y = gpuprop.tensor([[1.0, 2.0, 3.0]]), gpuprop.tensor([1])
        assert loss(x, y).item() == F.cross_entropy(x, y, loss.weight, label_smoothing=0.1).item()
        with pytest.raises(TypeError, match=r"MSELoss\(reduction.*weights"):
            nn.MSELoss(weights=1)

    def test_array_options_are_buffers(self, backend):
        """Whether arrays or Tensors, and whether given to the constructor or assigned."""
        weight = np.array([1.0, 2.0, 3.0], "float32")
        x, y = gpuprop.tensor([[1.0, 2.0, 3.0]]), gpuprop.tensor([1])
        given = nn.CrossEntropyLoss(weight=weight)
        assigned = nn.CrossEntropyLoss()
        assigned.weight = weight
        replaced = nn.CrossEntropyLoss(gpuprop.zeros(3))
        replaced.weight = gpuprop.tensor(weight)
        for loss in given, assigned, replaced:
            assert isinstance(loss.weight, Tensor)
            np.testing.assert_array_equal(loss.state_dict()["weight"], weight)
            expected = F.cross_entropy(x, y, gpuprop.tensor(weight)).item()
            assert loss(x, y).item() == expected
            moved = copy.deepcopy(loss).to("strict")
            assert moved(x.to("strict"), y.to("strict")).item() == pytest.approx(expected)
        for value in None, 2.0:
            loss = nn.BCEWithLogitsLoss(pos_weight=weight)
            loss.pos_weight = value
            assert loss.state_dict() == {} and loss.to("strict").pos_weight == value
        learned = nn.BCEWithLogitsLoss(pos_weight=weight)
        learned.pos_weight = Parameter(gpuprop.ones(3))
        assert [n for n, _ in learned.named_parameters()] == ["pos_weight"]
        assert list(learned.named_buffers()) == []

    def test_sizes_are_no_buffers(self):
        layer = nn.AdaptiveAvgPool2d((np.int64(1), 1))
        assert layer.state_dict() == {} and layer.output_size == (1, 1)

    def test_inputs_by_name(self, backend):
        x, y = gpuprop.ones(3), gpuprop.zeros(3)
        assert nn.MSELoss()(input=x, target=y).item() == 1

    def test_linear_bilinear_flatten(self, backend):
        assert nn.Linear(3, 2, bias=False).bias is None
        assert nn.Bilinear(2, 3, 4)(gpuprop.ones(5, 2), gpuprop.ones(5, 3)).shape == (5, 4)
        x = gpuprop.ones(2, 3, 4)
        assert nn.Flatten()(x).shape == (2, 12) and nn.Flatten(0, 1)(x).shape == (6, 4)
        assert nn.Unflatten(1, (3, -1))(gpuprop.ones(2, 12)).shape == (2, 3, 4)
        with pytest.raises(ValueError, match=r"12 elements.*\(5, 2\)"):
            nn.Unflatten(1, (5, 2))(gpuprop.ones(2, 12))
        assert nn.PReLU(3)(gpuprop.ones(2, 3)).shape == (2, 3)
        assert nn.Linear(2, 2, dtype="float64").weight.dtype == "float64"
        assert backend_of(nn.Linear(2, 2, device="cpu").weight.data).name == "numpy"

    def test_dropout(self, backend):
        layer, x = nn.Dropout(0.25), gpuprop.ones(10_000)
        y = layer(x).numpy()
        assert abs((y == 0).mean() - 0.25) < 0.02
        assert set(np.unique(y).tolist()) == {0.0, np.float32(1 / 0.75).item()}
        assert layer.eval()(x) is x
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            nn.Dropout(1.5)


class TestInit:
    def test_same_bits_everywhere(self, backend):
        gpuprop.manual_seed(5)
        got = nn.Linear(3, 2).state_dict()
        with gpuprop.use("numpy"):
            gpuprop.manual_seed(5)
            want = nn.Linear(3, 2).state_dict()
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])

    @pytest.mark.parametrize("fill, mean, std", [
        (lambda t: init.uniform_(t, -1, 3), 1, 4 / 12**0.5),
        (lambda t: init.normal_(t, 2, 0.5), 2, 0.5),
        (lambda t: init.trunc_normal_(t, 0, 1, -1, 1), 0, 0.5396),
        (init.xavier_uniform_, 0, (2 / 500) ** 0.5),
        (init.xavier_normal_, 0, (2 / 500) ** 0.5),
        (init.kaiming_uniform_, 0, (2 / 200) ** 0.5),
        (lambda t: init.kaiming_normal_(t, mode="fan_out", nonlinearity="relu"), 0,
         (2 / 300) ** 0.5),
        (lambda t: init.constant_(t, 3), 3, 0),
        (init.ones_, 1, 0),
        (init.zeros_, 0, 0),
    ])
    def test_moments(self, fill, mean, std, backend):
        t = gpuprop.zeros((300, 200))
        assert fill(t) is t
        v = t.numpy()
        assert abs(v.mean() - mean) < 0.02 * max(std, 0.5) and abs(v.std() - std) <= 0.02 * std

    def test_structured(self, backend):
        assert (init.eye_(gpuprop.zeros((2, 3))).numpy() == np.eye(2, 3)).all()
        w = init.orthogonal_(gpuprop.zeros((4, 6)), gain=2.0).numpy()
        np.testing.assert_allclose(w @ w.T, 4 * np.eye(4), atol=1e-5)
        w = init.orthogonal_(gpuprop.zeros((6, 2, 2))).numpy().reshape(6, 4)
        np.testing.assert_allclose(w.T @ w, np.eye(4), atol=1e-6)
        assert ((init.sparse_(gpuprop.zeros((10, 7)), 0.3).numpy() == 0).sum(axis=0) == 3).all()
        d = init.dirac_(gpuprop.zeros((4, 2, 3)), groups=2).numpy()
        assert d.sum() == 4 and d[2, 0, 1] == 1 and d[3, 1, 1] == 1
        assert init.calculate_gain("tanh") == 5 / 3
        assert init.calculate_gain("leaky_relu", 0.2) == (2 / 1.04) ** 0.5

    def test_errors(self):
        t = gpuprop.zeros(3)
        for fill, match in ((init.eye_, "matrix"), (init.xavier_normal_, "weight"),
                            (init.dirac_, "filters"), (init.orthogonal_, "2 axes")):
            with pytest.raises(ValueError, match=match):
                fill(t)
        with pytest.raises(ValueError, match=r"leaky_relu.*'swish'"):
            init.calculate_gain("swish")
        with pytest.raises(ValueError, match="fan_in"):
            init.kaiming_normal_(gpuprop.zeros((2, 2)), mode="fan")


def test_same_seed_same_weights_bit_for_bit(backend):
    """Two runs of an epoch of training with dropout."""
    rng = np.random.default_rng(0)
    data = [(rng.standard_normal((16, 6)).astype("float32"), rng.integers(0, 3, 16))
            for _ in range(20)]
    runs = []
    for _ in range(2):
        gpuprop.manual_seed(11)
        net = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Dropout(0.3), nn.Linear(12, 3))
        optimizer = optim.AdamW(net.parameters(), lr=0.01)
        for x, y in data:
            optimizer.zero_grad()
            F.cross_entropy(net(gpuprop.tensor(x)), gpuprop.tensor(y)).backward()
            optimizer.step()
        runs.append(net.state_dict())
    for name, value in runs[0].items():
        np.testing.assert_array_equal(runs[1][name], value)


class TestMistakes:
    def test_a_tensor_assigned_to_a_parameter(self):
        layer = nn.Linear(2, 2)
        with pytest.raises(TypeError, match=r"Linear.weight.*Parameter.*\.data\[\.\.\.\] = values"):
            layer.weight = layer.weight * 2
        layer.weight = Parameter(gpuprop.ones(2, 2))

    @pytest.mark.parametrize("method", [
        name for name, _ in inspect.getmembers(nn.Module, inspect.isfunction) if name[0] != "_"])
    def test_wrong_flags_of_methods(self, method):
        """Every flag of every method is refused by name, and nothing changes."""
        layer = nn.BatchNorm1d(2)
        before = repr(vars(layer))
        given = {"name": "x", "tensor": None, "state_dict": layer.state_dict(), "hook": print}
        parameters = inspect.signature(getattr(layer, method)).parameters
        for flag in (n for n, p in parameters.items() if str(p.annotation) == "bool"):
            required = {n: given[n] for n, p in parameters.items() if p.default is p.empty}
            for wrong in ("no", 2, object(), None, {}, float("nan")):
                with pytest.raises(TypeError, match=f"BatchNorm1d.*: {flag} must be True or Fal"):
                    getattr(layer, method)(**required, **{flag: wrong})
                assert repr(vars(layer)) == before

    @pytest.mark.parametrize("method", ["add_module", "register_module", "register_parameter",
                                        "register_buffer"])
    def test_wrong_names_and_entries(self, method):
        layer = nn.Linear(2, 2)
        before = repr(vars(layer))
        register = getattr(layer, method)
        for name in ("", "a.b", "forward", "training"):
            with pytest.raises(KeyError, match=f"Linear.*name {name!r}"):
                register(name, None)
        for name in (5, None, object()):
            with pytest.raises(TypeError, match=r"Linear: the name of an entry.*string"):
                register(name, None)
        for value in ("text", 5, object(), {}, np.ones(2), nn.Linear):
            with pytest.raises(TypeError, match=r"Linear\..*: x must be a .* or None"):
                register("x", value)
        assert repr(vars(layer)) == before

    @pytest.mark.parametrize("container", [nn.ModuleList, nn.ModuleDict, nn.ParameterList,
                                           nn.ParameterDict, nn.Sequential])
    @pytest.mark.parametrize("entries", [None, "text", object(), -1, float("nan"), {"a": 5},
                                         {5: None}, [5], [("a", 5)], nn.Linear])
    def test_wrong_entries_of_containers(self, container, entries):
        with pytest.raises(TypeError, match=f"{container.__name__}: .*entr"):
            container(entries)

    def test_an_array_assigned_to_a_buffer(self):
        block = Block(2)
        with pytest.raises(TypeError, match=r"ndarray.*Block\.seen.*buffer"):
            block.seen = np.ones(2)
        with pytest.raises(TypeError, match=r"Block\.register_buffer: other.*Tensor.*array"):
            block.register_buffer("other", np.ones(2))
        block.seen = None
        del block.scratch
        assert list(block.named_buffers()) == [] and "seen" not in block.state_dict()

    @pytest.mark.parametrize("call, message", [
        (lambda: nn.Linear(2, 3)(None), "Linear.*input.* is None"),
        (lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU())(None), "Linear.*input.* is None"),
        (lambda: nn.ReLU()(None), "ReLU.*input.* is None"),
        (lambda: nn.Sigmoid()(None), "Sigmoid.*: x is None"),
        (lambda: nn.Softmax(1)(None), "Softmax.*input.* is None"),
        (lambda: nn.Conv2d(1, 1, 1)(None), "Conv2d.*input.* is None"),
        (lambda: nn.LSTM(2, 2)(None), "LSTM.*input.* is None"),
        (lambda: nn.BatchNorm1d(2)(input=None), "BatchNorm1d.*input.* is None"),
        (lambda: nn.Dropout()(None), "Dropout.*input.* is None"),
        (lambda: nn.MaxPool2d(2)(None), "MaxPool2d.*input.* is None"),
        (lambda: nn.MSELoss()(gpuprop.ones(2), None), "MSELoss.*target.* is None"),
        (lambda: F.mse_loss(None, gpuprop.ones(2)), "mse_loss.*input.* is None"),
        (lambda: nn.CrossEntropyLoss()(None, gpuprop.zeros(2, dtype="int64")),
         "CrossEntropyLoss.*input.* is None"),
        (lambda: F.linear(gpuprop.ones(2), None), "linear.*weight.* is None"),
        (lambda: gpuprop.exp(None), "exp.* is None"),
        (lambda: gpuprop.ones(2) + None, "add.* is None"),
    ])
    def test_none_instead_of_an_array(self, call, message):
        """For example because the layer before has no `return`."""
        with gpuprop.use("numpy"), pytest.raises(TypeError, match=message):
            call()

    def test_none_in_every_layer(self):
        """Each layer of one input names it."""
        checked = 0
        with gpuprop.use("numpy"):
            for cls in LAYERS:
                for arguments in ((), (1,), (1, 1), (1, 1, 1), (4, 2, 8)):
                    try:
                        layer = cls(*arguments)
                    except (TypeError, ValueError, AttributeError, NotImplementedError):
                        continue
                    break
                else:
                    continue
                inputs = list(inspect.signature(layer.forward).parameters)
                own = type(layer).forward.__module__.startswith("gpuprop.nn")
                if inputs[:1] != ["input"] or not own or isinstance(
                        layer, nn.Identity | nn.Sequential):
                    continue
                required = [p for p in inspect.signature(layer.forward).parameters.values()
                            if p.default is p.empty]
                with pytest.raises(TypeError, match="is None"):
                    layer(*[None] * len(required))
                checked += 1
        assert checked > 50

    def test_none_for_an_argument_that_allows_it(self):
        """An error of another cause keeps its message."""
        class Net(nn.Module):
            def forward(self, x, mask=None):
                return x.nothing

        with pytest.raises(AttributeError, match="nothing"):
            Net()(gpuprop.ones(2), None)
        with pytest.raises(TypeError, match="float64"):
            F.linear(gpuprop.ones(2), gpuprop.ones(2, 2, dtype="float64"), None)
        with pytest.raises(AttributeError, match=r"NoneType.*nothing") as caught:
            nn.Sequential(nn.Identity(), Net())(None)
        assert caught.value.__notes__[0].startswith("in Sequential.1: Net()")

    def test_modules_in_a_plain_list(self):
        with pytest.warns(UserWarning, match="Module.layers.*list.*nn.ModuleList"):
            nn.Module().layers = [nn.ReLU()]

    def test_bfloat16_by_name(self, backend):
        assert nn.Linear(2, 2).to("bfloat16").weight.dtype.name == "bfloat16"
        with gpuprop.autocast("bfloat16"):
            assert nn.Linear(2, 2)(gpuprop.ones(1, 2)).dtype.name == "bfloat16"


class TestInterface:
    """What `help`, type checkers and subclasses see of the layers."""

    @pytest.mark.parametrize("module", [nn, nn.init, nn.utils, nn.utils.rnn],
                             ids=lambda module: module.__name__)
    def test_all_names_what_is_public(self, module):
        assert all(hasattr(module, name) for name in module.__all__)
        assert len(set(module.__all__)) == len(module.__all__)
        layers = [name for name, value in vars(nn).items()
                  if inspect.isclass(value) and issubclass(value, nn.Module)]
        assert {"Parameter", "init", "utils", *layers} == set(nn.__all__)

    @pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: cls.__name__)
    def test_every_layer_has_a_docstring(self, cls):
        own = vars(cls)["__doc__"]
        assert own and len(own) > 40
        assert own not in {base.__doc__ for base in cls.__mro__[1:]}
        assert not own.startswith("Abstract") or cls is nn.Function

    def test_a_function_layer_documents_its_function(self):
        text = nn.Softmax.__doc__
        assert text.startswith(F.softmax.__doc__.split("\n")[0])
        assert "gpuprop.functional.softmax" in text and "constructed with (dim)" in text

    @pytest.mark.parametrize("cls", FUNCTION_LAYERS, ids=lambda cls: cls.__name__)
    def test_declared_options_are_the_parameters_of_the_function(self, cls):
        """Type checkers read the fields; the constructor binds the function's parameters."""
        fields = {}
        for base in reversed(cls.__mro__):
            if issubclass(base, nn.Function) and base is not nn.Function:
                fields |= inspect.get_annotations(base)
        options = cls.__signature__.parameters
        required = inspect.Parameter.empty
        keyword_only = any(p.kind is p.KEYWORD_ONLY for p in options.values())
        assert [name for name, kind in fields.items()
                if "ClassVar" not in kind and kind != "KW_ONLY"] == list(options)
        assert ("KW_ONLY" in fields.values()) == keyword_only
        for name, option in options.items():
            assert option.default == getattr(cls, name, required), name

    def test_defaults_of_a_subclass(self, backend):
        """The class's own default applies, as type checkers expect."""
        class Steep(nn.LeakyReLU):
            negative_slope: float = 0.5

        class Steeper(Steep):
            negative_slope = 0.75

        class Mixin:
            negative_slope = 0.25

        class Mixed(Mixin, Steep):
            pass

        class Redeclared(Steep):
            negative_slope: float

            def inplace(self):
                """A method with the name of an option is no default."""

        x = gpuprop.tensor([-1.0])
        for cls, slope in {Steep: 0.5, Steeper: 0.75, Mixed: 0.25, Redeclared: 0.5}.items():
            assert cls()(x).item() == -slope and cls(0.1)(x).item() == pytest.approx(-0.1)
            assert inspect.signature(cls).parameters["negative_slope"].default == slope
            assert repr(cls()) == f"{cls.__name__}(negative_slope={slope})"
        assert nn.LeakyReLU()(x).item() == pytest.approx(-0.01)

        assert Redeclared().inplace is False

        class Summed(nn.MSELoss):
            reduction: str = "sum"

        assert Summed()(gpuprop.ones(3), gpuprop.zeros(3)).item() == 3

        class Weighted(nn.CrossEntropyLoss):
            weight = np.array([1.0, 2.0])

        assert list(Weighted().state_dict()) == ["weight"]

    def test_fields_that_are_no_options(self):
        with pytest.raises(TypeError, match=r"Steep\.slope.*leaky_relu.*negative_slope"):
            class Steep(nn.LeakyReLU):
                slope: float = 0.5
        with pytest.raises(TypeError, match=r"Shifted: .*default"):
            class Shifted(nn.Threshold):
                threshold: float = 0.5

        class Constants(nn.LeakyReLU):
            count: ClassVar[int] = 3
            other: "ClassVar[int]" = 3

        class OwnConstructor(nn.LeakyReLU):
            slope: float

            def __init__(self, slope):
                super().__init__(2 * slope)
                self.slope = slope

        x = gpuprop.tensor([-1.0])
        assert Constants()(x).item() == pytest.approx(-0.01)
        assert OwnConstructor(0.25)(x).item() == -0.5

    def test_signature(self):
        assert str(inspect.signature(nn.Softmax)) == "(dim: 'int | None' = None)"
        assert list(inspect.signature(nn.CrossEntropyLoss).parameters) == [
            "weight", "ignore_index", "reduction", "label_smoothing"]

    @pytest.mark.parametrize("base, arguments, inputs", [
        (nn.LSTM, (3, 4), (gpuprop.ones(5, 2, 3, device="cpu"),)),
        (nn.LSTMCell, (3, 4), (gpuprop.ones(2, 3, device="cpu"),)),
        (nn.BatchNorm1d, (3,), (gpuprop.ones(2, 3, device="cpu"),)),
        (nn.LayerNorm, (3,), (gpuprop.ones(2, 3, device="cpu"),)),
        (nn.CrossEntropyLoss, (), (gpuprop.ones(2, 3, device="cpu"),
                                   gpuprop.zeros(2, dtype="int64", device="cpu"))),
        (nn.ReLU, (), (gpuprop.ones(2, device="cpu"),)),
        (nn.Conv1d, (3, 4, 2), (gpuprop.ones(2, 3, 5, device="cpu"),)),
        (nn.MaxPool1d, (2,), (gpuprop.ones(2, 3, 5, device="cpu"),)),
        (nn.ReflectionPad1d, (1,), (gpuprop.ones(2, 3, 5, device="cpu"),)),
        (nn.Dropout, (), (gpuprop.ones(2, device="cpu"),)),
        (nn.Embedding, (3, 4), (gpuprop.zeros(2, dtype="int64", device="cpu"),)),
        (nn.RotaryPositionalEmbeddings, (4,), (gpuprop.ones(1, 2, 3, 4, device="cpu"),)),
        (nn.AdaptiveLogSoftmaxWithLoss, (4, 6, [2]), (
            gpuprop.ones(2, 4, device="cpu"), gpuprop.zeros(2, dtype="int64", device="cpu"))),
        (nn.TransformerEncoderLayer, (4, 2, 8), (gpuprop.ones(5, 2, 4, device="cpu"),)),
        (nn.TransformerDecoderLayer, (4, 2, 8), (gpuprop.ones(5, 2, 4, device="cpu"),) * 2),
    ], ids=lambda value: getattr(value, "__name__", ""))
    def test_a_subclass_may_use_any_name(self, base, arguments, inputs):
        names = ("run make states check keep options update live block feed_forward rows losses "
                 "clusters inputs hidden dims ndims n attentions put take leave word scan").split()
        names += PRIVATE_NAMES
        methods = {name: lambda self: "mine" for name in names}
        with gpuprop.use("numpy"):
            attributes = dict.fromkeys(names, "mine")
            for cls in type("Methods", (base,), methods), type("Attributes", (base,), attributes):
                gpuprop.manual_seed(0)
                layer, want = cls(*arguments), base(*arguments)
                for attribute in names:
                    if cls.__name__ == "Attributes":
                        setattr(layer, attribute, "mine")
                want.load_state_dict(layer.state_dict())
                gpuprop.manual_seed(1)
                found = layer(*inputs)
                gpuprop.manual_seed(1)
                expected = want(*inputs)
                first = lambda value: value[0] if isinstance(value, tuple) else value
                np.testing.assert_array_equal(first(found).numpy(), first(expected).numpy())
                assert repr(layer).startswith(cls.__name__)


def test_a_layer_that_sets_its_own_mode():
    """`train` is called of each submodule, so that one may keep its mode, such as frozen norms."""
    class Frozen(nn.BatchNorm1d):
        def train(self, mode=True):
            return super().train(False)

    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(Frozen(2), nn.Dropout())).train()
    assert [m.training for m in model.modules()] == [True, True, True, False, True]
    assert not any(m.training for m in model.eval().modules())


INITIALIZED = {nn.Embedding: (3, 2), nn.EmbeddingBag: (3, 2), nn.MultiheadAttention: (2, 1),
               nn.Bilinear: (2, 2, 2), nn.RNNBase: ("LSTM", 2, 2),
               nn.Transformer: (2, 1, 1, 1, 2)}
TAKE_RNG = [c for c in LAYERS if hasattr(c, "reset_parameters") and issubclass(c, nn.Module)
            and "rng" in inspect.signature(c.reset_parameters).parameters
            and c is not nn.AdaptiveLogSoftmaxWithLoss]  # its layers initialize themselves


@pytest.mark.parametrize("layer", TAKE_RNG)
def test_a_subclass_that_initializes_in_its_own_way(layer):
    """As written for PyTorch: `reset_parameters(self)`."""
    class Own(layer):
        def reset_parameters(self):
            super().reset_parameters()
            for p in self.parameters():
                init.constant_(p, 7.0)

    made = Own(*INITIALIZED.get(layer, (2, 2, 1) if "Conv" in layer.__name__ else (2, 2)))
    assert all((p.array == 7.0).all() for p in made.parameters())
