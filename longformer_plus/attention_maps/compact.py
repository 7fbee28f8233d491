"""Attention weights in 8, 16 or 32 bits.

Shapes: C columns of a row of weights; the dimensions before it are any.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BITS = (8, 16, 32)
_LARGEST_CODE = 255


@dataclass(frozen=True)
class CompactWeights:
    """Rows of weights, as few bits as asked for.

    With 8 bits a weight is `scale * (code / 255) ** 2`, where the scale is the largest weight of its row: small
    weights, which are most of a row, keep a step of their own size. No weight is further than 0.4 % of the scale from
    what it was. With 16 bits it is a float16, with 32 what it was.

    Attributes:
        codes: (..., C) uint8, float16 or float32.
        scale: (...) float32, or None where the codes are the weights.
    """

    codes: Tensor
    scale: Tensor | None

    @classmethod
    def pack(cls, weights: Tensor, bits: int) -> CompactWeights:
        """(..., C) weights not below 0 -> the same in `bits` bits each, on the CPU.

        Raises:
            ValueError: `bits` is none of 8, 16 and 32.
        """
        if bits not in BITS:
            raise ValueError(f"bits={bits!r} is not allowed: it must be one of {', '.join(map(str, BITS))}.")
        weights = weights.detach().float().cpu()
        if bits != 8:
            return cls(weights.to(torch.float16 if bits == 16 else torch.float32, copy=True), None)
        if not weights.shape[-1]:
            return cls(weights.to(torch.uint8), weights.new_zeros(weights.shape[:-1]))
        scale = weights.amax(-1)
        inverse = torch.where(scale > 0, scale, 1.0).reciprocal()[..., None]
        return cls((weights * inverse).sqrt_().mul_(_LARGEST_CODE).round_().to(torch.uint8), scale)

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        return self.codes.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def __getitem__(self, index: tuple[Tensor | int | slice, ...]) -> Tensor:
        """The weights at an index, in float32: of rows, of a slice of their columns, or of single places."""
        codes = self.codes[index].float()
        if self.scale is None:
            return codes
        scale = self.scale[index[: self.scale.dim()]]
        if len(index) <= self.scale.dim() or isinstance(index[-1], slice):
            scale = scale[..., None]
        return codes.div_(_LARGEST_CODE).square_().mul_(scale)
