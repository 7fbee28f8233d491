"""Local rows of tokens that continue a causal document, of which only what the window still reaches is kept.

Shapes: B batch, n new tokens, R tokens kept of those before, H heads, D head size, G global tokens, W window, d
dilation.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .blocks import skew, softmax

_BLOCK = 64


def continued_local_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_key: Tensor,
    num_global: int,
    window: int,
    dilation: int = 1,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Each new token attends to itself, to the window before it and to the global tokens.

    Args:
        query: (B, n, H, D), of the new tokens.
        key, value: (B, G + R + n, H, D), of the global tokens, of those kept and of the new ones. R is at least
            W / 2 * d.
        is_key: (B, G + R + n) bool, False for fillers, for padding, and for tokens of the window that are global.
        num_global: G.
        window: W, the total width, in steps of the dilation.
        dilation: d, the step between the keys of the window.
        dropout: probability of dropping an attention weight.

    Returns:
        The context (B, n, H, D), and the probabilities (B, H, n, G + W + 1) in the layout of
        `eager.eager_local_rows`; what stands there for padding is not defined.
    """
    half, num_new = window // 2, query.shape[1]
    first = key.shape[1] - num_new - half * dilation  # the first key that the first new token reaches
    context = torch.empty_like(query)
    probabilities = query.new_empty(query.shape[0], query.shape[2], num_new, num_global + window + 1)
    # Tokens of the same place modulo d see only one another, and each the W / 2 before it.
    for residue in range(min(dilation, num_new)):
        places = torch.arange(residue, num_new, dilation, device=query.device)
        for queries in places.split(_BLOCK):
            start = first + int(queries[0])
            stop = first + int(queries[-1]) + half * dilation + 1
            columns = torch.cat(
                [
                    torch.arange(num_global, device=query.device),
                    torch.arange(start, stop, dilation, device=query.device),
                ]
            )
            weights = _weights(query[:, queries], key[:, columns], is_key[:, columns], num_global, half)
            band = F.pad(skew(weights[..., num_global:], half + 1), (0, half))
            probabilities[:, :, queries] = torch.cat([weights[..., :num_global], band], dim=-1)
            weights = F.dropout(weights, dropout)
            context[:, queries] = torch.einsum("bhqk,bkhd->bqhd", weights, value[:, columns])
    return context, probabilities


def _weights(query: Tensor, key: Tensor, is_key: Tensor, num_global: int, half: int) -> Tensor:
    """(B, q, H, D), (B, G + q + W / 2, H, D) -> (B, H, q, G + q + W / 2): query i sees all G, and i to i + W / 2."""
    size = query.shape[1]
    offset = torch.arange(size + half, device=query.device) - torch.arange(size, device=query.device)[:, None]
    in_band = F.pad((offset >= 0) & (offset <= half), (num_global, 0), value=True)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
    allowed = in_band & is_key[:, None, None, :]
    return softmax(scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)).to(query.dtype)
