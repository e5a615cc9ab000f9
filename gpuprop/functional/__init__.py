"""Differentiable functions, each written once on ``xp``: the namespace speaks PyTorch."""

from gpuprop.autograd import Differentiable
from gpuprop.functional import arithmetic, indexing, products, reduction, shape
from gpuprop.functional import tensor as _tensor
from gpuprop.functional.activation import (
    celu,
    elu,
    gelu,
    glu,
    gumbel_softmax,
    hardshrink,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    log_softmax,
    logsigmoid,
    mish,
    prelu,
    relu,
    relu6,
    rrelu,
    selu,
    silu,
    softmax,
    softmin,
    softplus,
    softshrink,
    softsign,
    tanhshrink,
    threshold,
)
from gpuprop.functional.arithmetic import sigmoid, tanh
from gpuprop.functional.attention import alibi_slopes, scaled_dot_product_attention
from gpuprop.functional.convolution import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    fold,
    unfold,
)
from gpuprop.functional.ctc import ctc_loss
from gpuprop.functional.dropout import (
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
)
from gpuprop.functional.embedding import embedding, embedding_bag
from gpuprop.functional.linear import bilinear, cosine_similarity, linear, normalize, pairwise_distance, pdist
from gpuprop.functional.linear_cross_entropy import linear_cross_entropy
from gpuprop.functional.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cosine_embedding_loss,
    cross_entropy,
    gaussian_nll_loss,
    hinge_embedding_loss,
    huber_loss,
    kl_div,
    l1_loss,
    margin_ranking_loss,
    mse_loss,
    multi_margin_loss,
    multilabel_margin_loss,
    multilabel_soft_margin_loss,
    nll_loss,
    one_hot,
    poisson_nll_loss,
    smooth_l1_loss,
    soft_margin_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from gpuprop.functional.multi_head import multi_head_attention_forward
from gpuprop.functional.normalization import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    local_response_norm,
    rms_norm,
)
from gpuprop.functional.padding import pad
from gpuprop.functional.pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    fractional_max_pool2d,
    fractional_max_pool3d,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
)
from gpuprop.functional.position import rotary_embedding
from gpuprop.functional.resampling import (
    affine_grid,
    channel_shuffle,
    grid_sample,
    interpolate,
    pixel_shuffle,
    pixel_unshuffle,
    upsample,
)

ARRAY_FUNCTIONS = {  # NumPy's names: gpuprop.exp, gpuprop.sum ..., and the xp of Tensors
    name: value
    for module in (arithmetic, shape, indexing, reduction, products)
    for name, value in vars(module).items()
    if callable(value) and value.__module__ == module.__name__ and not name.startswith("_")
}
Differentiable.ops.update(ARRAY_FUNCTIONS)
_tensor.attach()


def __getattr__(name: str) -> object:
    """PyTorch's relu_, elu_ and their like are refused: an op writes into nothing."""
    if name.endswith("_") and name[:-1] in globals():
        raise AttributeError(f"gpuprop.functional has no {name}: nothing is computed in place; use {name[:-1]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
