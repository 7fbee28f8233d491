"""Local rows in blocks, on torch's scaled_dot_product_attention.

A block of b queries sees a window of K keys: the blocks around it that half the attention window reaches. The windows
are overlapping views on one buffer. The global keys stand in that same buffer, G of them before each block, so that
every window holds them without a copy of its own: the copy before the query's own block is used, the others are masked.

Rows of a batch follow one another in the buffer. What a window holds of a neighbouring row is masked by its segment.

Shapes: B batch, N tokens, H heads, D head size, G global tokens, W window, b block, n blocks of a row, K keys of a
window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .blocks import additive, pad_to_blocks, sliding_windows
from .pattern import MASKED, AttentionPattern

_BLOCKS = (16, 32, 64, 128, 256)
_TRACED_BLOCK = 128
# What copying a row of keys and values costs, and summing a row of their gradients, when attending to one key costs 1.
# Estimated from times of one layer on 2 CPU cores, 4096 tokens, windows 32 to 512, 0 to 200 global tokens.
_COPY = 40.0
_GRADIENT = 60.0


@dataclass(frozen=True)
class Layout:
    """How the tokens of a row are cut.

    Attributes:
        window: W.
        block: b.
        reach: blocks on each side of the query's own that its window holds.
        slots: global keys before each block of the buffer: G, or 0 where there are none or where they are put in front
            of each window instead, which is cheaper when there are many.
    """

    window: int
    block: int
    reach: int
    slots: int

    @classmethod
    def choose(cls, window: int, num_global: int, needs_gradient: bool) -> Layout:
        """The cheapest layout for a window of `window` tokens and `num_global` global columns."""
        if torch.compiler.is_compiling():
            # A traced graph holds for any G and cannot choose by it.
            return cls(window, _TRACED_BLOCK, -(-(window // 2) // _TRACED_BLOCK), 0)
        layouts = [
            cls(window, block, -(-(window // 2) // block), slots) for block in _BLOCKS for slots in {num_global, 0}
        ]
        return min(layouts, key=lambda layout: layout.cost(num_global, needs_gradient))

    def cost(self, num_global: int, needs_gradient: bool) -> float:
        """What a query costs, in keys attended to: small blocks waste less of a window but copy more of it."""
        appended = num_global - self.slots
        copied = self.period + (self.num_keys + appended if appended else 0)
        summed = self.num_keys + appended if needs_gradient else 0
        return self.num_keys + appended + (_COPY * copied + _GRADIENT * summed) / self.block

    @property
    def period(self) -> int:
        """Rows of the buffer for each block."""
        return self.slots + self.block

    @property
    def num_keys(self) -> int:
        """Rows of the buffer in a window."""
        return (2 * self.reach + 1) * self.period

    def windows(self, rows: Tensor) -> Tensor:
        """(B * n * period, ...) -> (B * n, num_keys, ...), a view on the padded rows."""
        return sliding_windows(rows, before=self.reach * self.period, size=self.num_keys, step=self.period)


def sdpa_local_rows(
    query: Tensor, key: Tensor, value: Tensor, pattern: AttentionPattern, window: int, dropout: float = 0.0
) -> tuple[Tensor, None]:
    """Each token attends to the window around it and to the global tokens.

    Args:
        query, key, value: (B, N, H, D).
        pattern: who may attend to whom.
        window: W, the total width.
        dropout: probability of dropping an attention weight.

    Returns:
        The context (B, N, H, D), whose rows of masked and of global tokens are not defined, and no probabilities.
    """
    num_rows, num_tokens = query.shape[:2]
    if not torch.compiler.is_exporting() and num_tokens <= window:
        return _dense(query, key, value, pattern, window, dropout), None
    needs_gradient = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    layout = Layout.choose(window, pattern.num_global, needs_gradient)
    mask = pattern.shared((layout, query.dtype), lambda: additive(_allowed(pattern, layout), query.dtype))
    context = F.scaled_dot_product_attention(
        pad_to_blocks(query, layout.block).flatten(0, 1).transpose(1, 2),  # (B * n, H, b, D)
        _key_windows(key, pattern, layout),  # (B * n, H, K, D)
        _key_windows(value, pattern, layout),
        attn_mask=mask,  # (B * n, 1, b, K)
        dropout_p=dropout,
    )
    return context.transpose(1, 2).unflatten(0, (num_rows, -1)).flatten(1, 2)[:, :num_tokens], None


def _key_windows(x: Tensor, pattern: AttentionPattern, layout: Layout) -> Tensor:
    """(B, N, H, D) -> (B * n, H, K, D), the keys or values that each block of queries can reach."""
    blocks = pad_to_blocks(x, layout.block)  # (B, n, b, H, D)
    num_rows, num_blocks = blocks.shape[:2]
    if not pattern.num_global:
        return layout.windows(blocks.flatten(0, 2)).transpose(1, 2)
    columns = pattern.take_global(x.flatten(2)).unflatten(2, x.shape[2:])  # (B, G, H, D)
    columns = columns[:, None].expand(num_rows, num_blocks, *columns.shape[1:])
    if layout.slots:
        return layout.windows(torch.cat([columns, blocks], dim=2).flatten(0, 2)).transpose(1, 2)
    return torch.cat([columns.flatten(0, 1), layout.windows(blocks.flatten(0, 2))], dim=1).transpose(1, 2)


def _allowed(pattern: AttentionPattern, layout: Layout) -> Tensor:
    """(B * n, 1, b, K) bool, whether each query of a block attends to each key of its window."""
    device = pattern.segments.device
    wanted = _blocks_of(pattern.query_segments(), layout.block)  # (B, n, b)
    keys = F.pad(_blocks_of(pattern.local_key_segments(), layout.block), (layout.slots, 0), value=MASKED)
    # Padding of the windows is zeros: count segments from 1 there, so that 0 is no segment.
    local = layout.windows(keys.flatten() - MASKED) + MASKED  # (B * n, num_keys)

    column = torch.arange(layout.num_keys, device=device)
    is_slot = column % layout.period < layout.slots
    position = (column // layout.period - layout.reach) * layout.block + column % layout.period - layout.slots
    distance = position[None, :] - torch.arange(layout.block, device=device)[:, None]
    in_band = (distance.abs() <= layout.window // 2) & ~is_slot  # (b, num_keys)

    wanted = wanted.flatten(0, 1)[:, :, None]
    allowed = in_band & (local[:, None, :] == wanted)  # (B * n, b, num_keys)
    if pattern.global_segments is not None:
        num_blocks = wanted.shape[0] // pattern.global_segments.shape[0]
        to_global = pattern.global_segments.repeat_interleave(num_blocks, dim=0)[:, None, :] == wanted  # (B * n, b, G)
        if layout.slots:
            first = layout.reach * layout.period
            allowed[:, :, first : first + layout.slots] = to_global
        else:
            allowed = torch.cat([to_global, allowed], dim=-1)
    return allowed[:, None]


def _blocks_of(segments: Tensor, block: int) -> Tensor:
    """(B, N) -> (B, n, b), filled up with MASKED."""
    return pad_to_blocks(segments - MASKED, block) + MASKED


def _dense(query: Tensor, key: Tensor, value: Tensor, pattern: AttentionPattern, window: int, dropout: float) -> Tensor:
    """The same rows for a document no longer than the window, in one call over all of its keys."""
    num_tokens = query.shape[1]
    mask = None
    if not pattern.is_uniform or num_tokens > window // 2 + 1:
        mask = pattern.shared(
            ("dense", window, query.dtype), lambda: additive(_dense_allowed(pattern, window), query.dtype)
        )
    context = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask, dropout_p=dropout
    )
    return context.transpose(1, 2)


def _dense_allowed(pattern: AttentionPattern, window: int) -> Tensor:
    """(B, 1, N, N) bool."""
    segments = pattern.segments
    position = torch.arange(segments.shape[1], device=segments.device)
    near = ((position[None, :] - position[:, None]).abs() <= window // 2)[None]  # (1, N, N)
    if pattern.is_global is not None:
        near = near | pattern.is_global[:, None, :]
    return (near & (pattern.query_segments()[:, :, None] == segments[:, None, :]))[:, None]
