"""Taking padding out of a batch and putting it back.

Shapes: B batch, N tokens, T tokens left, E hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import AttentionPattern

# The share of padding from which taking it out pays: putting it back costs about a hundredth of one layer.
_WORTHWHILE = 0.02


@dataclass(frozen=True)
class Padding:
    """Where the valid tokens of a batch are.

    Attributes:
        valid: (B, N) bool, False on padding.
        index: (T,) int64, the places among all B * N of the tokens left: the valid ones, then the sample.
        has_sample: whether one token of padding is left, standing for all of them.
    """

    valid: Tensor
    index: Tensor
    has_sample: bool

    @classmethod
    def find(cls, valid: Tensor, keep_sample: bool, force: bool = False) -> Padding | None:
        """The padding of a batch, if there is any to be taken out.

        Args:
            valid: (B, N) bool, False on padding.
            keep_sample: leave one token of padding.
            force: also where there is so little of it that taking it out does not pay.

        Returns:
            None where there is nothing to gain, where a row is all padding, or where the valid tokens of a row are not
            side by side: those would get other neighbours.
        """
        total, left = valid.numel(), int(valid.sum())
        if left == total or (not force and total - left < _WORTHWHILE * total):
            return None
        edges = (valid[:, 1:] != valid[:, :-1]).sum(1) + valid[:, 0] + valid[:, -1]
        if not bool((edges == 2).all()):
            return None
        index = valid.flatten().nonzero()[:, 0]
        if keep_sample:
            index = torch.cat([index, valid.flatten().long().argmin()[None]])
        return cls(valid, index, keep_sample)

    def remove(self, rows: Tensor) -> Tensor:
        """(B, N, ...) -> (1, T, ...); also from (1, N, ...), the same for every row of the batch."""
        return rows.expand(*self.valid.shape, *rows.shape[2:]).flatten(0, 1)[self.index][None]

    def pattern(
        self, is_global: Tensor | None, keep_empty: bool, segments: Tensor | None = None, is_causal: bool = False
    ) -> AttentionPattern:
        """The pattern of the tokens left: a document for each row of the batch, if there are no `segments`.

        Args:
            is_global: (B, N) bool, or None for none.
            segments: (B, N) int64, or None.
            keep_empty, is_causal: see `AttentionPattern.build`.
        """
        if segments is None:
            segments = torch.arange(self.valid.shape[0], device=self.valid.device)[:, None].expand_as(self.valid)
        return AttentionPattern.build(
            valid=self.remove(self.valid) if self.has_sample else None,
            is_global=None if is_global is None else self.remove(is_global),
            batch=self.index[None],
            keep_empty=keep_empty,
            segments=self.remove(segments),
            is_packed=True,
            is_causal=is_causal,
        )

    def restore(self, states: Tensor, fill_with_sample: bool = False) -> Tensor:
        """(1, T, E) -> (B, N, E), where padding is zero, or the sample if there is one and it is asked for."""
        places = self.index[:-1] if self.has_sample else self.index
        batch = states.new_zeros(self.valid.numel(), states.shape[-1]).index_copy(0, places, states[0, : len(places)])
        batch = batch.unflatten(0, self.valid.shape)
        if fill_with_sample and self.has_sample:
            batch = torch.where(self.valid[:, :, None], batch, states[:, -1:])
        return batch
