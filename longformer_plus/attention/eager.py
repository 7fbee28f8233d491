"""Local rows, written out: the readable reference, and the only backend that returns probabilities.

Shapes: B batch, N tokens, H heads, D head size, G global tokens, W window, b block, n blocks of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .blocks import pad_to_blocks, skew, sliding_windows, unskew
from .pattern import MASKED, AttentionPattern

_BLOCK = 64


def eager_local_rows(
    query: Tensor, key: Tensor, value: Tensor, pattern: AttentionPattern, window: int, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Each token attends to the window around it and to the global tokens.

    Args:
        query, key, value: (B, N, H, D).
        pattern: who may attend to whom.
        window: W, the total width.
        dropout: probability of dropping an attention weight.

    Returns:
        The context (B, N, H, D), zero for masked and for global tokens (whose rows are computed elsewhere), and the
        probabilities (B, H, N, G + W + 1) in the layout of transformers' Longformer: the global columns, then the
        window, in which a global key is zero.
    """
    num_tokens, head_size = query.shape[1], query.shape[-1]
    num_global = pattern.num_global
    key_windows, value_windows = (_key_windows(x, window) for x in (key, value))  # (B, n, H, b + W, D)

    blocks = pad_to_blocks(query * head_size**-0.5, _BLOCK).transpose(2, 3)  # (B, n, H, b, D)
    scores = skew(blocks @ key_windows.transpose(-1, -2), window + 1)  # (B, n, H, b, W + 1)
    scores = _to_rows(scores, num_tokens)  # (B, H, N, W + 1)
    if num_global:
        global_key = pattern.take_global(key.flatten(2)).unflatten(2, key.shape[2:])  # (B, G, H, D)
        global_scores = torch.einsum("bnhd,bghd->bhng", query * head_size**-0.5, global_key)
        scores = torch.cat([global_scores, scores], dim=-1)  # (B, H, N, G + W + 1)

    allowed = pattern.shared(("eager", window), lambda: _allowed(pattern, window))  # (B, 1, N, G + W + 1)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    attends = allowed.any(-1, keepdim=True)
    if pattern.is_global is not None:
        attends = attends & ~pattern.is_global[:, None, :, None]
    probabilities = (scores.softmax(-1) * attends).to(query.dtype)
    probabilities = F.dropout(probabilities, dropout)

    band = pad_to_blocks(probabilities[..., num_global:].transpose(1, 2), _BLOCK).transpose(2, 3)  # (B, n, H, b, W + 1)
    context = _to_rows(unskew(band) @ value_windows, num_tokens).transpose(1, 2)  # (B, N, H, D)
    if num_global:
        global_value = pattern.take_global(value.flatten(2)).unflatten(2, value.shape[2:])
        context = context + torch.einsum("bhng,bghd->bnhd", probabilities[..., :num_global], global_value)
    return context, probabilities


def _key_windows(x: Tensor, window: int) -> Tensor:
    """(B, N, H, D) -> (B, n, H, b + W, D), the keys that each block of queries can reach."""
    blocks = pad_to_blocks(x, _BLOCK)
    rows = blocks.flatten(1, 2).movedim(1, 0)  # (n * b, B, H, D)
    windows = sliding_windows(rows, before=window // 2, size=_BLOCK + window, step=_BLOCK)
    return windows.permute(2, 0, 3, 1, 4)


def _to_rows(blocks: Tensor, num_tokens: int) -> Tensor:
    """(B, n, H, b, X) -> (B, H, N, X)."""
    return blocks.transpose(1, 2).flatten(2, 3)[:, :, :num_tokens]


def _allowed(pattern: AttentionPattern, window: int) -> Tensor:
    """(B, 1, N, G + W + 1) bool, whether a token attends to each global token and each offset of its window."""
    wanted = pattern.query_segments()[:, :, None]
    keys = F.pad(pattern.local_key_segments(), (window // 2, window // 2), value=MASKED)
    allowed = keys.unfold(1, window + 1, 1) == wanted  # (B, N, W + 1)
    if pattern.global_segments is not None:
        allowed = torch.cat([pattern.global_segments[:, None, :] == wanted, allowed], dim=-1)
    return allowed[:, None]
