"""The public names of torch.nn and torch.distributions that gpuprop lacks, with reasons.

A test fails if one of them exists in gpuprop.
"""

from __future__ import annotations


def absent(reason: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


PARALLEL = "there is no training on several devices"
LAZY = "layers are given their sizes; a forward with nn.Module's hooks, or summary(), shows them"
CORRELATIONS = "distributions of covariance and correlation matrices are not implemented"

ABSENT: dict[str, dict[str, str]] = {
    "optim": absent("for tracing a step with torch.fx; capture records steps",
                    "swap_in_optimizer_params_and_state"),
    "lr_scheduler": {}, "swa_utils": {},
    "nn": {
        **absent(PARALLEL, "DataParallel SyncBatchNorm"),
        **absent(LAZY, """
            LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d LazyConv1d LazyConv2d LazyConv3d
            LazyConvTranspose1d LazyConvTranspose2d LazyConvTranspose3d LazyInstanceNorm1d
            LazyInstanceNorm2d LazyInstanceNorm3d LazyLinear UninitializedBuffer
            UninitializedParameter"""),
        **absent("gpuprop's base class of the cells is private", "RNNCellBase"),
        **absent("deprecated in PyTorch: use Sequential or ModuleList", "Container"),
        **absent("deprecated in PyTorch: use NLLLoss", "NLLLoss2d"),
        **absent("Lua Torch's name for LocalResponseNorm", "CrossMapLRN2d"),
        **absent("register_buffer makes a Tensor a buffer", "Buffer"),
        **absent("options of PyTorch's chunked algorithm; gpuprop's has none",
                 "LinearCrossEntropyOptions"),
    },
    "functional": {
        **absent("nothing is computed in place: use the name without _",
                 "celu_ elu_ hardtanh_ leaky_relu_ relu_ rrelu_ selu_ threshold_"),
        **absent("internal: called for return_indices=True", """
            adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices
            adaptive_max_pool3d_with_indices fractional_max_pool2d_with_indices
            fractional_max_pool3d_with_indices max_pool1d_with_indices max_pool2d_with_indices
            max_pool3d_with_indices"""),
        **absent("another name of channel_shuffle", "native_channel_shuffle"),
        **absent("a convolution of (T, N, C): swap the axes and use conv1d", "conv_tbc"),
        **absent("8-bit and grouped matrix products, on CUDA only",
                 "grouped_mm scaled_grouped_mm scaled_mm"),
        **absent("internal", "assert_int_or_pair boolean_dispatch"),
    },
    "utils": {
        **absent("deprecated in PyTorch: use clip_grad_norm_", "clip_grad_norm"),
        **absent("the backend chooses the memory layout", """
            convert_conv2d_weight_memory_format convert_conv3d_weight_memory_format"""),
        **absent("a part of fuse_conv_bn_eval or fuse_linear_bn_eval",
                 "fuse_conv_bn_weights fuse_linear_bn_weights"),
        **absent("there is no device='meta'; initializing a layer takes little time", "skip_init"),
    },
    "init": absent("deprecated in PyTorch: use the name with _", """
        constant dirac eye kaiming_normal kaiming_uniform normal orthogonal sparse uniform
        xavier_normal xavier_uniform"""),
    "distributions": {
        **absent(CORRELATIONS, "CorrCholeskyTransform LKJCholesky Wishart"),
        **absent("its sampler is a loop of unknown length, and Bessel functions are missing",
                 "VonMises"),
    },
    "constraints": {
        **absent("it needs eigenvalues; positive_definite is checked by elimination",
                 "positive_semidefinite"),
    },
    "transforms": {
        **absent(CORRELATIONS, "CorrCholeskyTransform"),
    },
    "kl": {},
}
