"""An independent judge: the meaning of the attention, written densely in float64.

It shares no code with the package. Shapes: B batch, N tokens, H heads, D head size, E hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class OracleResult:
    """The context (B, N, E), and dense probabilities (B, H, N, N) of the local rows and of the global rows."""

    context: Tensor
    local: Tensor
    global_: Tensor


def who_attends(
    valid: Tensor,
    is_global: Tensor,
    window: int,
    dilation: int = 1,
    causal: bool = False,
    segments: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(B, N, N) bool twice: which key a local row, and which key a global row attends to."""
    tokens = valid.shape[1]
    i = torch.arange(tokens)[:, None]
    j = torch.arange(tokens)[None, :]
    in_window = ((i - j).abs() <= window // 2 * dilation) & ((i - j) % dilation == 0)
    is_global = is_global & valid
    both_valid = valid[:, :, None] & valid[:, None, :]
    if causal:
        both_valid = both_valid & (j <= i)
    if segments is not None:
        both_valid = both_valid & (segments[:, :, None] == segments[:, None, :])
    local = both_valid & (in_window | is_global[:, None, :]) & ~is_global[:, :, None]
    return local, both_valid & is_global[:, :, None]


def self_attention(
    hidden: Tensor,
    weights: dict[str, Tensor],
    num_heads: int,
    valid: Tensor,
    is_global: Tensor,
    window: int,
    head_mask: Tensor | None = None,
    dilation: int | list[int] = 1,
    **pattern: object,
) -> OracleResult:
    """Longformer self-attention. `weights` holds query.weight, query.bias, ... query_global.weight, ... in float64."""
    dilations = [dilation] * num_heads if isinstance(dilation, int) else dilation

    def project(name: str) -> Tensor:
        out = hidden @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        return out.unflatten(-1, (num_heads, -1)).transpose(1, 2)

    def attend(suffix: str, allowed: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value = (project(name + suffix) for name in ("query", "key", "value"))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        scores = scores.masked_fill(~allowed, -torch.inf)
        some = allowed.any(-1, keepdim=True)
        probabilities = torch.where(some, torch.where(some, scores, 0.0).softmax(-1), 0.0)
        return probabilities @ value, probabilities

    by_head = [who_attends(valid, is_global, window, step, **pattern) for step in dilations]  # type: ignore[arg-type]
    local_allowed, global_allowed = (torch.stack(masks, dim=1) for masks in zip(*by_head, strict=True))  # (B, H, N, N)
    local_context, local = attend("", local_allowed)
    global_context, global_ = attend("_global", global_allowed)
    context = local_context + global_context
    if head_mask is not None:
        context = context * head_mask[:, None, None]
    return OracleResult(context.transpose(1, 2).flatten(2), local, global_)


def windowed(
    result: OracleResult, is_global: Tensor, window: int, dilation: int | list[int] = 1
) -> tuple[Tensor, Tensor]:
    """The oracle's probabilities in the layout of the models' outputs: (B, H, N, G + W + 1) and (B, H, N, G)."""
    batch, heads, tokens, _ = result.local.shape
    most = int(is_global.sum(1).max())
    local = result.local.new_zeros(batch, heads, tokens, most + window + 1)
    global_ = result.local.new_zeros(batch, heads, tokens, most)
    for b in range(batch):
        columns = is_global[b].nonzero().flatten().tolist()
        for g, column in enumerate(columns):
            local[b, :, :, g] = result.local[b, :, :, column]
            global_[b, :, :, g] = result.global_[b, :, column, :]
        for h in range(heads):
            step = dilation if isinstance(dilation, int) else dilation[h]
            for i in range(tokens):
                for offset in range(window + 1):
                    j = i + (offset - window // 2) * step
                    if 0 <= j < tokens and j not in columns:
                        local[b, h, i, most + offset] = result.local[b, h, i, j]
    return local, global_
