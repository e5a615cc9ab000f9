"""PyTorch's samples on which `gpuprop.torch` differs, by name and reason: see refusals.py."""

from __future__ import annotations

from typing import Any

import torch
from refusals import exclude, has_option, is_0d

RANDOM = """Tensor.cauchy_ Tensor.exponential_ Tensor.geometric_
    Tensor.log_normal_ Tensor.normal_ Tensor.uniform_ bernoulli multinomial rand_like
    randint randint_like randn randn_like
    nn.functional.alpha_dropout nn.functional.dropout nn.functional.dropout2d
    nn.functional.dropout3d nn.functional.feature_alpha_dropout nn.functional.fractional_max_pool2d
    nn.functional.fractional_max_pool3d nn.functional.rrelu
    nn.functional.scaled_dot_product_attention nn.functional.multi_head_attention_forward""".split()
FLOATS_ONLY = """avg_pool1d avg_pool2d avg_pool3d cosine_embedding_loss local_response_norm
    margin_ranking_loss pairwise_distance poisson_nll_loss triplet_margin_loss""".split()


def is_integer(sample: Any) -> bool:
    return not tensors(sample)[0].dtype.is_floating_point


def tensors(sample: Any) -> list[torch.Tensor]:
    return [v for v in sample.args if isinstance(v, torch.Tensor)]


def is_bool(sample: Any) -> bool:
    return sample.dtype is torch.bool


def needs_gradient(sample: Any) -> bool:
    return any(t.requires_grad for t in tensors(sample))


def is_part(sample: Any) -> bool:
    """Whether the input is a part of a larger memory."""
    t = sample.args[0]
    return t.untyped_storage().nbytes() != t.numel() * t.element_size()


def has_float_factors(sample: Any) -> bool:
    return is_integer(sample) and isinstance(sample.kwargs.get("beta"), float)


OPS = [
    *exclude("random: the numbers are not PyTorch's", *RANDOM,
             when=lambda sample: sample.dtype in (torch.float64, torch.int64)),
    *exclude("random; its first tensor is written by PyTorch's sample", "normal"),
    *exclude("the memory of empty tensors has any content", "empty", "empty_like", "new_empty",
             "Tensor.new_empty",
             when=lambda sample: sample.dtype in (torch.float64, torch.int64)),
    *exclude("PyTorch has no gradient", "Tensor.acosh_", "Tensor.arccosh_", "Tensor.arcsinh_",
             "Tensor.arctanh_", "Tensor.asinh_", "Tensor.atanh_", when=needs_gradient),
    *exclude("no gradient: singular vectors and orthogonal factors", "i0", "Tensor.i0_",
             "linalg.cond", "linalg.norm", "linalg.pinv", "linalg.qr",
             "linalg.svd", "linalg.svdvals", "norm", "nextafter", "Tensor.nextafter_",
             "pinverse", "qr", "svd", when=needs_gradient),
    *exclude("PyTorch does not specify which of equal elements is found", "kthvalue", "topk",
             when=is_integer),
    *exclude("only the triangle that is read has a gradient", "cholesky_inverse",
             "Tensor.cholesky_inverse", "cholesky_solve", when=needs_gradient),
    *exclude("memory is a tensor's own", "as_strided", when=is_part),
    *exclude("factors of integers are integers", "addbmm", "addmv", "baddbmm",
             "Tensor.addbmm_", "Tensor.addmv_", "Tensor.baddbmm_", when=has_float_factors),
    *exclude("a number is cast after the computation", "linspace",
             when=lambda sample: sample.kwargs.get("dtype") is torch.int64),
    *exclude("a product of bool and number is a number", "addr", "Tensor.addr_", when=is_bool),
    *exclude("a product of bools is a bool", "square", when=is_bool),
    *exclude("a sum over no axis is no sum", "sum_to_size", "Tensor.sum_to_size", when=is_bool),
    *exclude("PyTorch truncates negative powers of integers", "Tensor.__rpow__", when=is_integer),
    *exclude("axes to sum over must have the same size", "tensordot",
             when=lambda sample: 1 in sample.args[0].shape),
    *exclude("an index must have as many axes as the tensor", "gather",
             when=lambda sample: sample.args[0].ndim != sample.args[2].ndim),
    *exclude("a Size is a tuple", "broadcast_shapes"),
    *exclude("the sign of an eigenvector is LAPACK's", "linalg.eigh",
             when=lambda sample: sample.kwargs.get("UPLO") == "U"),
    *exclude("NumPy's ranks and residuals, of one matrix, without a gradient", "linalg.lstsq"),
    *exclude("a determinant near 0 is differentiated by the inverse matrix", "det", "linalg.det",
             "linalg.slogdet", tolerance=1e-6, when=needs_gradient),
    # layers
    *exclude("layers and losses take floats", *[f"nn.functional.{name}" for name in FLOATS_ONLY],
             when=is_integer),
    *exclude("a Python float makes the result a float", "nn.functional.hardtanh", when=is_integer),
    *exclude("a negative eps is refused", "nn.functional.group_norm", "nn.functional.layer_norm",
             "nn.functional.rms_norm", when=lambda sample: (sample.kwargs.get("eps") or 0) < 0),
    *exclude("the test's memory is read-only", "nn.functional.batch_norm",
             "nn.functional.instance_norm",
             when=lambda sample: len(tensors(sample)) > 1 or has_option("running_mean")(sample)),
    *exclude("a layer of PyTorch is an argument",
             "nn.functional.triplet_margin_with_distance_loss"),
    *exclude("PyTorch computes 1/6 in float32", "nn.functional.hardsigmoid", tolerance=1e-7,
             when=lambda sample: not is_0d(sample)),
]
