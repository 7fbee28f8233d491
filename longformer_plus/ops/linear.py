"""Linear layers by the faster of the two libraries that torch has for them on CPUs.

torch multiplies float32 matrices by MKL, which does without AVX-512 on AMD's processors. oneDNN, which torch has as
well, uses it, and takes half of the time there.

Shapes: N rows in any number of dimensions, I features in, O features out.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .pieces import is_bare

# Of smaller weights, calling oneDNN takes longer than multiplying.
_FEWEST_WEIGHTS = 2**14


def apply_linear(layer: nn.Module, rows: Tensor) -> Tensor:
    """What `layer(rows)` gives, (N, I) -> (N, O).

    A plain linear layer is multiplied by oneDNN where that is faster; all else is called as it is.
    """
    if is_plain_linear(layer) and onednn_is_faster(layer.weight, rows):
        if torch.is_grad_enabled() and (rows.requires_grad or layer.weight.requires_grad or layer.bias.requires_grad):
            result: Tensor = _OneDnnLinear.apply(rows, layer.weight, layer.bias)
            return result
        return multiply(rows, layer.weight, layer.bias)
    return layer(rows)


def multiply(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N, I), (O, I), (O) -> (N, O), `rows @ weight.T + bias` by the faster library.

    Within an autograd function: it is differentiable only while a second derivative is asked for.
    """
    if not torch.is_grad_enabled() and onednn_is_faster(weight, rows):
        return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return F.linear(rows, weight, bias)


def is_plain_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether `module(x)` is nothing but `x @ module.weight.T + module.bias`, so that the weight may be read directly.

    Not so for an adapter, a quantised layer, a layer with hooks, with parametrizations, or with a `forward` of its own
    in the instance (accelerate puts one there), nor where the weight is offloaded (meta), sharded (DTensor) or anything
    else than exactly a Parameter.
    """
    return (
        type(module) is nn.Linear
        and is_bare(module)
        and all(type(p) is nn.Parameter and not p.is_meta for p in (module.weight, module.bias))
    )


def onednn_is_faster(weight: Tensor, rows: Tensor) -> bool:
    """Whether (O, I) weights are better multiplied with (N, I) rows by oneDNN: in float32, on a processor of AMD's."""
    return (
        not torch.compiler.is_compiling()  # first: what follows is not traced
        and _is_amd_with_avx512()
        and type(rows) is Tensor
        and rows.dim() > 1
        and rows.numel() > 0  # oneDNN refuses a product of no rows
        and rows.device.type == weight.device.type == "cpu"
        and rows.dtype == weight.dtype == torch.float32
        and weight.numel() >= _FEWEST_WEIGHTS
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast computes products in on a device; None without autocast."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


@cache
def _is_amd_with_avx512() -> bool:
    # The operator is not public: without it, torch multiplies by itself.
    has_operator = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not has_operator or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    details = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (details.read_text() if details.exists() else platform.processor())


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return multiply(rows, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        rows, weight, _ = inputs
        ctx.save_for_backward(rows, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        for_rows, for_weight, for_bias = ctx.needs_input_grad
        by_row = grad.flatten(0, -2)  # (N, O)
        return (
            multiply(grad, weight.T) if for_rows else None,
            multiply(by_row.T, rows.flatten(0, -2).T) if for_weight else None,
            by_row.sum(0) if for_bias else None,
        )
