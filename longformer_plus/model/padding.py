"""Taking padding out of a batch before the layers and putting it back after them, without changing any result.

One token of padding, the sample, stays in the batch. The layers compute the same for every token of padding, so the
sample's states are copied to all others afterwards.

Shapes: B batch, N tokens, T tokens left, E hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..attention import AttentionPattern, segments_of

# The least share of padding that is worth taking out: putting it back costs about a hundredth of one layer.
_WORTHWHILE = 0.02


@dataclass(frozen=True)
class Padding:
    """Where the valid tokens of a batch are.

    Attributes:
        valid: (B, N) bool, False on padding.
        index: (T,) int64, the positions of the kept tokens among all B * N: the valid ones, then the sample.
    """

    valid: Tensor
    index: Tensor

    @staticmethod
    def measure(valid: Tensor, rows: Iterable[Tensor]) -> dict[str, Tensor]:
        """The sizes that `find` needs, as tensors without dimensions on the device.

        Args:
            valid: (B, N) bool, False on padding.
            rows: (B, N, ...) or (1, N, ...) each, the inputs of the embeddings.

        Returns:
            `num_valid`; `num_broken`, rows whose valid tokens are not adjacent; `num_unlike`, tokens of padding whose
            inputs differ from the sample's.
        """
        edges = (valid[:, 1:] != valid[:, :-1]).sum(1) + valid[:, 0] + valid[:, -1]
        sample = valid.flatten().long().argmin()[None]
        is_unlike = torch.zeros_like(valid.flatten())
        for each in rows:
            flat = each.expand(*valid.shape, *each.shape[2:]).flatten(0, 1)
            differs = flat != flat.index_select(0, sample)
            is_unlike = is_unlike | (differs.flatten(1).any(1) if differs.dim() > 1 else differs)
        num_unlike = (is_unlike & ~valid.flatten()).sum()
        return {"num_valid": valid.sum(), "num_broken": (edges != 2).sum(), "num_unlike": num_unlike}

    @classmethod
    def find(
        cls, valid: Tensor, num_valid: int, num_broken: int, num_unlike: int, force: bool = False
    ) -> Padding | None:
        """The padding of a batch, or None if it should stay. Reads nothing from the device.

        Args:
            valid: (B, N) bool, False on padding.
            num_valid, num_broken, num_unlike: from `measure`.
            force: take out also padding that is too little to be worth it.

        Returns:
            None if there is too little padding, if a row is all padding, if the valid tokens of a row are not adjacent
            (they would get other neighbours), or if the tokens of padding differ from one another.
        """
        total = valid.numel()
        if num_broken or num_unlike or num_valid == total:
            return None
        if not force and total - num_valid < _WORTHWHILE * total:
            return None
        # The position of the first, second, ... valid token. nonzero() would read its size from the device.
        numbers = torch.arange(1, num_valid + 1, device=valid.device)
        index = torch.searchsorted(valid.flatten().long().cumsum(0), numbers)
        return cls(valid, torch.cat([index, valid.flatten().long().argmin()[None]]))

    def remove(self, rows: Tensor) -> Tensor:
        """(B, N, ...) -> (1, T, ...), on the device of the rows; also from (1, N, ...), the same for every row."""
        return rows.expand(*self.valid.shape, *rows.shape[2:]).flatten(0, 1)[self.index.to(rows.device)][None]

    def restore(self, states: Tensor) -> Tensor:
        """(1, T, E) -> (B, N, E) on the device of the states; all padding gets the states of the sample."""
        index, valid = self.index.to(states.device), self.valid.to(states.device)
        rows = states.new_zeros(valid.numel(), states.shape[-1]).index_copy(0, index[:-1], states[0, :-1])
        return torch.where(valid[:, :, None], rows.unflatten(0, valid.shape), states[:, -1:])

    def pattern(
        self,
        is_global: Tensor | None,
        keep_empty: bool,
        segments: Tensor | None = None,
        num_global: int | None = None,
        **options: Any,
    ) -> AttentionPattern:
        """The attention pattern of the T tokens; without `segments`, each row of the batch is one document.

        Args:
            is_global: (B, N) bool, or None if no token is global.
            keep_empty, options: see `AttentionPattern.build`.
            segments: (B, N) int64, or None.
            num_global: the number of global tokens of the batch, if known.
        """
        if segments is None:
            segments = torch.arange(self.valid.shape[0], device=self.valid.device)[:, None].expand_as(self.valid)
        return AttentionPattern.build(
            valid=self.remove(self.valid),
            is_global=None if is_global is None else self.remove(is_global),
            batch=self.index[None],
            keep_empty=keep_empty,
            segments=segments_of(self.remove(segments)),
            is_packed=True,
            max_global_tokens=num_global,
            **options,
        )
