"""Attention weights in 8, 16 or 32 bits.

Shapes: C columns of a row of weights; the dimensions before it are any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BITS = (8, 16, 32)
_LARGEST_CODE = 255
# Weights that are computed at once: as many as stay in the processor's cache from one step to the next.
_ENTRIES_AT_ONCE = 2**18


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
        codes = (weights * inverse).sqrt_().mul_(_LARGEST_CODE).round_()
        # Row by row, however the weights lie.
        return cls(codes.to(torch.uint8, memory_format=torch.contiguous_format), scale)

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

    def total(
        self,
        heads: Sequence[int],
        rows: slice = slice(None),
        columns: slice | Tensor = slice(None),
        into: Tensor | None = None,
    ) -> Tensor:
        """(H, R, C) weights -> the sum of some heads, in some rows and columns.

        In pieces of rows, which takes half the time of adding up whole heads.

        Args:
            heads: their indices.
            rows: which.
            columns: which; positions as a tensor are for few of them.
            into: what the sum is added to, in place; by default zeros.
        """
        codes = self.codes[:, rows, columns]
        total = torch.zeros(codes.shape[1:]) if into is None else into
        root = None if self.scale is None else self.scale[:, rows, None].sqrt() / _LARGEST_CODE
        at_once = max(_ENTRIES_AT_ONCE // max(codes.shape[2], 1), 1)
        for start in range(0, codes.shape[1], at_once):
            some = slice(start, start + at_once)
            for head in heads:
                values = codes[head, some].float()
                if root is None:
                    total[some] += values
                else:
                    values.mul_(root[head, some])
                    total[some].addcmul_(values, values)
        return total
