"""What of torch.nn is not here, by name and reason; a name that is here now fails its test."""

from __future__ import annotations


def because(reason: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


PARALLEL = "training on several devices is not here"
SIZES = "a layer knows its sizes when it is made: one forward with nn.Module's hooks, or summary(), shows them"

ABSENT = {
    "nn": {
        **because(PARALLEL, "DataParallel SyncBatchNorm"),
        **because(SIZES, """
            LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d LazyConv1d LazyConv2d LazyConv3d LazyConvTranspose1d
            LazyConvTranspose2d LazyConvTranspose3d LazyInstanceNorm1d LazyInstanceNorm2d LazyInstanceNorm3d LazyLinear
            UninitializedBuffer UninitializedParameter"""),
        **because("the base of the cells: ours is private", "RNNCellBase"),
        **because("deprecated there: Sequential or ModuleList", "Container"),
        **because("deprecated there: NLLLoss", "NLLLoss2d"),
        **because("the name LocalResponseNorm had in Lua", "CrossMapLRN2d"),
        **because("register_buffer says which Tensors are one", "Buffer"),
        **because("how PyTorch chunks: ours takes some classes at a time, and has nothing to choose",
                  "LinearCrossEntropyOptions"),
    },
    "functional": {
        **because("nothing is computed in place: the name without _",
                  "celu_ elu_ hardtanh_ leaky_relu_ relu_ rrelu_ selu_ threshold_"),
        **because("half of a function with return_indices=True", """
            adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices
            fractional_max_pool2d_with_indices fractional_max_pool3d_with_indices
            max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices"""),
        **because("deprecated there: interpolate", "upsample_bilinear upsample_nearest"),
        **because("another name of channel_shuffle", "native_channel_shuffle"),
        **because("a convolution of (T, N, C): swap the axes for conv1d", "conv_tbc"),
        **because("products of 8 bits and of ragged groups, of CUDA alone", "grouped_mm scaled_grouped_mm scaled_mm"),
        **because("internal", "assert_int_or_pair boolean_dispatch"),
    },
    "utils": {
        **because("deprecated there: clip_grad_norm_", "clip_grad_norm"),
        **because("memory order belongs to the backend",
                  "convert_conv2d_weight_memory_format convert_conv3d_weight_memory_format"),
        **because("a part of fuse_conv_bn_eval or fuse_linear_bn_eval", "fuse_conv_bn_weights fuse_linear_bn_weights"),
        **because("device='meta' is not here: new layers are small change", "skip_init"),
    },
    "init": because("deprecated there: the name with _", """
        constant dirac eye kaiming_normal kaiming_uniform normal orthogonal sparse uniform xavier_normal
        xavier_uniform"""),
}
