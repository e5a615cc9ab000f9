"""PyTorch's functions by gpuprop's: each has PyTorch's name, arguments and meaning.

Those whose first parameter is `input` are methods of Tensor, too.
"""

from gpuprop.torch._failures import explain_all
from gpuprop.torch._functions import (
    _creation,
    _elementwise,
    _indices,
    _matrices,
    _orders,
    _products,
    _random,
    _reductions,
    _shapes,
)
from gpuprop.torch._functions._creation import *
from gpuprop.torch._functions._elementwise import *
from gpuprop.torch._functions._indices import *
from gpuprop.torch._functions._matrices import *
from gpuprop.torch._functions._orders import *
from gpuprop.torch._functions._products import *
from gpuprop.torch._functions._random import *
from gpuprop.torch._functions._reductions import *
from gpuprop.torch._functions._shapes import *

__all__: list[str] = []
for _module in (_creation, _elementwise, _indices, _matrices, _orders, _products, _random,
                _reductions, _shapes):
    __all__ += _module.__all__
explain_all(globals(), __all__)

LAYERS = """
    adaptive_avg_pool1d adaptive_max_pool1d alpha_dropout avg_pool1d batch_norm bilinear
    binary_cross_entropy_with_logits celu channel_shuffle conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d cosine_embedding_loss cosine_similarity ctc_loss dropout
    embedding feature_alpha_dropout group_norm hinge_embedding_loss instance_norm kl_div
    layer_norm margin_ranking_loss max_pool1d max_pool2d max_pool3d pairwise_distance pdist
    pixel_shuffle pixel_unshuffle poisson_nll_loss rms_norm rrelu selu threshold
    triplet_margin_loss
""".split()  # the names of _layers, which is imported at their first use
