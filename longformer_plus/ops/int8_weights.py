"""Weights kept in int8 and multiplied in float: embeddings, and linear layers that few rows pass through.

Each row of a weight has a scale of its own, whose four bytes stand at the end of the row. So a weight is one tensor,
which modules share as they share any other, and which no change of the model's dtype rounds.

Shapes: B batch, N tokens, R rows of a weight, I features in, O features out, E hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .chunking import LARGEST_BYTES

_SCALE_BYTES = 4
# The scale of a row that is all zeros.
_SMALLEST_SCALE = 1e-12


def round_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(R, I) -> (R, I) int8 and the rows' scales (R) float32, whose product is the nearest to each weight."""
    weight = weight.detach().float()
    scale = (weight.abs().amax(1) / 127).clamp_(min=_SMALLEST_SCALE)
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def pack_rows(weight: Tensor) -> Tensor:
    """(R, I) -> (R, I + 4) int8: each row rounded, and its scale."""
    values, scale = round_rows(weight)
    return torch.cat([values, scale[:, None].view(torch.int8)], 1)


def unpack_rows(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., I + 4) int8, rows of `pack_rows` -> (..., I)."""
    values, scale = packed.split([packed.shape[-1] - _SCALE_BYTES, _SCALE_BYTES], -1)
    # Floats have to stand at a multiple of four bytes, which only a copy is sure to.
    aligned = scale.clone(memory_format=torch.contiguous_format).view(torch.float32)
    return values.float().mul_(aligned).to(dtype)


def _empty(num_rows: int, width: int, device: torch.device | str | None) -> nn.Parameter:
    return nn.Parameter(torch.zeros(num_rows, width + _SCALE_BYTES, dtype=torch.int8, device=device), False)


class Int8Embedding(nn.Module):
    """Embeddings, (B, N) ids -> (B, N, E), in int8 rows of which a lookup makes floats.

    Args:
        num_embeddings: R.
        embedding_dim: E.
        dtype: of what a lookup gives.
        device: of the weight.

    Its state is `weight`, (R, E + 4) int8 of `pack_rows`.
    """

    like: Tensor

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = _empty(num_embeddings, embedding_dim, device)
        # Its dtype follows the model's.
        self.register_buffer("like", torch.empty(0, dtype=dtype, device=device), persistent=False)

    @classmethod
    def of(cls, embedding: nn.Embedding) -> Int8Embedding:
        """Quantise embeddings."""
        return cls._with(pack_rows(embedding.weight), embedding.weight.new_empty(0))

    @classmethod
    def _with(cls, packed: Tensor, like: Tensor) -> Int8Embedding:
        made = cls(len(packed), packed.shape[1] - _SCALE_BYTES, device="meta")
        made.weight, made.like = nn.Parameter(packed, False), like
        return made

    def with_weight(self, packed: Tensor) -> Int8Embedding:
        """Embeddings of other rows, (R, E + 4) of `pack_rows`, that gives the same dtype."""
        return self._with(packed, self.like)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, N) -> (B, N, E)."""
        return unpack_rows(F.embedding(ids, self.weight), self.like.dtype)

    def extra_repr(self) -> str:
        """What `print(model)` says of it."""
        return f"{self.num_embeddings}, {self.embedding_dim}"


class Int8WeightLinear(nn.Module):
    """A linear layer for inference, (..., I) -> (..., O), whose int8 weight becomes float for each product.

    Args:
        in_features: I.
        out_features: O.
        dtype: of the bias and the products.
        device: of the parameters.

    Its state is `weight`, (O, I + 4) int8 of `pack_rows`, and `bias` (O).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = _empty(out_features, in_features, device)
        self.bias = nn.Parameter(torch.zeros(out_features, dtype=dtype, device=device), False)

    @classmethod
    def of(cls, linear: nn.Linear) -> Int8WeightLinear:
        """Quantise a linear layer with a bias, which stays the same parameter."""
        made = cls(linear.in_features, linear.out_features, linear.bias.dtype, "meta")
        made.weight = nn.Parameter(pack_rows(linear.weight), False)
        made.bias = linear.bias
        return made

    def float_weight(self) -> Tensor:
        """(O, I)."""
        return unpack_rows(self.weight, self.bias.dtype)

    def forward(self, rows: Tensor) -> Tensor:
        """(..., I) -> (..., O), of as many outputs at a time as keep the float weight small."""
        num_outputs = max(LARGEST_BYTES // (4 * self.in_features), 1)
        if num_outputs >= self.out_features:
            return F.linear(rows, self.float_weight(), self.bias)
        result = rows.new_empty(*rows.shape[:-1], self.out_features)
        for start in range(0, self.out_features, num_outputs):
            part = slice(start, start + num_outputs)
            result[..., part] = F.linear(rows, unpack_rows(self.weight[part], self.bias.dtype), self.bias[part])
        return result

    def extra_repr(self) -> str:
        """What `print(model)` says of it."""
        return f"in_features={self.in_features}, out_features={self.out_features}"
