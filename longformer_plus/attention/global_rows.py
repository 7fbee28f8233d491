"""The rows of the tokens that attend globally: own projections, all valid tokens as keys.

Shapes: B batch, N tokens, H heads, D head size, E = H * D hidden size, G global tokens.

The keys and values of a global row are linear in the hidden states x, so that for few global tokens nothing needs to be
projected token by token: the scores are (W_k^T q) . x + q . b_k, and the context is W_v (sum p x) + b_v (sum p).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import apply_linear, plain_weights, recompute
from .blocks import additive, softmax
from .documents import GlobalDocuments
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
        The context (B, G, E), undefined in the rows of fillers, and the probabilities (B, H, N, G), zero there, or
        None.
    """
    context, probabilities = _global_rows(
        hidden_states, query_global, key_global, value_global, pattern, num_heads, dropout, need_probabilities
    )
    context = context.transpose(1, 2).flatten(2)
    if not need_probabilities or probabilities is None:
        return context, None
    return context, (probabilities * pattern.global_row_mask()[:, None]).transpose(2, 3)


def _global_rows(
    hidden_states: Tensor,
    query_global: nn.Module,
    key_global: nn.Module,
    value_global: nn.Module,
    pattern: AttentionPattern,
    num_heads: int,
    dropout: float,
    need_probabilities: bool,
) -> tuple[Tensor, Tensor | None]:
    """(B, H, G, D) and (B, H, G, N) or None; the arguments are those of `attend_globally`."""
    query = _project(query_global, pattern.take_global(hidden_states), num_heads).transpose(1, 2)
    query = query * query.shape[-1] ** -0.5  # (B, H, G, D)
    if folding_pays(query, _most_global(pattern)):
        key_weights, value_weights = plain_weights(key_global), plain_weights(value_global)
        if key_weights is not None and value_weights is not None:
            if pattern.is_packed:
                return _folded_by_document(hidden_states, query, key_weights, value_weights, pattern, dropout), None
            return _folded(hidden_states, query, key_weights, value_weights, _mask(pattern, query), dropout)
    key, value = (_project(project, hidden_states, num_heads) for project in (key_global, value_global))
    if pattern.is_packed:
        return _projected_by_document(key[0], value[0], query, pattern, dropout), None
    return _projected(
        key.transpose(1, 2), value.transpose(1, 2), query, _mask(pattern, query), dropout, need_probabilities
    )


def _mask(pattern: AttentionPattern, query: Tensor) -> Tensor:
    """(B, 1, G, N), added to the scores."""
    return pattern.shared(("global", query.dtype), lambda: additive(pattern.global_row_mask()[:, None], query.dtype))


def _most_global(pattern: AttentionPattern) -> int:
    """The most global tokens that any document has."""
    return GlobalDocuments.of(pattern).most if pattern.is_packed else pattern.num_global


def _project(project: nn.Module, rows: Tensor, num_heads: int) -> Tensor:
    """(B, N, E) -> (B, N, H, D)."""
    return apply_linear(project, rows).unflatten(-1, (num_heads, -1))


def folding_pays(query: Tensor, num_global: int) -> bool:
    """Folding multiplies the tokens by G * H columns twice; projecting them by E columns twice.

    Traced graphs hold for any G, so they never fold.
    """
    if torch.compiler.is_compiling():
        return False
    return 2 * num_global <= query.shape[-1]


def _folded_by_document(
    hidden_states: Tensor,
    query: Tensor,
    key_weights: tuple[Tensor, Tensor],
    value_weights: tuple[Tensor, Tensor],
    pattern: AttentionPattern,
    dropout: float,
) -> Tensor:
    """(1, T, E), (1, H, G, D) -> (1, H, G, D), as `_folded`, for the documents of a packed row."""
    documents = GlobalDocuments.of(pattern)
    num_heads = query.shape[1]
    key_weight, key_bias, value_weight, value_bias = _by_head(num_heads, *key_weights, *value_weights)
    folded = (query[0] @ key_weight)[:, documents.queries].transpose(0, 1).flatten(1, 2)[:, None]  # (D, 1, H * Q, E)
    # The softmax cancels the bias, but the parameter must stay in the graph.
    key_scores = query[0] @ key_bias[:, :, None]  # (H, G, 1)
    bias = key_scores[..., 0][:, documents.queries].transpose(0, 1).flatten(1, 2)[:, None]  # (D, 1, H * Q)
    rows = hidden_states[0][:, None]  # (T, 1, E)
    mixed, total = documents.attend(folded, rows, rows, dropout, num_heads, bias)
    mixed, total = (each[:, 0].unflatten(1, (num_heads, -1)) for each in (mixed, total))  # (D, H, Q, E), (D, H, Q)
    mixed, total = (each[documents.document, :, documents.slot].transpose(0, 1) for each in (mixed, total))
    context = mixed.to(query.dtype) @ value_weight.transpose(1, 2)  # (H, G, D)
    return (context + total.to(query.dtype)[..., None] * value_bias[:, None])[None]


def _by_head(num_heads: int, *weights: Tensor) -> tuple[Tensor, ...]:
    """(E, E) weights -> (H, D, E) each; (E) biases -> (H, D)."""
    return tuple(weight.unflatten(0, (num_heads, -1)) for weight in weights)


def _projected_by_document(
    key: Tensor, value: Tensor, query: Tensor, pattern: AttentionPattern, dropout: float
) -> Tensor:
    """(T, H, D) twice, (1, H, G, D) -> (1, H, G, D), for the documents of a packed row."""
    documents = GlobalDocuments.of(pattern)
    by_document = query[0][:, documents.queries].transpose(0, 1)  # (D, H, Q, D)
    context, _ = documents.attend(by_document, key, value, dropout)
    return context[documents.document, :, documents.slot].transpose(0, 1).to(query.dtype)[None]


def _folded(
    hidden_states: Tensor,
    query: Tensor,
    key_weights: tuple[Tensor, Tensor],
    value_weights: tuple[Tensor, Tensor],
    mask: Tensor | None,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """(B, N, E), (B, H, G, D) -> (B, H, G, D), (B, H, G, N)."""
    num_heads, num_global = query.shape[1:3]
    key_weight, key_bias, value_weight, value_bias = _by_head(num_heads, *key_weights, *value_weights)
    folded = (query @ key_weight).flatten(1, 2)  # (B, H * G, E)
    scores = (folded @ hidden_states.transpose(1, 2)).unflatten(1, (num_heads, num_global))  # (B, H, G, N)
    scores = scores + query @ key_bias[:, :, None]
    kept = F.dropout(_softmax(scores, mask), dropout)
    mixed = (kept.flatten(1, 2) @ hidden_states).unflatten(1, (num_heads, num_global))  # (B, H, G, E)
    context = mixed @ value_weight.transpose(1, 2)
    return context + kept.sum(-1, keepdim=True) * value_bias[:, None], kept


def _projected(
    key: Tensor, value: Tensor, query: Tensor, mask: Tensor | None, dropout: float, need_probabilities: bool
) -> tuple[Tensor, Tensor | None]:
    """(B, H, N, D) twice, (B, H, G, D) -> (B, H, G, D), (B, H, G, N) or None."""
    if not need_probabilities:
        attend = partial(F.scaled_dot_product_attention, attn_mask=mask, dropout_p=dropout, scale=1.0)
        return recompute(attend, query, key, value, draws=dropout > 0), None
    kept = F.dropout(_softmax(query @ key.transpose(-1, -2), mask), dropout)
    return kept @ value, kept


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    return softmax(scores if mask is None else scores + mask).to(scores.dtype)
