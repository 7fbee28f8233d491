"""Taking padding out of a batch and putting it back.

Shapes: B batch, N tokens, T tokens left, E hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .attention import AttentionPattern, segments_of

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

    @staticmethod
    def measure(valid: Tensor) -> dict[str, Tensor]:
        """What `find` asks of a (B, N) bool mask: `num_valid`, and `num_broken`, rows whose tokens are not adjacent."""
        edges = (valid[:, 1:] != valid[:, :-1]).sum(1) + valid[:, 0] + valid[:, -1]
        return {"num_valid": valid.sum(), "num_broken": (edges != 2).sum()}

    @classmethod
    def find(
        cls, valid: Tensor, num_valid: int, num_broken: int, keep_sample: bool, force: bool = False
    ) -> Padding | None:
        """The padding of a batch, if there is any to be taken out. Reads nothing from the device.

        Args:
            valid: (B, N) bool, False on padding.
            num_valid, num_broken: from `measure`.
            keep_sample: leave one token of padding.
            force: also where there is so little of it that taking it out does not pay.

        Returns:
            None where there is nothing to gain, where a row is all padding, or where the valid tokens of a row are not
            side by side: those would get other neighbours.
        """
        total = valid.numel()
        if num_broken or num_valid == total or (not force and total - num_valid < _WORTHWHILE * total):
            return None
        # The place of the first, second, ... valid token: nonzero() would be read from the device.
        numbers = torch.arange(1, num_valid + 1, device=valid.device)
        index = torch.searchsorted(valid.flatten().long().cumsum(0), numbers)
        if keep_sample:
            index = torch.cat([index, valid.flatten().long().argmin()[None]])
        return cls(valid, index, keep_sample)

    def remove(self, rows: Tensor) -> Tensor:
        """(B, N, ...) -> (1, T, ...), on the device of the rows; also from (1, N, ...), the same for every row of the
        batch."""
        return rows.expand(*self.valid.shape, *rows.shape[2:]).flatten(0, 1)[self.index.to(rows.device)][None]

    def pattern(
        self,
        is_global: Tensor | None,
        keep_empty: bool,
        segments: Tensor | None = None,
        num_global: int | None = None,
        **options: Any,
    ) -> AttentionPattern:
        """The pattern of the tokens left: a document for each row of the batch, if there are no `segments`.

        Args:
            is_global: (B, N) bool, or None for none.
            segments: (B, N) int64, or None.
            num_global: how many tokens of the batch are global, if that is known.
            keep_empty, options: see `AttentionPattern.build`.
        """
        if segments is None:
            segments = torch.arange(self.valid.shape[0], device=self.valid.device)[:, None].expand_as(self.valid)
        return AttentionPattern.build(
            valid=self.remove(self.valid) if self.has_sample else None,
            is_global=None if is_global is None else self.remove(is_global),
            batch=self.index[None],
            keep_empty=keep_empty,
            segments=segments_of(self.remove(segments)),
            is_packed=True,
            max_global_tokens=num_global,
            **options,
        )

    def restore(self, states: Tensor, fill_with_sample: bool = False) -> Tensor:
        """(1, T, E) -> (B, N, E), where padding is zero, or the sample if there is one and it is asked for.

        On the device of the states, which may be that of a later layer.
        """
        index = self.index.to(states.device)
        places = index[:-1] if self.has_sample else index
        batch = states.new_zeros(self.valid.numel(), states.shape[-1]).index_copy(0, places, states[0, : len(places)])
        batch = batch.unflatten(0, self.valid.shape)
        if fill_with_sample and self.has_sample:
            batch = torch.where(self.valid.to(states.device)[:, :, None], batch, states[:, -1:])
        return batch
