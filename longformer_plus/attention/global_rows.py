"""The rows of the tokens that attend globally: own projections, all valid tokens as keys.

Shapes: B batch, N tokens, H heads, D head size, E = H * D hidden size, G global tokens.

The keys and values of a global row are linear in the hidden states x, so that for few global tokens nothing needs to be
projected token by token: the scores are (W_k^T q) . x + q . b_k, and the context is W_v (sum p x) + b_v (sum p).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import apply_linear, is_plain_linear
from .blocks import additive, softmax
from .pattern import AttentionPattern


def attend_globally(
    hidden_states: Tensor,
    query_global: nn.Module,
    key_global: nn.Module,
    value_global: nn.Module,
    pattern: AttentionPattern,
    num_heads: int,
    dropout: float = 0.0,
    need_probabilities: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Each global token attends to every valid token of its segment.

    Args:
        hidden_states: (B, N, E), the layer's input.
        query_global, key_global, value_global: the projections, E -> E.
        pattern: who may attend to whom; it must have global columns.
        num_heads: H.
        dropout: probability of dropping an attention weight.
        need_probabilities: return them too; not of a packed pattern.

    Returns:
        The context (B, G, H, D), undefined in the rows of fillers, and the probabilities (B, H, G, N), zero there, or
        None.
    """
    query = (
        apply_linear(query_global, pattern.take_global(hidden_states)).unflatten(-1, (num_heads, -1)).transpose(1, 2)
    )
    query = query * query.shape[-1] ** -0.5  # (B, H, G, D)
    parts = _parts(pattern, query.dtype)
    probabilities: Tensor | None = None
    contexts = []
    if _folding_pays(query, parts) and is_plain_linear(key_global) and is_plain_linear(value_global):
        for part in parts:
            context, probabilities = _folded(
                hidden_states[:, part.tokens], query[:, :, part.columns], key_global, value_global, part.mask, dropout
            )
            contexts.append(context)
    else:
        key, value = (
            apply_linear(project, hidden_states).unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (B, H, N, D)
            for project in (key_global, value_global)
        )
        for part in parts:
            context, probabilities = _projected(
                key[:, :, part.tokens],
                value[:, :, part.tokens],
                query[:, :, part.columns],
                part.mask,
                dropout,
                need_probabilities,
            )
            contexts.append(context)
    joined = torch.cat(contexts, dim=2).transpose(1, 2)
    if not need_probabilities or probabilities is None:
        return joined, None
    return joined, probabilities * pattern.global_row_mask()[:, None]


@dataclass(frozen=True)
class _Part:
    """What one product of global queries with keys is for: global columns and tokens of each row, and (B, 1, G, N) or
    smaller, added to the scores."""

    columns: slice
    tokens: slice
    mask: Tensor | None


def _parts(pattern: AttentionPattern, dtype: torch.dtype) -> list[_Part]:
    """Rows of one document are one part, padding and fillers masked; of packed ones, each document is a part."""
    everything = slice(None)
    if not pattern.is_packed:
        mask = pattern.shared(("global", dtype), lambda: additive(pattern.global_row_mask()[:, None], dtype))
        return [_Part(everything, everything, mask)]
    parts, first = [], 0
    for document in pattern.documents:
        last = first + len(document.global_index)
        if last > first:
            tokens = slice(document.start, document.stop)
            is_plain = document.is_whole and not pattern.is_causal
            seen = None if is_plain else additive(pattern.global_row_mask()[:, None, first:last, tokens], dtype)
            parts.append(_Part(slice(first, last), tokens, seen))
        first = last
    # A filler's row is not used: any token will do.
    return parts or [_Part(everything, slice(1), None)]


def _folding_pays(query: Tensor, parts: list[_Part]) -> bool:
    """Folding multiplies the tokens by G * H columns twice; projecting them by E columns twice.

    Traced graphs hold for any G, so they never fold. Nor does half precision autocast, whose weights are not in the
    dtype of the products.
    """
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(query.device.type):
        return False
    num_global = max(query[0, 0, part.columns].shape[0] for part in parts)
    return 2 * num_global <= query.shape[-1]


def _folded(
    hidden_states: Tensor,
    query: Tensor,
    key_global: nn.Linear,
    value_global: nn.Linear,
    mask: Tensor | None,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """(B, N, E), (B, H, G, D) -> (B, H, G, D), (B, H, G, N)."""
    num_heads, num_global = query.shape[1:3]
    key_weight, value_weight = (
        layer.weight.unflatten(0, (num_heads, -1))
        for layer in (key_global, value_global)  # (H, D, E)
    )
    folded = (query @ key_weight).flatten(1, 2)  # (B, H * G, E)
    scores = (folded @ hidden_states.transpose(1, 2)).unflatten(1, (num_heads, num_global))  # (B, H, G, N)
    scores = scores + query @ key_global.bias.unflatten(0, (num_heads, -1))[:, :, None]
    kept = F.dropout(_softmax(scores, mask), dropout)
    mixed = (kept.flatten(1, 2) @ hidden_states).unflatten(1, (num_heads, num_global))  # (B, H, G, E)
    context = mixed @ value_weight.transpose(1, 2)
    bias = value_global.bias.unflatten(0, (num_heads, -1))[:, None, :]  # (H, 1, D)
    return context + kept.sum(-1, keepdim=True) * bias, kept


def _projected(
    key: Tensor, value: Tensor, query: Tensor, mask: Tensor | None, dropout: float, need_probabilities: bool
) -> tuple[Tensor, Tensor | None]:
    """(B, H, N, D) twice, (B, H, G, D) -> (B, H, G, D), (B, H, G, N) or None."""
    if not need_probabilities:
        return F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, scale=1.0), None
    kept = F.dropout(_softmax(query @ key.transpose(-1, -2), mask), dropout)
    return kept @ value, kept


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    return softmax(scores if mask is None else scores + mask).to(scores.dtype)
