"""Attention in heads with every option against PyTorch's, gradients of two orders: op_db has it with dropout only."""

import itertools
from typing import Any

import pytest
import torch
from compare import quietly, same_function
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import make_tensor

import gpuprop.functional as F

N, L, S, E, HEADS = 2, 3, 4, 6, 2


@pytest.fixture(autouse=True)
def twice_differentiable():
    """Of PyTorch's versions of attention only one is."""
    torch.manual_seed(0)
    with sdpa_kernel(SDPBackend.MATH):
        yield


def draw(*shape: int) -> torch.Tensor:
    return make_tensor(shape, dtype=torch.float64, device="cpu", requires_grad=True, low=-1, high=1)


def mask(kind: str, *shape: int) -> torch.Tensor | None:
    """What is not seen, never all of it."""
    if kind == "none":
        return None
    hidden = torch.rand(shape) < 0.3
    hidden[..., 0] = False
    return hidden if kind == "bool" else draw(*shape)


MASKS = ["none", "bool", "float"]
FORMS = ["self", "cross", "apart", "separate"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attn", ["none", "bool 2", "float 2", "bool 3", "float 3"])
@pytest.mark.parametrize("padding", MASKS)
def test_masks_and_projections(form: str, attn: str, padding: str) -> None:
    for batched, need_weights, more in itertools.product((True, False), (True, False), (True, False)):
        compare(form, attn, padding, batched, need_weights, more)


def compare(form: str, attn: str, padding: str, batched: bool, need_weights: bool, more: bool) -> None:
    n, s = (N if batched else 1), (L if form == "self" else S)
    tensor = lambda length, features: draw(*(length, n, features)[::1 if batched else 2])
    query = tensor(L, E)
    key = query if form == "self" else tensor(S, 5 if form == "separate" else E)
    value = key if form in ("self", "cross") else tensor(S, 4 if form == "separate" else E)
    kind, _, axes = attn.partition(" ")
    options: dict[str, Any] = {"need_weights": need_weights, "average_attn_weights": not more,
                               "attn_mask": mask(kind, *[n * HEADS] * (axes == "3"), L, s),
                               "key_padding_mask": mask(padding, *[n] * batched, s)}
    if form == "separate":
        options |= {"use_separate_proj_weight": True, "q_proj_weight": draw(E, E), "k_proj_weight": draw(E, 5),
                    "v_proj_weight": draw(E, 4)}
    args = (query, key, value, E, HEADS, None if form == "separate" else draw(3 * E, E), draw(3 * E) if more else None,
            draw(1, 1, E) if more else None, draw(1, 1, E) if more else None, more, 0.0, draw(E, E), draw(E))
    same_function(torch.nn.functional.multi_head_attention_forward, F.multi_head_attention_forward, args, options,
                  second=not more)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padding", MASKS)
def test_causal(need_weights: bool, padding: str) -> None:
    x, causal = draw(L, N, E), torch.nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64)
    args = (x, x, x, E, HEADS, draw(3 * E, E), None, None, None, False, 0.0, draw(E, E), None)
    options = {"need_weights": need_weights, "attn_mask": causal, "is_causal": True,
               "key_padding_mask": mask(padding, N, L)}
    same_function(torch.nn.functional.multi_head_attention_forward, F.multi_head_attention_forward, args, options)


@pytest.mark.parametrize("need_weights", [True, False])
def test_static_keys(need_weights: bool) -> None:
    x, static = draw(L, N, E), lambda: draw(N * HEADS, S, E // HEADS)
    args = (x, draw(S, N, E), draw(S, N, E), E, HEADS, draw(3 * E, E), None, None, None, True, 0.0, draw(E, E), None)
    options = {"need_weights": need_weights, "static_k": static(), "static_v": static(), "attn_mask": draw(L, S)}
    same_function(torch.nn.functional.multi_head_attention_forward, F.multi_head_attention_forward, args, options)


@pytest.mark.parametrize("need_weights", [True, False])
def test_nothing_is_seen(need_weights: bool) -> None:
    """The weights of a query that sees nothing are NaN; without weights its output is that of zeros, and so is its
    gradient.  (PyTorch's gradients are NaN everywhere with weights, ours where NaN was multiplied.)
    """
    hidden = torch.eye(L) < 1
    hidden[1] = True
    x, w_in, b_in, w_out, b_out = (
        draw(*shape).requires_grad_(not need_weights) for shape in ((L, N, E), (3 * E, E), (3 * E,), (E, E), (E,)))
    args = (x, x, x, E, HEADS, w_in, b_in, None, None, False, 0.0, w_out, b_out)
    quietly(same_function, torch.nn.functional.multi_head_attention_forward, F.multi_head_attention_forward, args,
            {"need_weights": need_weights, "attn_mask": hidden})
