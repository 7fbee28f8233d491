"""Linear layers on CPUs, by the faster of torch's two libraries.

torch multiplies float32 matrices with MKL, which does not use AVX-512 on AMD processors. oneDNN, also part of torch,
does, and takes half the time.

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

from .chunking import is_bare
from .int8 import QuantizedRows
from .int8_weights import Int8WeightLinear

# With fewer weights, the call of oneDNN takes longer than the multiplication.
_FEWEST_WEIGHTS = 2**14


def apply_linear(layer: nn.Module, rows: Tensor | QuantizedRows) -> Tensor:
    """Compute `layer(rows)`, (N, I) -> (N, O).

    A plain linear layer runs on oneDNN where that is faster. Any other module is called; what `quantize_once` has
    quantised is for int8 layers.
    """
    if isinstance(rows, Tensor) and is_plain_linear(layer) and onednn_is_faster(layer.weight, rows):
        if torch.is_grad_enabled() and (rows.requires_grad or layer.weight.requires_grad or layer.bias.requires_grad):
            result: Tensor = _OneDnnLinear.apply(rows, layer.weight, layer.bias)
            return result
        return multiply(rows, layer.weight, layer.bias)
    return layer(rows)


def multiply(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N, I), (O, I), (O) -> (N, O), `rows @ weight.T + bias` by the faster library.

    For use inside an autograd function: it is differentiable only while gradients are enabled.
    """
    if not torch.is_grad_enabled() and onednn_is_faster(weight, rows):
        return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return F.linear(rows, weight, bias)


def is_plain_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether `module(x)` is exactly `x @ module.weight.T + module.bias`, so that the weight may be read directly.

    False for adapters, for quantised layers, and for layers with hooks, parametrizations or a replaced `forward` (as
    accelerate sets one). False also if the weight is offloaded (meta), sharded (DTensor) or a subclass of Parameter.
    """
    return (
        type(module) is nn.Linear
        and is_bare(module)
        and all(type(p) is nn.Parameter and not p.is_meta for p in (module.weight, module.bias))
    )


def plain_weights(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """The weight (O, I) and the bias (O) of a layer that is exactly their product and sum, of `is_plain_linear`.

    A weight that is kept in int8 is made float. None for all other modules.
    """
    if is_plain_linear(module):
        return module.weight, module.bias
    if type(module) is Int8WeightLinear and is_bare(module) and not module.weight.is_meta:
        return module.float_weight(), module.bias
    return None


def onednn_is_faster(weight: Tensor, rows: Tensor) -> bool:
    """Whether oneDNN multiplies (N, I) rows by (O, I) weights faster: in float32, on an AMD processor."""
    return (
        not torch.compiler.is_compiling()  # first: the other conditions cannot be traced
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
    """The dtype in which autocast multiplies on a device; None without autocast."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


@cache
def _is_amd_with_avx512() -> bool:
    # The operator is not public. A torch without it uses its default library.
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
        ctx.save_for_forward(rows, weight)

    @staticmethod
    def jvp(ctx: Any, rows_tangent: Tensor, weight_tangent: Tensor, bias_tangent: Tensor) -> Tensor:
        rows, weight = ctx.saved_for_forward
        return F.linear(rows_tangent, weight, bias_tangent) + F.linear(rows, weight_tangent)

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
