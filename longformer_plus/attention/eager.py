"""Local rows, written out: the readable reference, and the only backend that returns probabilities.

Shapes: B batch, N tokens, H heads, D head size, G global tokens, W window, d dilation, b block, n blocks of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .blocks import deinterleave, interleave, pad_to_blocks, skew, sliding_windows, unskew
from .pattern import MASKED, AttentionPattern

_BLOCK = 64
# Weights of a head from which a processor reads them faster head by head: those of all heads leave its cache.
_MANY_WEIGHTS = 2**19


def eager_local_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: AttentionPattern,
    window: int,
    dilation: int = 1,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Each token attends to the window around it and to the global tokens.

    Args:
        query, key, value: (B, N, H, D).
        pattern: who may attend to whom.
        window: W, the total width, in steps of the dilation.
        dilation: d, the step between the keys of the window.
        dropout: probability of dropping an attention weight.

    Returns:
        The context (B, N, H, D), zero for masked tokens and for global ones (`global_rows` computes their rows), and
        the probabilities (B, H, N, G + W + 1) in the layout of transformers' Longformer: the global columns, then the
        window, in which a global key has weight zero.
    """
    num_tokens, num_heads, head_size = query.shape[1:]
    num_global = pattern.num_global
    if _is_plain_inference(query) and num_heads > 1 and not dropout and num_tokens * window > _MANY_WEIGHTS:
        heads = zip(*(rows.split(1, dim=2) for rows in (query, key, value)), strict=True)
        by_head = [eager_local_rows(q, k, v, pattern, window, dilation) for q, k, v in heads]
        contexts, weights = zip(*by_head, strict=True)
        return torch.cat(contexts, dim=2), torch.cat(weights, dim=1)

    key_windows, value_windows = (_key_windows(interleave(x, dilation), window) for x in (key, value))

    blocks = pad_to_blocks(interleave(query * head_size**-0.5, dilation), _BLOCK).transpose(2, 3)  # (B * d, n, H, b, D)
    scores = skew(blocks @ key_windows.transpose(-1, -2), window + 1)  # (B * d, n, H, b, W + 1)
    scores = _to_rows(scores, dilation, num_tokens).transpose(1, 2)  # (B, H, N, W + 1)
    if num_global:
        global_key = pattern.take_global(key.flatten(2)).unflatten(2, key.shape[2:])  # (B, G, H, D)
        global_scores = torch.einsum("bnhd,bghd->bhng", query * head_size**-0.5, global_key)
        scores = torch.cat([global_scores, scores], dim=-1)  # (B, H, N, G + W + 1)

    allowed, attends = pattern.shared(("eager", window, dilation), lambda: _allowed(pattern, window, dilation))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    probabilities = (scores.softmax(-1) * attends).to(query.dtype)
    probabilities = F.dropout(probabilities, dropout)

    band = interleave(probabilities[..., num_global:].transpose(1, 2), dilation)  # (B * d, N / d, H, W + 1)
    band = unskew(pad_to_blocks(band, _BLOCK).transpose(2, 3))  # (B * d, n, H, b, b + W)
    context = _to_rows(band @ value_windows, dilation, num_tokens)  # (B, N, H, D)
    if num_global:
        global_value = pattern.take_global(value.flatten(2)).unflatten(2, value.shape[2:])
        context = context + torch.einsum("bhng,bghd->bnhd", probabilities[..., :num_global], global_value)
    return context, probabilities


def _is_plain_inference(query: Tensor) -> bool:
    """Whether nothing but the result is kept of a forward on a processor: no gradients, no graph that is recorded."""
    is_recorded = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()
    return query.device.type == "cpu" and not is_recorded


def _key_windows(x: Tensor, window: int) -> Tensor:
    """(B, N, H, D) -> (B, n, H, b + W, D), the keys that each block of queries can reach."""
    blocks = pad_to_blocks(x, _BLOCK)
    rows = blocks.flatten(1, 2).movedim(1, 0)  # (n * b, B, H, D)
    windows = sliding_windows(rows, before=window // 2, size=_BLOCK + window, step=_BLOCK)
    return windows.permute(2, 0, 3, 1, 4)


def _to_rows(blocks: Tensor, dilation: int, num_tokens: int) -> Tensor:
    """(B * d, n, H, b, X) -> (B, N, H, X)."""
    rows = blocks.transpose(2, 3).flatten(1, 2)
    return deinterleave(rows[:, : -(-num_tokens // dilation)], dilation, num_tokens)[:, :num_tokens]


def _allowed(pattern: AttentionPattern, window: int, dilation: int) -> tuple[Tensor, Tensor]:
    """Whether a token attends to each global token and each offset of its window, (B, 1, N, G + W + 1) bool; and
    whether its row is computed here, since it attends to something and is not global, (B, 1, N, 1) bool."""
    wanted = pattern.query_segments()[:, :, None]
    num_tokens = wanted.shape[1]
    keys = interleave(pattern.local_key_segments() - MASKED, dilation) + MASKED  # (B * d, N / d)
    keys = F.pad(keys, (window // 2, window // 2), value=MASKED).unfold(1, window + 1, 1)
    allowed = deinterleave(keys, dilation, num_tokens) == wanted  # (B, N, W + 1)
    if pattern.is_causal:
        allowed = allowed & (torch.arange(window + 1, device=wanted.device) <= window // 2)
    if pattern.global_segments is None or pattern.global_index is None:
        return allowed[:, None], allowed.any(-1)[:, None, :, None]
    to_global = pattern.global_segments[:, None, :] == wanted  # (B, N, G)
    if pattern.is_causal:
        places = torch.arange(num_tokens, device=wanted.device)[:, None]
        to_global = to_global & (pattern.global_index[:, None, :] <= places)
    allowed = torch.cat([to_global, allowed], dim=-1)[:, None]
    attends = allowed.any(-1, keepdim=True)
    return allowed, attends if pattern.is_global is None else attends & ~pattern.is_global[:, None, :, None]
