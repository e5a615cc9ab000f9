"""What PyTorch has and this package has not: the reasons, and what to write in place.

The table names kinds of names by patterns.  It is read when an attribute is missing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import NoReturn

# (what names match, in whole; what is absent and why; what to write)
REASONS: list[tuple[str, str, str]] = [
    (r"vmap|stack_module_state", "functions are not vectorized, since ops take whole batches",
     "call f with the batch, or torch.stack([f(x) for x in batch]); "
     "gpuprop.func.per_sample_gradients finds the gradient of each sample by one backward"),
    (r"replace_all_batch_norm_modules_", "it prepares a model for vmap",
     "construct batch norms with track_running_stats=False"),
    (r"linearize", "functions are not traced", "call torch.func.jvp for each tangent"),
    (r"rearrange", "dimensions are no objects", "use x.permute and x.reshape, or einops.rearrange"),
    (r"warnings|sys|os|math|inspect|importlib|glob|ctypes|builtins|functools|platform|textwrap"
     r"|threading|types|copyreg|weakref|dataclasses|np|torch|Optional|TYPE_CHECKING|Tensor|m"
     r"|(r|R)eproducibility_notes|sparse_support_notes|tf32_notes|common_notes",
     "it is not a part of PyTorch's interface", "import the module itself"),
    (r".*quantiz.*|q(u)?int\d.*|Q(U)?Int\d.*|qscheme|q_.*|per_(channel|tensor)_.*|fbgemm_.*"
     r"|int_repr|choose_qparams.*|qat|intrinsic|.*fake_quant.*|bit|bits\w*|u?int[1-7]|float[48]_.*"
     r"|grouped_mm|scaled_mm|scaled_grouped_mm|ScalingType|SwizzleType|ao|to_mkldnn",
     "there are no quantized types", "use float16 or bfloat16: torch.autocast"),
    (r".*sparse.*|.*_(csr|csc|bsr|bsc|coo)(_.*)?|is_coalesced|coalesce|(h|d|s|ss|sp|ssp"
     r"|sa)*(spmm|smm"
     r"|mm|addmm|paddmm)|saddmm|dsmm|hsmm|hspmm|(c?col|c?row|crow)_indices(_copy)?|dense_dim"
     r"|to_dense"
     r"|values(_copy)?|indices(_copy)?|cusparselt",
     "there are no sparse tensors", "use dense tensors with index_add or scatter_add"),
    (r"complex\w*|c(float|double|half)|view_as_(real|complex)(_copy)?|imag|polar|i?stft|fft|eig"
     r"|eigvals|Complex\w*|conj_physical_",
     "there are no complex numbers", "keep real and imaginary parts in two tensors, or use np.fft "
     "and np.linalg on x.numpy()"),
    (r"jit|.*Script.*|compiler|export|fx|import_ir_module.*|parse_.*|.*Graph|Graph.*|FileCheck"
     r"|CompilationUnit|.*Type|Argument\w*|Block|Code|CallStack|ConcreteModule\w*|ExecutionPlan"
     r"|FunctionSchema|Gradient|IODescriptor|JIT\w*|LockingLogger|LoggerBase|NoopLogger|Node|Tag"
     r"|TracingState|Use|Value|StaticModule|AliasDb|Capsule|CompleteArgumentSpec|classes|ops"
     r"|library|cond|while_loop|Aggregation\w*|SUM|AVG|DeepCopyMemoTable"
     r"|\w*[sS]erializationStorageCont"
     r"ext|PyTorchFile\w+|merge_type_from_type_comment|unify_type_list|Operator\w*|ErrorReport"
     r"|FatalError|boolean_dispatch|BroadcastingList\d|DType|get_file_path|get_allocator_backend"
     r"|package|torch_version"
     r"|typed|classproperty|return_types|BufferDict|Dispatch\w*|ExcludeDispatchKeyGuard"
     r"|.*[rR]untime"
     r"Context|InferredType|DisableTorchFunction\w*|functionalize|debug_unwrap"
     r"|has_torch_function.*|handle_torch_function|overrides|assert_int_or_pair|prepare_multi.*"
     r"|factory_kwargs|common_types|NestedIOFunction|enforce_grad_layout_policy",
     "Python code is not compiled", "call the function itself, or record whole training steps by "
     "gpuprop.capture"),
    (r"SyncBatchNorm|.*RRef.*|futures?|fork|wait|Future"
     r"|nccl|is_distributed|monitor|Await\w*|GraphExecGroup",
     "there is no training on several devices", "train on one device, with larger batches by "
     "accumulated gradients"),
    (r".*_copy|.*_copy_|native_.*|cudnn.*|miopen.*|mkldnn_.*|batch_norm_(back|elem|gath|stat|upd).*"
     r"|sym_.*|Sym\w*|.*_with_indices|convolution|conv_tbc|(rnn_(relu|tanh)|gru|lstm)(_cell)?"
     r"|embedding_renorm_|norm_except_dim|segment_reduce|hash_tensor|nonzero_static|alias.*"
     r"|affine_grid_generator|grid_sampler.*|feature_dropout_?|PRIVATE_OPS|USE_\w+"
     r"|.*autocast_cache.*"
     r"|autocast_(in|de)crement_nesting|(get|set|is)_autocast_(cpu|gpu|ipu|xla).*|set_autocast_\w+"
     r"|legacy_contiguous_format|reinforce|unsafe_.*|slice_inverse|fill|record_stream|grad_dtype"
     r"|as_subclass|module_load|const_data_ptr|init_num_threads|is_anomaly_check_nan_enabled"
     r"|is_deterministic_algorithms_warn_only_enabled|compiled_with_cxx11_abi|has_(lapack|mkl"
     r"|openmp"
     r"|spectral|half|magma)|utils_internal|thread_safe_generator|cmake_prefix_path"
     r"|.*backend_registr"
     r"ation|.*privateuse1.*|set_module|swap_.*|backcompat|cpp_backtrace|get_cpp_backtrace"
     r"|throughput_benchmark|ThroughputBenchmark|BenchmarkConfig|BenchmarkExecutionStats|weak|hooks"
     r"|deterministic|dlpack|collect_env|cpp|functional|set_multithreading_enabled"
     r"|channel_shuffle|GRID_SAMPLE_\w+|get_device_module|empty_(permuted|strided|quantized)"
     r"|new_empty_strided|as_strided_(scatter)?|conv2d_weight.*|convert_.*|fuse_\w+|skip_init"
     r"|stateless"
     r"|(check_backward|detach_variable|(get|set)_device_states|noop_context_fn)\w*|Checkpoint\w*"
     r"|set_checkpoint\w*|DefaultDeviceType|.*SelectiveCheckpoint\w*|create_selective\w*|SAC_\w+"
     r"|attention|grad|LinearCrossEntropyOptions|is_lazy|mha|opt_einsum|python_native|kleidiai",
     "it is internal to PyTorch", "call the public function or layer"),
    (r".*Storage|StorageBase|storage_type|storage|resize|resize_as|resize_as_sparse_|from_file",
     "memory is no object of its own", "x.data_ptr(), x.nbytes and x.untyped_storage().nbytes() "
     "answer questions about it"),
    (r"mtia|ipu|xla|is_vulkan_available|maia|hpu|xpu|cpu|nnpack|miopen|compile_shader"
     r"|load_metallib",
     "arrays are on CPUs and NVIDIA GPUs", "torch.device('cuda')"),
    (r"Lazy\w+|Uninitialized\w+",
     "layers are given their sizes", "gpuprop.summary(model, shape) shows them"),
    (r"nested|jagged|to_padded_tensor|masked|NestedTensor",
     "there are no nested or masked tensors", "pad, and pass a mask"),
    (r"lu|lu_\w+|geqrf|or(g|m)qr|householder_product|ldl_\w+|lobpcg|(svd|pca)_lowrank|matrix_exp"
     r"|tensor(inv|solve)|\w+_ex|matrix_rank|symeig|solve|lstsq",
     "it is not in torch.linalg here, or was removed from PyTorch",
     "use torch.linalg (solve, inv, cholesky, eigh, svd), or scipy.linalg on x.numpy()"),
    (r"(bessel|airy|modified|scaled|spherical|chebyshev|shifted|hermite|laguerre|legendre)_\w+|i0e"
     r"|i1e?|erfcx|gammainc|gammaincc|igamma(c)?_?|zeta|frexp",
     "it has no gradient and few programs use it", "use scipy.special on x.numpy()"),
    (r"\w*[sS]tream\w*|CUDA\w+|Cuda\w+|cuda\w+|Event|current_(blas|solver)_handle|graphs?"
     r"|graph_pool_handle|.*graphed.*|.*MemPool|use_mem_pool|caching_allocator_\w+|.*[aA]llocator"
     r"|.*sync_debug_mode|check_error|jiterator|tunable|nvtx|DeferredCudaCallError"
     r"|default_generators"
     r"|is_current_stream_capturing|GreenContext|Device\w+",
     "work runs on one stream per device",
     "gpuprop.capture records a training step as a CUDA graph"),
    (r"profiler.*|memory(_\w+)?|mem_get_info|empty_host_cache|.*memory.*|temperature|utilization"
     r"|power_draw|clock_rate"
     r"|list_gpu_processes|host_memory\w+|reset_\w+|max_memory\w+|OutOfMemoryError|AcceleratorError"
     r"|get_(arch_list|gencode_flags)|can_device_access_peer|is_tf32_supported|device_of"
     r"|device_index|current_device_idx|set_device_idx|.*rng_state.*|seed(_all)?|init"
     r"|is_initialized"
     r"|is_bf16_supported|initial_seed|(current_device|device|set_device|get_device_\w+)",
     "the library of the device does not report it here",
     "torch.cuda has what can be asked; nvidia-smi and nsys show the rest"),
    (r"quasirandom", "there are no quasirandom sequences", "use scipy.stats.qmc"),
    (r"testing|assert_\w+|make_tensor", "tests of arrays are NumPy's",
     "numpy.testing.assert_allclose(x.numpy(), y.numpy())"),
    (r"gradcheck|gradgradcheck", "gradients are checked by the test kit",
     "gpuprop.testing.check_grad"),
    (r"\w*DataPipe\w*|DataChunk|functional_datapipe|argument_validation|runtime_validation\w*"
     r"|(non|guaranteed_datapipes)_determin\w+",
     "data pipes were removed from PyTorch", "use Dataset, IterableDataset and DataLoader"),
    (r"amp_definitely_not_available", "mixed precision is always available", "use torch.amp"),
    (r"ModuleDict|ParameterDict|embedding_bag", "it belongs to torch.nn",
     "use torch.nn or torch.nn.functional"),
    (r"Container|NLLLoss2d|CrossMapLRN2d|clip_grad_norm|upsample_(bilinear|nearest)|storage_offset_"
     r"|(uniform|normal|constant|eye|dirac|xavier_\w+|kaiming_\w+|orthogonal)",
     "it is an old name in PyTorch", "use Sequential, NLLLoss, LocalResponseNorm, interpolate, and "
     "the name with a trailing underscore"),
    (r"RNNCellBase|Buffer", "the class is private here",
     "inherit from nn.Module, and use register_buffer"),
    (r"(index|scatter)_reduce_?|histogramdd|signal|hub|windows|mode_|map2_|volatile_|index"
     r"|to_dlpack|gradient",
     "few programs use it", "write it by index_add, scatter_reduce, amax, or NumPy on x.numpy()"),
    (r"VonMises|Wishart|LKJCholesky|CorrCholeskyTransform",
     "distributions of matrices and angles are not implemented", "use scipy.stats"),
]


# Attributes of Tensor whose absence has a reason.  A `__getattr__` of Tensor would cost time when a
# slot is empty.
OF_TENSOR = """as_strided_ as_strided_scatter as_subclass ccol_indices cdouble cfloat chalf coalesce
    col_indices conj_physical_ const_data_ptr crow_indices dense_dim dequantize eig frexp geqrf
    grad_dtype hash_tensor igamma igamma_ igammac igammac_ imag index index_reduce index_reduce_
    indices int_repr ipu is_coalesced istft lstsq lu lu_solve map2_ matrix_exp module_load mtia
    narrow_copy new_empty_strided nonzero_static orgqr ormqr q_per_channel_axis
    q_per_channel_scales q_per_channel_zero_points q_scale q_zero_point qscheme record_stream
    reinforce resize resize_as resize_as_sparse_ row_indices slice_inverse smm solve sparse_dim
    sparse_mask sparse_resize_ sparse_resize_and_clear_ sspaddmm stft storage_type symeig to_dense
    to_mkldnn to_padded_tensor to_sparse to_sparse_bsc to_sparse_bsr to_sparse_coo to_sparse_csc
    to_sparse_csr unsafe_split unsafe_split_with_sizes values xpu""".split()


class AbsentAttribute:
    """An attribute that tells why it is absent."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise missing("Tensor", self.name, ())


def reason(name: str) -> tuple[str, str] | None:
    """Why a public name of PyTorch is absent, and what to write."""
    for pattern, why, remedy in REASONS:
        if re.fullmatch(pattern, name):
            return why, remedy
    return None


def missing(owner: str, name: str, known: Iterable[str]) -> AttributeError:
    """The error for an attribute that `owner` lacks; `known` are the names that it has."""
    hint = ""
    if not name.startswith("_"):
        import difflib

        found = reason(name)
        close = difflib.get_close_matches(name, known, 1)
        if found:
            hint = f": {found[0]}; {found[1]}"
        elif close:
            hint = f". Did you mean: {close[0]!r}?"
    return AttributeError(f"{owner} has no attribute {name!r}{hint}")


def explained(module: str) -> Callable[[str], NoReturn]:
    """The `__getattr__` of a module whose missing names have reasons."""

    def __getattr__(name: str) -> NoReturn:
        error = missing(f"module {module!r}", name, vars(sys.modules[module]))
        if f"{module}.{name}" not in sys.modules and _imports_from(sys._getframe(1)):
            raise ImportError(str(error), name=module)
        raise error

    return __getattr__


def _imports_from(frame: FrameType) -> bool:
    """True in ``from module import name``, which replaces an AttributeError by its own error."""
    import opcode

    while frame.f_code.co_name == "__getattr__" and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_code[frame.f_lasti] == opcode.opmap["IMPORT_FROM"]
