"""Local rows on torch's scaled_dot_product_attention: all blocks of a batch in one call.

A block of b queries sees a window of K keys: the blocks around it that half the attention window reaches. The rows of a
batch follow one another, so a window may contain keys of a neighbouring row: these have another segment and are masked.
The global keys stand in front of each window.

On a CPU one block at a time is faster: `blockwise` runs there.

Shapes: B batch, N tokens, H heads, D head size, C global columns of a block, W window, d dilation, b block, n
blocks of a row, K keys of a window.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops import recompute
from .blocks import additive, deinterleave, interleave, pad_to_blocks, sliding_windows
from .blockwise import blockwise_local_rows
from .documents import GlobalDocuments, column_bounds, global_spans
from .pattern import MASKED, QUERY_BLOCK, AttentionPattern

_BLOCK = QUERY_BLOCK


def sdpa_local_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: AttentionPattern,
    window: int,
    dilation: int = 1,
    dropout: float = 0.0,
) -> tuple[Tensor, None]:
    """Each token attends to the window around it and to the global tokens.

    Args:
        query, key, value: (B, N, H, D).
        pattern: who may attend to whom.
        window: W, the total width, in steps of the dilation.
        dilation: d, the step between the keys of the window.
        dropout: probability of dropping an attention weight.

    Returns:
        The context (B, N, H, D), whose rows of masked and of global tokens are not defined, and no probabilities.
    """
    if torch.compiler.is_exporting():
        return windowed_local_rows(query, key, value, pattern, window, dilation, dropout), None
    if query.device.type == "cpu" and not torch.compiler.is_compiling():
        return blockwise_local_rows(query, key, value, pattern, window, dilation, dropout), None
    if query.shape[1] <= window:
        return dense_local_rows(query, key, value, pattern, window, dilation, dropout), None
    return windowed_local_rows(query, key, value, pattern, window, dilation, dropout), None


def windowed_local_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: AttentionPattern,
    window: int,
    dilation: int = 1,
    dropout: float = 0.0,
) -> Tensor:
    """The context of `sdpa_local_rows`, whatever the device and the length.

    The windows hold each key several times (five for a window of 512). So they are not kept: the backward pass makes
    them again.
    """
    attend = partial(_attend, pattern=pattern, window=window, dilation=dilation, dropout=dropout)
    return recompute(attend, query, key, value, draws=dropout > 0)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, pattern: AttentionPattern, window: int, dilation: int, dropout: float
) -> Tensor:
    """(B, N, H, D) three times -> (B, N, H, D)."""
    num_tokens = query.shape[1]
    index = None
    if pattern.num_global:
        index = pattern.shared(("index of columns", dilation), lambda: _columns(pattern, dilation)[0])
    mask = pattern.shared(
        ("windows", window, dilation, query.dtype),
        lambda: additive(_allowed(pattern, window, dilation)[:, None], query.dtype),
    )
    blocks = pad_to_blocks(interleave(query, dilation), _BLOCK)  # (B * d, n, b, H, D)
    context = F.scaled_dot_product_attention(
        blocks.flatten(0, 1).transpose(1, 2),  # (B * d * n, H, b, D)
        _key_windows(key, window, dilation, index).transpose(1, 2),  # (B * d * n, H, C + K, D)
        _key_windows(value, window, dilation, index).transpose(1, 2),
        attn_mask=mask,  # (B * d * n, 1, b, C + K)
        dropout_p=dropout,
    )
    rows = context.transpose(1, 2).unflatten(0, blocks.shape[:2]).flatten(1, 2)
    return deinterleave(rows[:, : -(-num_tokens // dilation)], dilation, num_tokens)


def _reach(window: int) -> int:
    """The keys of a window on each side of its block: a multiple of the block size."""
    return -(-(window // 2) // _BLOCK) * _BLOCK


def _windows(rows: Tensor, window: int) -> Tensor:
    """(B * n * b, ...) -> (B * n, K, ...)."""
    reach = _reach(window)
    return sliding_windows(rows, before=reach, size=_BLOCK + 2 * reach, step=_BLOCK)


def _key_windows(x: Tensor, window: int, dilation: int, index: Tensor | None) -> Tensor:
    """(B, N, H, D) -> (B * d * n, C + K, H, D), the keys or values that each block of queries can reach."""
    windows = _windows(pad_to_blocks(interleave(x, dilation), _BLOCK).flatten(0, 2), window)
    return windows if index is None else torch.cat([x.flatten(0, 1)[index], windows], dim=1)


def _columns(pattern: AttentionPattern, dilation: int) -> tuple[Tensor, Tensor]:
    """The global columns of each block: their places among the tokens of all rows, and their segments; both
    (B * d * n, C).

    A block needs the global tokens of all documents that it overlaps. C is the most that any block needs.
    """
    num_rows, num_tokens = pattern.segments.shape
    num_blocks = pad_to_blocks(interleave(pattern.segments, dilation), _BLOCK).shape[1]
    if not pattern.is_packed:
        first = torch.arange(num_rows, device=pattern.segments.device)[:, None] * num_tokens
        columns = (pattern.global_index + first, pattern.global_segments)  # type: ignore[operator]
        # Not repeat_interleave: its ONNX conversion is wrong if the number of repeats is not known.
        index, segments = (
            rows[:, None].expand(-1, dilation * num_blocks, -1).flatten(0, 1)  # type: ignore[index]
            for rows in columns
        )
        return index, segments

    tokens, start, stop = global_spans(pattern)
    most = GlobalDocuments.of(pattern).columns[dilation]
    low, high = (bound.repeat(dilation) for bound in column_bounds(start, stop, num_tokens, _BLOCK * dilation))
    column = low[:, None] + torch.arange(most, device=tokens.device)  # (d * n, C)
    known = column.clamp(max=len(tokens) - 1)
    segments = pattern.global_segments[0][known]  # type: ignore[index]
    return tokens[known], torch.where(column < high[:, None], segments, MASKED)


def _allowed(pattern: AttentionPattern, window: int, dilation: int) -> Tensor:
    """(B * d * n, b, C + K) bool, whether each query of a block attends to each key of its window."""
    device = pattern.segments.device
    # A window may also contain several of the d sequences of a row, which must not see one another.
    places = torch.arange(pattern.segments.shape[1], device=device)

    def apart(segments: Tensor) -> Tensor:
        return torch.where(segments < 0, segments, segments * dilation + places % dilation)

    local = _blocks_of(apart(pattern.query_segments()), dilation).flatten(0, 1)[:, :, None]  # (B * d * n, b, 1)
    # Windows are padded with zeros: shift the segments to start at 1, so that 0 is no segment.
    keys = _windows(_blocks_of(apart(pattern.local_key_segments()), dilation).flatten() - MASKED, window) + MASKED
    key_places = torch.arange(keys.shape[1], device=device) - _reach(window)
    distance = key_places[None, :] - torch.arange(_BLOCK, device=device)[:, None]
    in_band = distance.abs() <= window // 2
    if pattern.is_causal:
        in_band = in_band & (distance <= 0)
    allowed = in_band & (keys[:, None, :] == local)
    if not pattern.num_global:
        return allowed
    index, segments = _columns(pattern, dilation)
    to_global = segments[:, None, :] == _blocks_of(pattern.query_segments(), dilation).flatten(0, 1)[:, :, None]
    if pattern.is_causal:
        all_places = torch.arange(pattern.segments.numel(), device=device).view_as(pattern.segments)
        to_global = to_global & (index[:, None, :] <= _blocks_of(all_places, dilation).flatten(0, 1)[:, :, None])
    return torch.cat([to_global, allowed], dim=-1)


def _blocks_of(segments: Tensor, dilation: int) -> Tensor:
    """(B, N) -> (B * d, n, b), filled up with MASKED."""
    return pad_to_blocks(interleave(segments - MASKED, dilation), _BLOCK) + MASKED


def dense_local_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: AttentionPattern,
    window: int,
    dilation: int = 1,
    dropout: float = 0.0,
) -> Tensor:
    """The context of `sdpa_local_rows` in one call over all keys: for documents no longer than the window."""
    mask = None
    if not pattern.is_uniform or pattern.is_causal or dilation > 1 or query.shape[1] > window // 2 + 1:
        mask = pattern.shared(
            ("dense", window, dilation, query.dtype),
            lambda: additive(_dense_allowed(pattern, window, dilation), query.dtype),
        )
    context = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask, dropout_p=dropout
    )
    return context.transpose(1, 2)


def _dense_allowed(pattern: AttentionPattern, window: int, dilation: int) -> Tensor:
    """(B, 1, N, N) bool."""
    segments = pattern.segments
    position = torch.arange(segments.shape[1], device=segments.device)
    distance = position[None, :] - position[:, None]
    near = ((distance.abs() <= window // 2 * dilation) & (distance % dilation == 0))[None]  # (1, N, N)
    if pattern.is_global is not None:
        near = near | pattern.is_global[:, None, :]
    if pattern.is_causal:
        near = near & (distance <= 0)
    return (near & (pattern.query_segments()[:, :, None] == segments[:, None, :]))[:, None]
