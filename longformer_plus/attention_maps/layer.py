"""The attention of one layer over one document: kept compactly, read where it is asked for.

Shapes: N tokens, H heads, G global tokens, W window, R rows (queries) and C columns (keys) that are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .compact import CompactWeights


@dataclass(frozen=True)
class Layout:
    """Which tokens of a document are valid, and which of them are global; the same for all layers.

    Attributes:
        valid: (N) bool, False on padding.
        global_positions: (G) int64, in order.
        global_rank: (N) int64, a global token's place among them, -1 for the others.
    """

    valid: Tensor
    global_positions: Tensor
    global_rank: Tensor

    @classmethod
    def build(cls, valid: Tensor, is_global: Tensor) -> Layout:
        """(N) bool, (N) bool -> their layout. A masked token is never global."""
        valid, is_global = valid.cpu(), (is_global & valid).cpu()
        rank = torch.where(is_global, is_global.long().cumsum(0) - 1, -1)
        return cls(valid, is_global.nonzero()[:, 0], rank)

    @property
    def num_tokens(self) -> int:
        """N."""
        return len(self.valid)


@dataclass(frozen=True)
class Statistics:
    """What is counted while a layer's weights are at hand in full.

    Attributes:
        entropy: (H, N) nats, of each token's row of weights.
        distance: (H, N) tokens, the mean distance to what a token attends to.
        received: (H, N) the sum of the weights that all tokens give to a token.
        to_global: (H, N) the part of a token's attention that goes to global tokens.
    """

    entropy: Tensor
    distance: Tensor
    received: Tensor
    to_global: Tensor


@dataclass(frozen=True)
class LayerMaps:
    """One layer's attention weights.

    Attributes:
        layout: which tokens are valid and global.
        dilations: (H) ints, the step between the keys of each head's window.
        local: (H, N, G + W + 1), rows of the tokens that are not global: the global columns, then the window.
        global_: (H, G, N), rows of the global tokens.
        statistics: see there.
        values: (N, H, H), of `contributions.value_products`, for the rows that are not global; None if not asked for.
        global_values: the same for the rows of the global tokens; None where there are none.
    """

    layout: Layout
    dilations: list[int]
    local: CompactWeights
    global_: CompactWeights
    statistics: Statistics
    values: Tensor | None = None
    global_values: Tensor | None = None

    @classmethod
    def build(
        cls, local: Tensor, global_: Tensor | None, layout: Layout, dilations: Sequence[int], bits: int
    ) -> LayerMaps:
        """From what a model returns for one document.

        Args:
            local: (H, N, X + W + 1) of `attentions`, where X is G or, in a batch, the most global tokens of a row.
            global_: (H, N, X) of `global_attentions`, or None where no token is global.
            layout: which tokens are valid and global.
            dilations: of each head.
            bits: 8, 16 or 32 for each weight.
        """
        num_global = len(layout.global_positions)
        columns = 0 if global_ is None else global_.shape[-1]
        if columns != num_global:
            local = torch.cat([local[..., :num_global], local[..., columns:]], dim=-1)
        rows = local.new_zeros(local.shape[0], 0, local.shape[1])
        if global_ is not None:
            rows = global_[..., :num_global].transpose(1, 2)
        places = layout.global_positions.to(local.device).float()
        apart = (torch.arange(layout.num_tokens, device=local.device).float()[:, None] - places).abs_()  # (N, G)
        # Head by head: nothing but the result is as large as the layer's weights.
        by_head = [
            _count(one.detach().float(), more.detach().float(), apart, layout, step)
            for one, more, step in zip(local, rows, dilations, strict=True)
        ]
        statistics = Statistics(*(torch.stack(values).cpu() for values in zip(*by_head, strict=True)))
        return cls(
            layout, list(dilations), CompactWeights.pack(local, bits), CompactWeights.pack(rows, bits), statistics
        )

    @property
    def window(self) -> int:
        """W, the total width of the window, in steps of the dilation."""
        return self.local.codes.shape[-1] - len(self.layout.global_positions) - 1

    @property
    def num_heads(self) -> int:
        """H."""
        return len(self.dilations)

    @property
    def num_bytes(self) -> int:
        """What the weights and the statistics take in memory."""
        values = sum(each.nbytes for each in (self.values, self.global_values) if each is not None)
        return self.local.num_bytes + self.global_.num_bytes + 4 * self.statistics.entropy.nbytes + values

    def reach(self, head: int) -> int:
        """How far a head's window reaches to either side, in tokens."""
        return self.window // 2 * self.dilations[head]

    def add_band(self, heads: Sequence[int], total: Tensor) -> None:
        """Add up the window part of heads with one dilation.

        Args:
            heads: their indices.
            total: (N, W + 1) that is added to; column k stands for a key k - W / 2 steps of the dilation away.
        """
        self.local.total(heads, columns=slice(len(self.layout.global_positions), None), into=total)

    def to_global(self, heads: Sequence[int]) -> Tensor:
        """(N, G) what all tokens give to the global ones, added up over heads."""
        places = self.layout.global_positions
        given = self.local.total(heads, columns=slice(len(places)))
        return given.index_copy_(0, places, self.global_.total(heads, columns=places))

    def from_global(self, heads: Sequence[int]) -> Tensor:
        """(G, N) what the global tokens give to all, added up over heads."""
        return self.global_.total(heads)

    def by_dilation(self, heads: Sequence[int]) -> list[tuple[int, list[int]]]:
        """Heads by the dilation that they share."""
        steps = sorted({self.dilations[head] for head in heads})
        return [(step, [head for head in heads if self.dilations[head] == step]) for step in steps]

    def dense(self, heads: Sequence[int], rows: Tensor, columns: Tensor) -> Tensor:
        """The weights that some tokens give to others.

        Args:
            heads: their indices.
            rows: (R) positions of the tokens that attend.
            columns: (C) positions of the tokens that are attended to.

        Returns:
            (heads, R, C) float32.
        """
        weights = torch.zeros(len(heads), len(rows), len(columns))
        num_global = len(self.layout.global_positions)
        offset = columns[None, :] - rows[:, None]  # (R, C)
        row_rank, column_rank = self.layout.global_rank[rows], self.layout.global_rank[columns]
        for step in sorted({self.dilations[head] for head in heads}):
            places = torch.tensor([place for place, head in enumerate(heads) if self.dilations[head] == step])
            near = (offset.abs() <= self.window // 2 * step) & (offset % step == 0)
            r, c = near.nonzero(as_tuple=True)
            column = num_global + self.window // 2 + offset[r, c] // step
            weights[places[:, None], r, c] = self.local[torch.tensor(heads)[places][:, None], rows[r], column]
        from_global, to_global = (row_rank >= 0).nonzero()[:, 0], (column_rank >= 0).nonzero()[:, 0]
        which = torch.tensor(heads)[:, None, None]
        if len(to_global):
            weights[:, :, to_global] = self.local[which, rows[:, None], column_rank[to_global]]
        if len(from_global):
            weights[:, from_global] = self.global_[which, row_rank[from_global][:, None], columns]
        return weights

    def push(self, amounts: Tensor, heads: Sequence[int]) -> Tensor:
        """Amounts at the tokens that attend -> where some heads, averaged, take them from: (N) -> (N), `amounts @
        weights`."""
        start, stop = _extent(amounts)
        num_global, num_tokens = len(self.layout.global_positions), len(amounts)
        taken = torch.zeros_like(amounts)
        for step, alike in self.by_dilation(heads):
            # Heads with the same window are added up first: reading them is a fraction of what pushing them costs.
            local = self.local.total(alike, slice(start, stop)).mul_(amounts[start:stop, None])
            reach = self.window // 2 * step
            # The keys of these rows, of which those outside of the document get nothing.
            by_key = _sum_by_key(F.pad(local[:, num_global:], (0, 0, reach, reach)), step)
            before, after = max(reach - start, 0), max(stop + reach - num_tokens, 0)
            taken[max(start - reach, 0) : stop + reach] += by_key[before : len(by_key) - after]
            if num_global:
                taken[self.layout.global_positions] += local[:, :num_global].sum(0)
                taken += amounts[self.layout.global_positions] @ self.global_.total(alike)
        return taken / len(heads)

    def pull(self, amounts: Tensor, heads: Sequence[int]) -> Tensor:
        """Amounts at the tokens that are attended to -> what each token gets of them by some heads, averaged: (N) ->
        (N), `weights @ amounts`."""
        start, stop = _extent(amounts)
        num_global, num_tokens = len(self.layout.global_positions), len(amounts)
        got = torch.zeros_like(amounts)
        for step, alike in self.by_dilation(heads):
            reach = self.window // 2 * step
            # Rows whose windows hold none of the amounts need not be read.
            first, last = max(start - reach, 0), min(stop + reach, num_tokens)
            band = self.local.total(alike, slice(first, last), slice(num_global, None))
            at_keys = F.pad(amounts, (reach, reach))[first:].as_strided(band.shape, (1, step), first)
            got[first:last] += (band * at_keys).sum(1)
            if num_global:
                at_global = amounts[self.layout.global_positions]
                got += self.local.total(alike, columns=slice(num_global)) @ at_global
                got[self.layout.global_positions] += self.global_.total(alike) @ amounts
        return got / len(heads)


def _extent(amounts: Tensor) -> tuple[int, int]:
    """From where to where amounts are not 0."""
    places = amounts.nonzero()[:, 0]
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def _count(
    local: Tensor, rows: Tensor, apart: Tensor, layout: Layout, step: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A head's (N, G + W + 1) and (G, N), and how far tokens are from global ones (N, G) -> the four fields of
    `Statistics`, (N) each."""
    places, num_global = layout.global_positions.to(local.device), rows.shape[0]
    half = (local.shape[1] - num_global) // 2
    steps = (torch.arange(-half, half + 1, device=local.device) * step).abs().float()

    entropy = _entropy(local)
    distance = local[:, num_global:] @ steps + torch.linalg.vecdot(local[:, :num_global], apart)
    received = _sum_by_key(local[:, num_global:], step)
    to_global = local[:, :num_global].sum(1)
    if num_global:
        received[places] += local[:, :num_global].sum(0)
        received += rows.sum(0)
        entropy[places] = _entropy(rows)
        distance[places] = torch.linalg.vecdot(rows, apart.T)
        to_global[places] = rows[:, places].sum(1)
    return entropy, distance, received, to_global


def _entropy(weights: Tensor) -> Tensor:
    """(R, C) -> (R) nats. `torch.special.entr` has the same numbers and takes more than twice as long."""
    logarithms = weights.clamp_min(torch.finfo(weights.dtype).tiny).log_()
    return logarithms.mul_(weights).sum(1).neg_()


def _sum_by_key(band: Tensor, step: int) -> Tensor:
    """(N, W + 1) weights by query -> (N) their sum for each key."""
    num_tokens, width = band.shape
    reach = width // 2 * step
    padded = F.pad(band.flip(1), (0, 0, reach, reach))
    # Entry (j, k) is what the token k - W / 2 steps from j gives to j.
    return padded.as_strided((num_tokens, width), (width, step * width + 1)).sum(1)
