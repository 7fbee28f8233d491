"""Linear layers in int8 on CPUs: weights quantised once for each output, activations as they come, for each token.

The product of the integers runs on oneDNN's quantised linear, where torch has it and it is exact on this processor.
Elsewhere a float product of the same integers gives the same numbers, without being faster.

Shapes: B batch, N tokens, R rows in any number of dimensions, I features in, O features out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .chunking import is_bare
from .int8_weights import round_rows
from .processor import multiplies_bfloat16

# Which of the 256 levels of a token's activations is zero. Zero is always a level of its own: most outputs of GELU are
# nearly zero, and the same error in all of them would add up.
CENTRED = 128
# GELU and its likes give nothing below -0.3. On the checkpoint of the package any of 16 to 32 is as good as a level
# that is chosen for each token, which would need a correction of each output.
ONE_SIDED = 24
# The step between the levels of a token whose activations are all zero.
_SMALLEST_STEP = 1e-12
# What a thread reads several times over before it goes on: about the size of a core's own cache.
_CACHED_BYTES = 2**20

_packing = threading.Lock()


class QuantizedRows(NamedTuple):
    """Activations in int8: `(values - zero_point) * step`.

    Attributes:
        values: (R, I) uint8.
        step: (R, 1) float32, between two levels.
        zero_point: the level that is zero, the same for all rows.
        shape: of the rows before, (..., I).
    """

    values: Tensor
    step: Tensor
    zero_point: int
    shape: torch.Size


def quantize_rows(rows: Tensor, zero_point: int = CENTRED) -> QuantizedRows:
    """Quantise each row by itself, so that its result does not depend on the others.

    Args:
        rows: (..., I). A row with a value that is not finite gives a row of results that are not finite.
        zero_point: 1 to 254: how many levels are below zero.
    """
    flat = rows.reshape(-1, rows.shape[-1])
    result = _unfilled(flat, zero_point, rows.shape)
    for part in _parts(flat):
        _quantize(flat[part], result, part)
    return result


def _unfilled(flat: Tensor, zero_point: int, shape: torch.Size) -> QuantizedRows:
    values = torch.empty_like(flat, dtype=torch.uint8, memory_format=torch.contiguous_format)
    return QuantizedRows(values, flat.new_empty(len(flat), 1, dtype=torch.float32), zero_point, shape)


def _parts(flat: Tensor) -> Iterator[slice]:
    """Consecutive rows of (R, I) that caches hold as float32."""
    size = max(_CACHED_BYTES * torch.get_num_threads() // (4 * max(flat.shape[1], 1)), 1)
    return (slice(start, start + size) for start in range(0, len(flat), size))


def _quantize(rows: Tensor, into: QuantizedRows, part: slice) -> None:
    """Quantise (r, I) rows into a part of (R, I)."""
    rows, zero_point = rows.float(), into.zero_point
    highest, lowest = rows.amax(-1, keepdim=True), rows.amin(-1, keepdim=True)
    step = torch.maximum(highest / (255 - zero_point), lowest / -zero_point).clamp_(min=_SMALLEST_STEP)
    # Conversion to integers drops the fraction, so that half a level more rounds. torch's loops are vectorised with one
    # factor of a row but not with a single number beside it, and to 16 bits but not from float to 8.
    half = rows.new_full((rows.shape[1],), zero_point + 0.5)
    into.values[part] = torch.addcmul(half, rows, step.reciprocal()).to(torch.int16)
    into.step[part] = step


def quantize_once(rows: Tensor, *layers: nn.Module) -> Tensor | QuantizedRows:
    """The (B, N, E) input of several layers: quantised if all of them are int8 layers that nobody observes."""
    if all(map(is_bare_int8, layers)):
        return layers[0].quantize(rows)  # type: ignore[operator]
    return rows


def is_bare_int8(layer: nn.Module) -> TypeGuard[Int8Linear]:
    """Whether a layer is exactly an int8 layer that nobody observes."""
    return type(layer) is Int8Linear and is_bare(layer)


class Int8Linear(nn.Module):
    """A linear layer for inference, (..., I) -> (..., O), with int8 weights.

    Args:
        in_features: I.
        out_features: O.
        zero_point: of the input's levels, see `quantize_rows`.
        feeds_attention: give bfloat16 where the processor multiplies it: attention is faster in it, and reads half as
            much.
        device: of the buffers.

    Its state is `weight` (O, I) int8, `weight_scale` (O) float32 and `bias` (O), in whose dtype the output is.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        zero_point: int = CENTRED,
        feeds_attention: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.zero_point = zero_point
        self.feeds_attention = feeds_attention
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8, device=device))
        self.register_buffer("weight_scale", torch.ones(out_features, dtype=torch.float32, device=device))
        self.register_buffer("bias", torch.zeros(out_features, device=device))
        # The weights as oneDNN wants them, in place of `weight` once they are made.
        self._packed: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def of(cls, linear: nn.Linear, zero_point: int = CENTRED, feeds_attention: bool = False) -> Int8Linear:
        """Quantise a linear layer with a bias: each output's weights have a scale of their own."""
        layer = cls(linear.in_features, linear.out_features, zero_point, feeds_attention, "meta")
        layer.weight, layer.weight_scale = round_rows(linear.weight)
        layer.bias = linear.bias.detach().clone()
        return layer

    def quantize(self, rows: Tensor) -> QuantizedRows:
        """(..., I) -> what `forward` also takes, for layers that share their input.

        Raises:
            RuntimeError: a gradient is wanted.
        """
        if torch.is_grad_enabled() and rows.requires_grad:
            raise RuntimeError(
                "Gradients do not flow through int8 layers. Run the model under torch.no_grad(), or use the model that "
                "was quantised."
            )
        return quantize_rows(rows, self.zero_point)

    @torch.compiler.disable
    def forward(self, rows: Tensor | QuantizedRows) -> Tensor:
        """(..., I) -> (..., O)."""
        quantized = rows if isinstance(rows, QuantizedRows) else self.quantize(rows)
        product, step = self._product(quantized), quantized.step
        on_cpu = product.device.type == "cpu"
        dtype = torch.bfloat16 if self.feeds_attention and on_cpu and multiplies_bfloat16() else self.bias.dtype
        result = product if dtype == product.dtype else torch.empty_like(product, dtype=dtype)
        bias = self.bias.float()
        for part in _parts(product):
            torch.addcmul(bias, product[part], step[part], out=result[part])
        return result.view(*quantized.shape[:-1], self.out_features)

    @torch.compiler.disable
    def activated(self, rows: Tensor, activation: Callable[[Tensor], Tensor], zero_point: int) -> QuantizedRows:
        """(..., I) -> (..., O) after an activation, quantised for the layer that reads it.

        Args:
            rows: (..., I).
            activation: of single features: it is called with some rows at a time.
            zero_point: of the result.
        """
        quantized = self.quantize(rows)
        product, step, bias = self._product(quantized), quantized.step, self.bias.float()
        result = _unfilled(product, zero_point, torch.Size((*rows.shape[:-1], self.out_features)))
        for part in _parts(product):
            wide = torch.addcmul(bias, product[part], step[part], out=product[part])
            _quantize(activation(wide), result, part)
        return result

    def _product(self, rows: QuantizedRows) -> Tensor:
        """(R, I) -> (R, O) float32, to be multiplied by the rows' steps."""
        on_onednn = rows.values.device.type == "cpu" and onednn_is_exact()
        return self._onednn_product(rows) if on_onednn else self._float_product(rows)

    def _onednn_product(self, rows: QuantizedRows) -> Tensor:
        """`_product` of the integers."""
        with _packing:
            if self._packed is None:
                self._packed = torch.ops.onednn.qlinear_prepack(self.weight, None)
                self.weight = self.weight.new_empty(0)
            packed = self._packed
        return _multiply(rows.values, rows.zero_point, packed, self.weight_scale)

    def _float_product(self, rows: QuantizedRows) -> Tensor:
        """`_product` from the weights in float for the time of the product."""
        self._unpack()
        integers = rows.values.float().sub_(rows.zero_point)
        return F.linear(integers, self.weight.float()).mul_(self.weight_scale)

    def _unpack(self) -> None:
        with _packing:
            self.weight, self._packed = self._plain_weight(), None

    def _plain_weight(self) -> Tensor:
        return self.weight if self._packed is None else self._packed.to_dense().t().contiguous()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8Linear:
        """Move or cast; the scale stays in float32, since half its digits would cost more than int8 does."""
        self._unpack()
        scale = self.weight_scale
        super()._apply(fn, recurse)
        if self.weight_scale.dtype != torch.float32:
            self.weight_scale = scale.to(self.weight_scale.device)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self._plain_weight()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._unpack()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which packed weights do not allow."""
        return {
            **self.__dict__,
            "_buffers": {**self._buffers, "weight": self._plain_weight()},
            "_packed": None,
        }

    def extra_repr(self) -> str:
        """What `print(model)` says of it."""
        return f"in_features={self.in_features}, out_features={self.out_features}, zero_point={self.zero_point}"


@cache
def onednn_is_exact() -> bool:
    """Whether oneDNN's quantised linear is in this torch and multiplies exactly on this processor.

    Processors with AVX2 alone add pairs of products in 16 bits, which overflow without a word for large values.
    """
    try:
        generator = torch.Generator().manual_seed(0)
        values = torch.randint(0, 256, (64, 256), dtype=torch.uint8, generator=generator)
        weight = torch.randint(-127, 128, (64, 256), dtype=torch.int8, generator=generator)
        values[0], weight[0], weight[1] = 255, 127, -127
        expected = (values.double() - CENTRED) @ weight.double().T
        packed = torch.ops.onednn.qlinear_prepack(weight, None)
        return torch.equal(_multiply(values, CENTRED, packed, torch.ones(64)).double(), expected)
    except (AttributeError, RuntimeError):  # no such operator, or not on this processor
        return False


def _multiply(values: Tensor, zero_point: int, packed: Tensor, weight_scale: Tensor) -> Tensor:
    """(R, I) uint8, packed (O, I) int8, (O) -> (R, O) float32. The operator is not public: see `onednn_is_exact`."""
    weight_zero_points = torch.zeros(len(weight_scale), dtype=torch.int64)
    return torch.ops.onednn.qlinear_pointwise(
        values, 1.0, zero_point, packed, weight_scale, weight_zero_points, None, 1.0, 0, torch.float32, "none", [], ""
    )
