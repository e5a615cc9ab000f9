"""State that threads share: every mutable object of a module or class is listed here, with the
reason why threads do not damage it.

The search is mechanical.  It finds what functions change: names that are declared `global`, objects
of modules and classes into which code writes or on which it calls a method that changes them, also
those imported from other modules; and objects that exist to be changed, such as locks, caches,
counters and context variables.
"""

import ast
from pathlib import Path

import gpuprop

ROOT = Path(__file__).parent.parent
ONE = "one operation of a dict, list, set or counter, which the interpreter makes whole"
IMPORT = "changed only while modules are imported, under their import locks, and by decorators"
CONTEXT = "each context has its own value"
THREAD = "each thread has its own"
LOCK = "a lock"
COMPILES = "of one compilation, and Numba compiles one function at a time"
CACHE = "a cache of a pure function: two threads may compute one value twice"
LOCKED = "read and changed under "
CALL = "a variable of one call, which no other thread sees"
GRAPH = "a part of one graph, through which only one thread may run backward"

SAFE = {
    "gpuprop._LOADING": LOCK,
    "gpuprop.__getattr__": "globals()[name] is set to the same object by every thread",
    "gpuprop._array.products._best_order": CACHE,
    "gpuprop._array.products._parse_subscripts": CACHE,
    "gpuprop._capture._inside_captured": CONTEXT,
    "gpuprop._capture_reach._is_users": "a cache of where modules are installed",
    "gpuprop_numpy.recorded.active": CONTEXT,
    "gpuprop._capture.capture.captured_steps": LOCKED + "the lock of the captured step",
    "gpuprop._capture_state._is_part": CACHE,
    "gpuprop._core.arena.Arena._padding": CACHE,
    "gpuprop._core.arena.Segment.members": CACHE,
    "gpuprop._core.arena._arena_by_grad": ONE,
    "gpuprop._core.arena._serials": ONE,
    "gpuprop._core.backend.BY_TYPE": LOCKED + "registry._creation_lock; read by one operation",
    "gpuprop._core.backend.Backend._flags": LOCKED + "_flags_lock; read by one operation",
    "gpuprop._core.backend.MULTI_DEVICE": LOCKED + "registry._creation_lock; read by one operation",
    "gpuprop._core.backend._flags_lock": LOCK,
    "gpuprop._core.backend.choices": IMPORT,
    "gpuprop._core.graph._writes": ONE + "; read from a copy",
    "gpuprop._core.dtypes.FLOATING": ONE,
    "gpuprop._core.dtypes.NATIVE": ONE,
    "gpuprop._core.graph._last_write": ONE,
    "gpuprop._core.graph.clock": ONE,
    "gpuprop._core.instances.instances_lock": LOCK,
    "gpuprop._core.instruments.Event.collect.subjects": CALL,
    "gpuprop._core.instruments._module_call": CONTEXT,
    "gpuprop._core.instruments._no_sync": CONTEXT,
    "gpuprop._core.instruments.check_at_once": CONTEXT,
    "gpuprop._core.instruments.collect_modules.called": CALL,
    "gpuprop._core.instruments.leaf_reached": CONTEXT,
    "gpuprop._core.instruments.optimizer_stepped": CONTEXT,
    "gpuprop._core.instruments.parameter_changed": CONTEXT,
    "gpuprop._core.locks._locks": "threads only add; read in a forked process, by its only thread",
    "gpuprop._core.mode._open_blocks": CONTEXT,
    "gpuprop._core.mode.backward_checks": "at worst a warning is issued twice",
    "gpuprop._core.mode.current": CONTEXT,
    "gpuprop._core.draws._taking": CONTEXT,
    "gpuprop._core.pointwise.pointwise.runners": CACHE,
    "gpuprop._core.ops.cache_last.last": GRAPH,
    "gpuprop._core.options._guard": CACHE,
    "gpuprop._core.pointwise.pointwise_op.gradients": IMPORT,
    "gpuprop._core.registry._by_alias": LOCKED + "_creation_lock; read by one operation",
    "gpuprop._core.registry._choice_lock": LOCK,
    "gpuprop._core.registry._classes": LOCKED + "_creation_lock; read by one operation",
    "gpuprop._core.registry._context_backend": CONTEXT,
    "gpuprop._core.registry._creation_lock": LOCK,
    "gpuprop._core.registry._instances": LOCKED + "_creation_lock; read by one operation",
    "gpuprop._core.registry._logged_choices": "at worst a choice is logged twice",
    "gpuprop._core.registry._numbers": ONE,
    "gpuprop._core.registry._process_choice": LOCKED + "_choice_lock; read by one operation",
    "gpuprop._core.registry._thread": THREAD,
    "gpuprop._core.signature._call_of": CACHE,
    "gpuprop._core.spec.definitions": IMPORT,
    "gpuprop._core.spec.portables": IMPORT,
    "gpuprop._core.tensor._add_hook.hooks": ONE + "; backward iterates over a copy",
    "gpuprop._core.tensor.accumulation_lock": LOCK,
    "gpuprop._core.warnings._issued": "at worst a warning is issued twice",
    "gpuprop.data._loader.DataLoader._to_tensors.pending": CALL,
    "gpuprop.data._workers._open_pools": "threads only add; read at the end of the process",
    "gpuprop.diagnosis._summary.summary.outputs": CALL,
    "gpuprop.distributions.kl._registered": ONE,
    "gpuprop.func._per_sample._watch.calls": CALL,
    "gpuprop.nn._loss.LOSSES": IMPORT,
    "gpuprop.nn._hooks.register_hook.hooks": ONE,
    "gpuprop.nn.utils._checkpoint._end.found": GRAPH,
    "gpuprop.nn.utils.parametrize._cache": CONTEXT,
    "gpuprop.random.default_generator": LOCKED + "its own lock",
    "gpuprop.random.stand_in": CONTEXT,
    "gpuprop.testing._checks.check_capture.inputs": CALL,
    "gpuprop.testing._checks.check_hidden.inputs": CALL,
    "gpuprop.testing._checks.check_capture.weights": CALL,
    "gpuprop.testing._checks.run_row.before": CALL,
    "gpuprop.testing._checks.run_row.inputs": CALL,
    "gpuprop.testing.rows._rng": CACHE,
    "gpuprop.verification._builtin_runs.RUNS": IMPORT,
    "gpuprop._core.registry._automatic": "a name, which one import sets",
    "gpuprop.torch.__getattr__": "globals()[name] is set to the same object by every thread",
    "gpuprop.torch._graph._run_again.values": "local to one call",
    "gpuprop.torch._printing.options": "options of the process, as in PyTorch",
    "gpuprop.torch.func.jacrev.call.kept": CALL,
    "gpuprop.torch._serialization.allowed": "context-local",
    "gpuprop.torch._results.default_dtype": "an option of the process, as in PyTorch",
    "gpuprop.torch._tensor._lent": "each key is one parameter, which one thread steps",
    "gpuprop.torch.nn._module.classes": "filled while the module is imported",
    "gpuprop.torch.distributions.__all__": IMPORT,
    "gpuprop.torch.distributions._add_modules": IMPORT,
    "gpuprop.torch.distributions._class_for": IMPORT,
    "gpuprop_cupy._kept_after_fork": "written in a forked process, by its only thread",
    "gpuprop_cupy._probe": CACHE,
    "gpuprop_cupy._probed_by": "every thread writes the same number",
    "gpuprop_cupy.graph.Arena._extents": CACHE,
    "gpuprop_cupy.graph._here": THREAD,
    "gpuprop_cupy.graph._memory_lock": LOCK,
    "gpuprop_cupy.graph._reserved": LOCKED + "_memory_lock",
    "gpuprop_cupy.graph._turns": LOCKED + "_memory_lock",
    "gpuprop_cupy.graph._workspaces": LOCKED + "_memory_lock",
    "gpuprop_cupy.graph.library": CACHE,
    "gpuprop_cupy.namespace._repeated_indices": CACHE,
    "gpuprop_cupy.pointwise._planned.plans": CACHE,
    "gpuprop_cupy.pointwise.compiled.plans": CACHE,
    "gpuprop_cupy.products.Library.gemm": CACHE,
    "gpuprop_cupy.products._handles": THREAD,
    "gpuprop_cupy.products._kind": CACHE,
    "gpuprop_cupy.products._plan": CACHE,
    "gpuprop_cupy.products.library": CACHE,
    "gpuprop_cupy.products.workspace_size": CACHE,
    "gpuprop_numpy.activation.compiled_loops": CACHE,
    "gpuprop_numpy.attention.triangle": CACHE,
    "gpuprop_numpy.attention_loops.attention_loops": CACHE,
    "gpuprop_numpy.compiled.let_forks_wait": "registered twice, forks wait as well",
    "gpuprop_numpy.compiled.njit": CACHE,
    "gpuprop_numpy.convolution.bands": CACHE,
    "gpuprop_numpy.convolution.input_phases": CACHE,
    "gpuprop_numpy.depthwise.slice_loops": CACHE,
    "gpuprop_numpy.elementary.elementary": CACHE,
    "gpuprop_numpy.lstm_loops.lstm_loops": CACHE,
    "gpuprop_numpy.microkernels.microkernels": CACHE,
    "gpuprop_numpy.microkernels.has_avx": CACHE,
    "gpuprop_numpy.microkernels._dot.generate.code": COMPILES,
    "gpuprop_numpy.microkernels._multiply.generate.code": COMPILES,
    "gpuprop_numpy.microkernels._gather.generate.code": COMPILES,
    "gpuprop_numpy.microkernels._tile.generate.code": COMPILES,
    "gpuprop_numpy.scatter.compiled_loop": CACHE,
    "gpuprop_numpy.tiles.tile_loops": CACHE,
    "gpuprop_numpy.memory.keep_freed_memory": CACHE,
    "gpuprop_numpy.compiled._uninterrupted.run.waiting": "only the main thread runs handlers",
    "gpuprop_numpy.convolution.folded_input_grad.dx": "each task writes its own images",
    "gpuprop_numpy.convolution.product.y": "each task writes its own images",
    "gpuprop_numpy.loop_cache.LoopCache._description": CACHE,
    "gpuprop_numpy.planes.geometry": CACHE,
    "gpuprop_numpy.planes.layout": CACHE,
    "gpuprop_numpy.normalization.compiled_loops": CACHE,
    "gpuprop_numpy.pooling_loops.compiled_loops": CACHE,
    "gpuprop_numpy.pooling.find_places": CACHE,
    "gpuprop_numpy.pooling.max_pool.input_grad.dx": "each task writes its own images",
    "gpuprop_numpy.packed_tiles.packed_tile_loops": CACHE,
    "gpuprop_numpy.product_loops.address_loop": CACHE,
    "gpuprop_numpy.product_loops.allocating_loop": CACHE,
    "gpuprop_numpy.product_loops.divided_loop": CACHE,
    "gpuprop_numpy.product_loops.packing": CACHE,
    "gpuprop_numpy.product_loops.part_loop": CACHE,
    "gpuprop_numpy.product_loops.product_loop": CACHE,
    "gpuprop_numpy.product_loops.workspace": CACHE,
    "gpuprop_numpy.microkernels.tile_of_strips": CACHE,
    "gpuprop_numpy.products.has_small_products": CACHE,
    "gpuprop_numpy.products._gram.y": "each task writes its own rows and columns",
    "gpuprop_numpy.row_norm.compiled_loops": CACHE,
    "gpuprop_numpy.spinning._instructions": CACHE,
    "gpuprop_numpy.spinning._machine": "a flag that any thread may set",
    "gpuprop_numpy.spinning._switches": THREAD,
    "gpuprop_numpy.spinning.part_loops": CACHE,
    "gpuprop_numpy.spinning.spin_loops": CACHE,
    "gpuprop_numpy.threads._blas": CACHE,
    "gpuprop_numpy.threads.let_blas_threads_sleep": "it does nothing if there is a second thread",
    "gpuprop_numpy.threads._team": "replaced only in the child of a fork; its lists are changed by "
        "pop and append",
    "gpuprop_numpy.threads._state": THREAD,
}


def modules():
    """{name: syntax tree} of all modules of the library and of its backends."""
    found = {}
    for root, folder in ((ROOT, "gpuprop"), (ROOT / "backends", "")):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


SHARED = set("""ContextVar Event Generator Lock RLock WeakKeyDictionary WeakSet WeakValueDictionary
                _new_rlock count defaultdict deque local new_lock new_rlock""".split())
CACHES = {"cache", "cached_property", "lru_cache"}
CHANGING = {"add", "append", "clear", "discard", "extend", "insert", "move_to_end", "pop",
            "popitem", "remove", "setdefault", "update", "sort", "reverse"}


def called(node):
    """The last part of the name of a function, as in `count` for ``itertools.count()``."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def statements(body):
    """The statements of a module or class, also those inside of `if`, `try`, `with` and `for`."""
    for node in body:
        yield node
        type_checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, ast.If | ast.Try | ast.With | ast.For):
            yield from statements([*([] if type_checking and "not" not in ast.unparse(node.test)
                                     else node.body), *getattr(node, "orelse", [])])


def assigned(node):
    """(name, value) for each name that a statement assigns."""
    if isinstance(node, ast.Assign):
        targets = [t for target in node.targets for t in ast.walk(target)]
        return [(t.id, node.value) for t in targets
                if isinstance(t, ast.Name) and isinstance(t.ctx, ast.Store)]
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        return [(node.target.id, node.value)] if isinstance(node.target, ast.Name) else []
    return []


class Module:
    """The objects of one module that several threads may share, and those that functions change."""

    def __init__(self, name, tree, shared):
        self.name = name
        self.names = {}  # name in this module -> the object's full name
        self.objects = set()  # the full names of what may be an object, and of functions
        self.found = set()  # the full names of objects that exist to be changed
        self.changed = set()  # the full names of what functions change
        for node in statements(tree.body):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gpuprop"):
                for alias in node.names:
                    self.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        self.define(tree.body, name, shared)
        self.visit(tree, name, {}, None)

    def define(self, body, prefix, shared):
        for node in statements(body):
            for target, value in assigned(node):
                full = f"{prefix}.{target}"
                self.names[full.removeprefix(f"{self.name}.")] = full
                self.objects.add(full)
                if isinstance(value, ast.Call) and called(value) in shared:
                    self.found.add(f"{prefix}.{target}")
            if isinstance(node, ast.ClassDef):
                self.names[node.name] = f"{prefix}.{node.name}"
                self.define(node.body, f"{prefix}.{node.name}", shared)
            if isinstance(node, ast.FunctionDef):
                self.objects.add(f"{prefix}.{node.name}")
                if any(called(d) in CACHES for d in node.decorator_list):
                    self.found.add(f"{prefix}.{node.name}")

    def visit(self, node, prefix, variables, cls):
        """Visit the functions inside of a node; `variables` are those of functions around it."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                self.visit(child, f"{prefix}.{child.name}", variables, f"{prefix}.{child.name}")
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                name = f"{prefix}.{getattr(child, 'name', '<lambda>')}"
                own, outer = variables_of(child)
                self.changed |= {f"{self.name}.{n}" for n in outer}
                self.changes(child, name, own, variables, cls)
                self.visit(child, name, variables | dict.fromkeys(own, name), cls)
            else:
                self.visit(child, prefix, variables, cls)

    def changes(self, function, name, own, variables, cls):
        """Find what the code of a function changes, without that of functions inside of it."""
        for node in own_nodes(function):
            target = None
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
                target = node.value
            elif (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
                  and node.func.attr in CHANGING):
                target = node.func.value
            if isinstance(target, ast.Call) and called(target) == "globals":
                self.changed.add(name)
            first, *rest = ast.unparse(target).split(".") if target is not None else [""]
            if first in ("self", "cls"):
                if not rest or cls is None:  # the object itself, such as a dict
                    continue
                first = cls
            elif first in own:
                continue
            elif first in variables and not rest:
                self.found.add(f"{variables[first]}.{first}")
                continue
            self.changed.add(".".join([self.names.get(first, first), *rest]))


def own_nodes(function):
    """The nodes of a function, without those of functions inside of it."""
    stack = list(ast.iter_child_nodes(function))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            stack += ast.iter_child_nodes(node)


def variables_of(function):
    """The names of a function's own variables, and those that it declares `global`."""
    nodes = list(own_nodes(function))
    outer = {n for node in nodes if isinstance(node, ast.Global | ast.Nonlocal)
             for n in node.names}
    own = {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)}
    own |= {node.id for node in nodes
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    declared = {n for node in nodes if isinstance(node, ast.Global) for n in node.names}
    return own - outer, declared


def subclasses_of_shared(trees):
    """The classes of the library that derive from a class in SHARED, or hold a ContextVar."""
    names = {"Event"}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(
                    called(b.value if isinstance(b, ast.Subscript) else b) in {"dict", *SHARED}
                    for b in node.bases):
                names.add(node.name)
    return names


def shared_objects(trees):
    kinds = SHARED | subclasses_of_shared(trees)
    modules = [Module(name, tree, kinds) for name, tree in trees.items()]
    found = set().union(*(module.found for module in modules))
    changed = set().union(*(module.changed for module in modules))
    return found | (changed & set().union(*(module.objects for module in modules)))


def test_every_shared_object_is_listed_with_a_reason():
    found = shared_objects(modules())
    assert not found - SAFE.keys(), (
        f"new state that threads share: {sorted(found - SAFE.keys())}: make it local to a context "
        f"or guard it, and add it to SAFE with the reason why threads do not damage it")
    assert not SAFE.keys() - found, f"no longer there: {sorted(SAFE.keys() - found)}"


def test_no_module_imports_lazy_names_while_it_is_imported_itself():
    """`gpuprop.__getattr__` waits for its lock, whose owner may wait for that module's lock."""
    lazy = gpuprop._MODULES | gpuprop._MODULE_OF.keys()
    for name, tree in modules().items():
        for node in statements(tree.body):
            if isinstance(node, ast.ImportFrom) and node.module == "gpuprop":
                names = {alias.name for alias in node.names} & lazy
                assert not names or name == "gpuprop", f"{name} imports {names}"


def test_the_search_finds_each_kind():
    code = """
import itertools, threading, functools
from contextvars import ContextVar
from gpuprop._core.backend import BY_TYPE
table, names, number, plain = {}, [], 0, {}
counter: object = itertools.count()
lock = threading.Lock()
variable = ContextVar("x")
class Own(dict): ...
own = Own()
table = {}
class Holder:
    kept = []
    def add(self, x):
        Holder.kept.append(x)
@functools.cache
def computed(x): return x
def change(a):
    global number
    number += 1
    table[a] = BY_TYPE[a] = 1
    def inner():
        names.append(a)
    mine = []
    mine.append(a)
    return plain[a]
names = []
"""
    other = "BY_TYPE: dict = {}"
    found = shared_objects({"m": ast.parse(code), "gpuprop._core.backend": ast.parse(other)})
    assert found == {f"m.{n}" for n in (
        "table names number counter lock variable own Holder.kept computed").split()} | {
        "gpuprop._core.backend.BY_TYPE"}
