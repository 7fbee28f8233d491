"""The feed-forward of a layer. Its widest activation is not kept for the backward pass.

Shapes: B batch, N tokens, E hidden size, I intermediate size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import GELUActivation

from .chunking import is_bare
from .int8 import is_bare_int8
from .linear import apply_linear, autocast_dtype, is_plain_linear, multiply


def feed_forward(rows: Tensor, widen: nn.Module, activation: nn.Module, narrow: nn.Module) -> Tensor:
    """Compute `narrow(activation(widen(rows)))`, (B, N, E) -> (B, N, E).

    The output of GELU is a quarter of the activations of a layer. The backward pass computes it again, which takes a
    fortieth of the layer's training step.

    Args:
        rows: (B, N, E).
        widen, narrow: E -> I and I -> E. The weights of a plain linear layer are read; between two int8 layers the
            activation stays in int8; any other module is called.
        activation: (..., I) -> (..., I). A plain GELU is computed here; any other module is called.
    """
    if not torch.compiler.is_compiling() and is_bare_int8(widen) and is_bare_int8(narrow) and is_bare(activation):
        return narrow(widen.activated(rows, activation, narrow.zero_point))
    wide = apply_linear(widen, rows)
    if (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and _is_plain_gelu(activation)
        and is_plain_linear(narrow)
        and _has_one_dtype(wide, narrow)
    ):
        result: Tensor = _GeluLinear.apply(wide, narrow.weight.to(wide.dtype), narrow.bias.to(wide.dtype))
        return result
    return apply_linear(narrow, activation(wide))


def _is_plain_gelu(activation: nn.Module) -> bool:
    return type(activation) is GELUActivation and activation.act is F.gelu and is_bare(activation)


def _has_one_dtype(wide: Tensor, narrow: nn.Linear) -> bool:
    """Whether the product is computed in the dtype of `wide`: that of the weight, or that of autocast."""
    if (dtype := autocast_dtype(wide.device)) is not None:
        return wide.dtype == dtype
    return wide.dtype == narrow.weight.dtype == narrow.bias.dtype


class _GeluLinear(torch.autograd.Function):
    """`gelu(wide) @ weight.T + bias`, (B, N, I) -> (B, N, E). Of the activations only `wide` is kept."""

    @staticmethod
    def forward(wide: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return multiply(F.gelu(wide), weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        wide, weight, _ = inputs
        ctx.save_for_backward(wide, weight)
        ctx.save_for_forward(wide, weight)

    @staticmethod
    def jvp(ctx: Any, wide_tangent: Tensor, weight_tangent: Tensor, bias_tangent: Tensor) -> Tensor:
        wide, weight = ctx.saved_for_forward
        activated_tangent = torch.ops.aten.gelu_backward(wide_tangent, wide)  # the tangent times GELU's slope
        return F.linear(activated_tangent, weight, bias_tangent) + F.linear(F.gelu(wide), weight_tangent)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        wide, weight = ctx.saved_tensors
        for_wide, for_weight, for_bias = ctx.needs_input_grad
        by_row = grad.flatten(0, -2)
        grad_wide = grad_weight = None
        if for_weight:
            grad_weight = multiply(by_row.T, F.gelu(wide).flatten(0, -2).T)
        if for_wide:
            grad_wide = torch.ops.aten.gelu_backward(multiply(grad, weight.T), wide)
        return grad_wide, grad_weight, by_row.sum(0) if for_bias else None
