"""Multi-head attention with every option against PyTorch, with gradients of first and second order.

PyTorch's op_db covers it with dropout only.
"""

import itertools
from typing import Any

import pytest
import torch
from compare import compare_functions
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import make_tensor

import gpuprop.functional as F

N, L, S, E, HEADS = 2, 3, 4, 6, 2


@pytest.fixture(autouse=True)
def twice_differentiable():
    """Use the only one of PyTorch's attention kernels that is."""
    torch.manual_seed(0)
    with sdpa_kernel(SDPBackend.MATH):
        yield


def draw(*shape: int) -> torch.Tensor:
    return make_tensor(shape, dtype=torch.float64, device="cpu", requires_grad=True, low=-1, high=1)


def mask(kind: str, *shape: int) -> torch.Tensor | None:
    """A random mask that leaves the first key visible."""
    if kind == "none":
        return None
    hidden = torch.rand(shape) < 0.3
    hidden[..., 0] = False
    return hidden if kind == "bool" else draw(*shape)


MASKS = ["none", "bool", "float"]
FORMS = ["self", "cross", "three inputs", "separate weights"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attn", ["none", "bool 2", "float 2", "bool 3", "float 3"])
@pytest.mark.parametrize("padding", MASKS)
def test_masks_and_projections(form: str, attn: str, padding: str) -> None:
    for batched, need_weights, biases in itertools.product((True, False), repeat=3):
        check(form, attn, padding, batched, need_weights, biases)


def check(form: str, attn: str, padding: str, batched: bool, need_weights: bool,
          biases: bool) -> None:
    """With `biases` also add_zero_attn, and weights per head; without, second-order gradients."""
    n, s = (N if batched else 1), (L if form == "self" else S)
    separate = form == "separate weights"

    def tensor(length: int, features: int) -> torch.Tensor:
        return draw(length, n, features) if batched else draw(length, features)

    query = tensor(L, E)
    key = query if form == "self" else tensor(S, 5 if separate else E)
    value = key if form in ("self", "cross") else tensor(S, 4 if separate else E)
    kind, _, axes = attn.partition(" ")
    attn_shape = (n * HEADS, L, s) if axes == "3" else (L, s)
    padding_shape = (n, s) if batched else (s,)
    options: dict[str, Any] = {
        "need_weights": need_weights,
        "average_attn_weights": not biases,
        "attn_mask": mask(kind, *attn_shape),
        "key_padding_mask": mask(padding, *padding_shape),
    }
    if separate:
        options |= {
            "use_separate_proj_weight": True,
            "q_proj_weight": draw(E, E),
            "k_proj_weight": draw(E, 5),
            "v_proj_weight": draw(E, 4),
        }
    optional = lambda *shape: draw(*shape) if biases else None
    in_proj_weight = None if separate else draw(3 * E, E)
    args = (query, key, value, E, HEADS, in_proj_weight, optional(3 * E), optional(1, 1, E),
            optional(1, 1, E), biases, 0.0, draw(E, E), draw(E))
    compare(args, options, second=not biases)


def compare(args: tuple, options: dict[str, Any], **how: Any) -> None:
    theirs = torch.nn.functional.multi_head_attention_forward
    compare_functions(theirs, F.multi_head_attention_forward, args, options, **how)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padding", MASKS)
def test_causal(need_weights: bool, padding: str) -> None:
    x = draw(L, N, E)
    causal = torch.nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64)
    args = (x, x, x, E, HEADS, draw(3 * E, E), None, None, None, False, 0.0, draw(E, E), None)
    compare(args, {"need_weights": need_weights, "attn_mask": causal, "is_causal": True,
                   "key_padding_mask": mask(padding, N, L)})


@pytest.mark.parametrize("need_weights", [True, False])
def test_static_keys(need_weights: bool) -> None:
    x, key, value = draw(L, N, E), draw(S, N, E), draw(S, N, E)
    static = lambda: draw(N * HEADS, S, E // HEADS)
    args = (x, key, value, E, HEADS, draw(3 * E, E), None, None, None, True, 0.0, draw(E, E), None)
    compare(args, {"need_weights": need_weights, "static_k": static(), "static_v": static(),
                   "attn_mask": draw(L, S)})


@pytest.mark.parametrize("need_weights", [True, False])
def test_query_without_keys(need_weights: bool) -> None:
    """A query whose keys are all hidden gives zeros; PyTorch gives NaN if it returns weights."""
    hidden = torch.eye(L) < 1
    hidden[1] = True
    shapes = (L, N, E), (3 * E, E), (3 * E,), (E, E), (E,)
    x, w_in, b_in, w_out, b_out = (draw(*shape).requires_grad_() for shape in shapes)
    args = (x, x, x, E, HEADS, w_in, b_in, None, None, False, 0.0, w_out, b_out)
    theirs = torch.nn.functional.multi_head_attention_forward
    compare_functions(
        lambda *args, **options: theirs(*args, **options | {"need_weights": False})[0],
        lambda *args, **options: F.multi_head_attention_forward(*args, **options)[0],
        args, {"attn_mask": hidden, "need_weights": need_weights})
