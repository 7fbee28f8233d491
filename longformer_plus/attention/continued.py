"""Local rows of new tokens that continue a cached causal document.

Nothing is read from the device. Intermediate tensors are as large as one block of queries, whatever the number of new
tokens.

Shapes: B batch, n new tokens, R cached tokens, H heads, D head size, G global tokens, W window, d dilation, q queries
of a block, k keys of its window: q + W / 2.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .blocks import additive, skew, softmax

# The fastest for 8192 new tokens and a window of 512 on 2 cores.
_BLOCK = 128


def continued_local_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_key: Tensor,
    num_global: int,
    window: int,
    dilation: int = 1,
    dropout: float = 0.0,
    need_probabilities: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Each new token attends to itself, to the window before it and to the global tokens.

    Args:
        query: (B, n, H, D), of the new tokens.
        key, value: (B, G + R + n, H, D), of the global, the cached and the new tokens. R is at least W / 2 * d.
        is_key: (B, G + R + n) bool, False for fillers, for padding, and for tokens of the window that are global.
        num_global: G.
        window: W, the total width, in steps of the dilation.
        dilation: d, the step between the keys of the window.
        dropout: probability of dropping an attention weight.
        need_probabilities: return the probabilities.

    Returns:
        The context (B, n, H, D), and the probabilities (B, H, n, G + W + 1) in the layout of
        `eager.eager_local_rows`, or None. The rows of padding are undefined.
    """
    half, num_new = window // 2, query.shape[1]
    first = key.shape[1] - num_new - half * dilation  # the first key that the first new token reaches
    blocks = _blocks(num_new, first, half, dilation)
    if num_new == 1:
        # A step of decoding: everything in the window is seen.
        (_, keys), in_band = next(blocks), None
        return _attend(query, key, value, is_key, num_global, keys, in_band, half, dropout, need_probabilities)

    context, probabilities = torch.empty_like(query), None
    if need_probabilities:
        probabilities = query.new_empty(query.shape[0], query.shape[2], num_new, num_global + window + 1)
    band = _in_band(min(_BLOCK, -(-num_new // dilation)), half, query.device)
    for queries, keys in blocks:
        rows = query[:, queries]
        in_band = band[: rows.shape[1], : rows.shape[1] + half]
        mixed, in_columns = _attend(
            rows, key, value, is_key, num_global, keys, in_band, half, dropout, need_probabilities
        )
        context[:, queries] = mixed
        if probabilities is not None and in_columns is not None:
            probabilities[:, :, queries] = in_columns
    return context, probabilities


def _blocks(num_new: int, first: int, half: int, dilation: int) -> Iterator[tuple[slice, slice]]:
    """The positions of each block's queries among the n new tokens, and of its keys among all tokens.

    Tokens see only tokens of the same position modulo d, of these the W / 2 before them.
    """
    for residue in range(min(dilation, num_new)):
        for start in range(residue, num_new, _BLOCK * dilation):
            stop = min(start + _BLOCK * dilation, num_new)
            last = range(start, stop, dilation)[-1]
            yield slice(start, stop, dilation), slice(first + start, first + last + half * dilation + 1, dilation)


def _columns(rows: Tensor, num_global: int, keys: slice) -> Tensor:
    """(B, G + R + n, ...) -> (B, G + k, ...), the global tokens and the `keys`; a view if both form one slice."""
    if not num_global:
        return rows[:, keys]
    if keys.start == num_global and keys.step == 1:
        return rows[:, : keys.stop]
    return torch.cat([rows[:, :num_global], rows[:, keys]], dim=1)


def _in_band(size: int, half: int, device: torch.device) -> Tensor:
    """(q, k) bool, whether query i sees key j: for j from i to i + W / 2."""
    offset = torch.arange(size + half, device=device) - torch.arange(size, device=device)[:, None]
    return (offset >= 0) & (offset <= half)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_key: Tensor,
    num_global: int,
    keys: slice,
    in_band: Tensor | None,
    half: int,
    dropout: float,
    need_probabilities: bool,
) -> tuple[Tensor, Tensor | None]:
    """One block: (B, q, H, D) -> (B, q, H, D), and (B, H, q, G + W + 1) if needed.

    Args:
        keys: the positions of the keys of its window.
        in_band: (q, k) bool, whether each query reaches each key; None if all do.
        half: W / 2.
        query, key, value, is_key, num_global, dropout, need_probabilities: as of `continued_local_rows`.
    """
    key, value, is_key = (_columns(rows, num_global, keys) for rows in (key, value, is_key))
    allowed = is_key[:, None, None]  # (B, 1, 1 or q, G + k)
    if in_band is not None:
        allowed = allowed & F.pad(in_band, (num_global, 0), value=True)
    if not need_probabilities:
        context = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=additive(allowed, query.dtype),
            dropout_p=dropout,
        )
        return context.transpose(1, 2), None
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
    weights = softmax(scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)).to(query.dtype)
    window = F.pad(skew(weights[..., num_global:], half + 1), (0, half))
    context = torch.einsum("bhqk,bkhd->bqhd", F.dropout(weights, dropout), value)
    return context, torch.cat([weights[..., :num_global], window], dim=-1)
