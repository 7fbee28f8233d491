"""Local rows on torch's FlexAttention: one compiled kernel that reads only the blocks of keys that a block may see.

The table of these blocks is made from the bounds of each block (its segments and places), never from N x N positions.
Tokens are first sorted by their place modulo the dilation, so that a dilated window has no gaps.

FlexAttention has no dropout of attention weights, and no backward pass on CPUs: such calls run on `sdpa`. Each kind of
call has a compiled function of its own, so that a failed compilation does not affect the others.

Shapes: B batch, N tokens, H heads, D head size, W window, d dilation, M tokens of all rows padded to whole blocks, n
blocks of M.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import NamedTuple

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers.utils import logging

from .blocks import deinterleave, interleave, pad_to_blocks
from .pattern import MASKED, AttentionPattern
from .sdpa import sdpa_local_rows

logger = logging.get_logger(__name__)

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

_BLOCK = 128
_FAR = torch.iinfo(torch.int64).max
_PLACE_BITS = 32


class _Kind(NamedTuple):
    """The properties that one compiled function is compiled for. Length, window, dilation and mask may change."""

    device: torch.device
    dtype: torch.dtype
    num_heads: int
    head_size: int
    is_causal: bool
    needs_gradient: bool


@dataclass
class _Kernel:
    """FlexAttention, compiled for one kind of call.

    Attributes:
        attend: (1, H, M, D) three times and their BlockMask -> (1, H, M, D).
        lengths: the values of M that it has run with.
        failure: why compiling for another M failed; no further M is then tried. None if it never failed.
    """

    attend: Callable[..., Tensor]
    lengths: set[int] = field(default_factory=set)
    failure: str | None = None

    def reason_against(self, length: int) -> str | None:
        """Why the kernel cannot run with M = `length`; None if it can."""
        return None if length in self.lengths else self.failure


_kernels: dict[_Kind, _Kernel] = {}


def flex_local_rows(
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
        dropout: probability of dropping an attention weight; if it is not 0, `sdpa` runs instead, with one warning.

    Returns:
        The context (B, N, H, D), whose rows of masked and of global tokens are not defined, and no probabilities.
    """
    needs_gradient = torch.is_grad_enabled() and any(rows.requires_grad for rows in (query, key, value))
    reason = reason_unsupported(query, needs_gradient, pattern.is_causal, dilation, dropout)
    if torch.compiler.is_compiling():
        if reason is None:
            return _attend(_flex, query, key, value, pattern, window, dilation), None
        return sdpa_local_rows(query, key, value, pattern, window, dilation, dropout)
    if reason is None:
        kernel, length = _kernel(_kind(query, needs_gradient, pattern.is_causal)), _length(query, dilation)
        try:
            context = _attend(kernel.attend, query, key, value, pattern, window, dilation)
        except (FailOnRecompileLimitHit, TorchDynamoException) as error:
            reason = kernel.failure = f"it does not compile here ({str(error).strip().splitlines()[0]})"
            kernel.lengths.discard(length)
        else:
            kernel.lengths.add(length)
            return context, None
    logger.warning_once(f'"flex_attention" runs as "sdpa" here: {reason}.')
    return sdpa_local_rows(query, key, value, pattern, window, dilation, dropout)


def reason_unsupported(
    query: Tensor, needs_gradient: bool, is_causal: bool = False, dilation: int = 1, dropout: float = 0.0
) -> str | None:
    """Why FlexAttention cannot compute local rows, None where it can.

    Args:
        query: (B, N, H, D).
        needs_gradient: whether there will be a backward pass.
        is_causal: whether tokens attend only to themselves and to earlier ones.
        dilation: d, the step between the keys of the window.
        dropout: probability of dropping an attention weight.
    """
    if torch.compiler.is_exporting():
        return "exported graphs hold none of it"
    if not query.numel():
        return "there is nothing to attend"
    if dropout:
        return "FlexAttention has no dropout of attention weights, and attention_probs_dropout_prob is not 0"
    if query.device.type == "cpu" and needs_gradient:
        return "FlexAttention has no backward pass on CPUs"
    if torch.compiler.is_compiling():
        return None
    kernel = _kernels.get(_kind(query, needs_gradient, is_causal))
    return None if kernel is None else kernel.reason_against(_length(query, dilation))


def _kind(query: Tensor, needs_gradient: bool, is_causal: bool) -> _Kind:
    return _Kind(query.device, query.dtype, query.shape[2], query.shape[3], is_causal, needs_gradient)


def _kernel(kind: _Kind) -> _Kernel:
    """The kernel of a kind, compiled at its first call."""
    if kind not in _kernels:
        # torch counts compilations by code object, and remembers by name which sizes vary: each kind needs its own.
        function = FunctionType(_flex.__code__.replace(co_name=f"_flex_{len(_kernels)}"), globals())
        # torch compiles for the first length, then for any. Uncompiled, all N x N scores would be built: fail instead.
        _kernels[kind] = _Kernel(torch.compile(function, fullgraph=True))
    return _kernels[kind]


def _attend(
    attend: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: AttentionPattern,
    window: int,
    dilation: int,
) -> Tensor:
    """(B, N, H, D) three times -> (B, N, H, D)."""
    block_mask = pattern.shared(("flex", window, dilation), lambda: build_block_mask(pattern, window, dilation))
    rows = (_in_line(tensor, dilation).transpose(0, 1)[None] for tensor in (query, key, value))  # (1, H, M, D) each
    context = attend(*rows, block_mask)[0].transpose(0, 1)  # (M, H, D)
    num_rows, num_tokens = query.shape[:2]
    sequences = (num_rows * dilation, -(-num_tokens // dilation))
    return deinterleave(context[: sequences[0] * sequences[1]].unflatten(0, sequences), dilation, num_tokens)


def _flex(query: Tensor, key: Tensor, value: Tensor, block_mask: BlockMask) -> Tensor:
    return flex_attention(query, key, value, block_mask=block_mask)


def _length(rows: Tensor, dilation: int) -> int:
    """M, the length of `_in_line` for (B, N, ...)."""
    num_rows, num_tokens = rows.shape[:2]
    return -(-num_rows * dilation * -(-num_tokens // dilation) // (2 * _BLOCK)) * 2 * _BLOCK


def _in_line(rows: Tensor, dilation: int) -> Tensor:
    """(B, N, ...) -> (M, ...): row after row, each sorted by the place modulo d, padded with zeros.

    There are always at least two blocks, since torch compiles a size of 1 separately.
    """
    line = interleave(rows, dilation).flatten(0, 1)
    blocks = pad_to_blocks(line[None], 2 * _BLOCK)
    return blocks.flatten(0, 2)


def build_block_mask(pattern: AttentionPattern, window: int, dilation: int) -> BlockMask:
    """The FlexAttention mask of a pattern, for tokens in the order of `_in_line`.

    Args:
        pattern: who may attend to whom.
        window: W.
        dilation: d.

    Returns:
        BlockMask: of (1, 1, M, M), in O(M + n^2) time and memory.
    """
    device = pattern.segments.device

    def in_line(values: Tensor) -> Tensor:
        return _in_line(values - MASKED, dilation) + MASKED  # fills up with MASKED

    places = torch.arange(pattern.segments.shape[1], device=device).expand(pattern.segments.shape)
    segments, place = in_line(pattern.segments), in_line(places)  # (M)
    place = place.clamp(min=0)
    # Tokens of the same document and the same place modulo d can see one another in a window.
    sequence = torch.where(segments == MASKED, MASKED, segments * dilation + place % dilation)
    global_segments = torch.full_like(segments, MASKED)
    if pattern.is_global is not None:
        global_segments = torch.where(in_line(pattern.is_global.long()) > 0, segments, MASKED)

    partial, full = _blocks(segments, sequence, global_segments, place, window // 2, pattern.is_causal)
    return BlockMask.from_kv_blocks(
        *_table(partial),
        *_table(full),
        BLOCK_SIZE=_BLOCK,
        mask_mod=_mask_mod(segments, sequence, global_segments, place, window // 2, pattern.is_causal),
        seq_lengths=(len(segments), len(segments)),
    )


def _mask_mod(
    segments: Tensor, sequence: Tensor, global_segments: Tensor, place: Tensor, reach: int, is_causal: bool
) -> MaskMod:
    """Whether a query attends to a key, from (M) tensors.

    The tensors are joined into one table, with a segment and a place in one number: with more sizes or lookups it does
    not compile on CPUs.
    """
    # Masked queries look for a segment that no key has.
    wanted, wanted_sequence = (torch.where(ids == MASKED, MASKED - 1, ids) for ids in (segments, sequence))
    columns = (wanted_sequence, sequence, (wanted << _PLACE_BITS) + place, (global_segments << _PLACE_BITS) + place)
    table = torch.cat(columns)
    starts = torch.arange(len(columns), device=table.device) * len(segments)
    of_wanted_sequence, of_sequence, of_wanted, of_global = (start.clone() for start in starts)
    half = torch.full((), reach, device=table.device)  # not torch.tensor: that copies from the host, and waits

    def both_ways(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = (query - key).abs() <= half
        near = near & (table[of_sequence + key] == table[of_wanted_sequence + query])
        return near | (table[of_global + key] >> _PLACE_BITS == table[of_wanted + query] >> _PLACE_BITS)

    def causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        # Tokens of a sequence stand in order of their places.
        near = (key <= query) & (query - key <= half)
        near = near & (table[of_sequence + key] == table[of_wanted_sequence + query])
        from_key, to_query = table[of_global + key], table[of_wanted + query]
        return near | ((from_key >> _PLACE_BITS == to_query >> _PLACE_BITS) & (from_key <= to_query))

    return causal if is_causal else both_ways


def _blocks(
    segments: Tensor, sequence: Tensor, global_segments: Tensor, place: Tensor, reach: int, is_causal: bool
) -> tuple[Tensor, Tensor]:
    """From (M) tensors: which blocks of keys each block of queries sees in part, and which wholly; (n, n) bool each."""
    index = torch.arange(len(segments) // _BLOCK, device=segments.device)
    apart = (index[:, None] - index[None, :]).abs() * _BLOCK  # between tokens of the same place in two blocks

    low, high = _bounds(sequence)
    near = (apart - (_BLOCK - 1) <= reach) & _overlap(low, high, low, high)
    seen = near | _overlap(*_bounds(segments), *_bounds(global_segments))
    whole = (sequence != MASKED).unflatten(0, (-1, _BLOCK)).all(-1) & (low == high)
    full = (apart + (_BLOCK - 1) <= reach) & whole & (low == high)[:, None] & (low[:, None] == low)
    if is_causal:
        first, last = _bounds(torch.where(segments == MASKED, MASKED, place))
        seen = seen & (first <= last[:, None])
        full = full & (last <= first[:, None])
    return seen & ~full, full


def _bounds(values: Tensor) -> tuple[Tensor, Tensor]:
    """(M) -> the smallest and the largest value of each block, (n) each, without MASKED."""
    blocks = values.unflatten(0, (-1, _BLOCK))
    return torch.where(blocks == MASKED, _FAR, blocks).amin(-1), blocks.amax(-1)


def _overlap(low: Tensor, high: Tensor, key_low: Tensor, key_high: Tensor) -> Tensor:
    """(n) four times -> (n, n) bool: whether the bounds of a block of queries meet those of a block of keys."""
    return (low[:, None] <= key_high) & (key_low <= high[:, None])


def _table(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """(n, n) bool -> the number of key blocks that each block of queries sees, (1, 1, n), and their indices, first."""
    counts = blocks.sum(-1, dtype=torch.int32)
    order = blocks.int().argsort(dim=-1, descending=True, stable=True).int()
    return counts[None, None], order[None, None]
