"""The attention of a layer whose tokens are spread over processes.

Shapes: B batch, n tokens of the slice, M tokens of the slice with its surroundings, H heads, D head size, E hidden
size, G questions of a row, Q questions received.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional as F

from longformer_plus.attention import AttentionPattern, LocalRows
from longformer_plus.attention.global_rows import folding_pays
from longformer_plus.ops import apply_linear, is_plain_linear

from .exchange import all_to_all
from .plan import GlobalTokens, HaloPlan, QuestionPlan, Slices, on_host


class SplitAttention:
    """What the layers do with the other processes; `AttentionPattern.exchange` of the own tokens.

    Args:
        whole: the pattern of the whole batch.
        slices: who holds which tokens.
        group: the processes.
        reaches: how far the windows of the layers reach, in tokens. All is planned now: a compiled layer cannot plan.
    """

    def __init__(self, whole: AttentionPattern, slices: Slices, group: ProcessGroup, reaches: Iterable[int]) -> None:
        self.group = group
        device, host = whole.segments.device, on_host(whole)
        tokens = GlobalTokens.of(host)
        self._halos = {reach: HaloPlan.of(host, slices, tokens, reach).to(device) for reach in sorted(set(reaches))}
        self._questions: QuestionPlan | None = None
        # In training also where there are none, so that each parameter has a gradient.
        if whole.num_global > 0:
            self._questions = QuestionPlan.of(host, slices, tokens).to(device)

    def extend(self, local_rows: LocalRows) -> LocalRows:
        """The same backend, by which the own tokens attend to those of others too: (B, n, H, D) -> (B, n, H, D)."""
        return partial(self._local_rows, local_rows)

    def _local_rows(
        self,
        local_rows: LocalRows,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pattern: AttentionPattern,
        window: int,
        dilation: int = 1,
        dropout: float = 0.0,
    ) -> tuple[Tensor, None]:
        plan = self._halos[window // 2 * dilation]
        head_size = key.shape[-1]
        rows = torch.cat([key, value], dim=-1)
        received = all_to_all(rows.flatten(0, 1)[plan.send_index], plan.sends, plan.receives, self.group)
        rows = torch.cat([received[plan.left], rows, received[plan.right]], dim=1)  # (B, M, H, 2 * D)
        key, value = rows.split(head_size, dim=-1)
        if not query.shape[1]:
            # No token, and yet the exchange has a backward pass, in which the others wait for this process.
            return query + key + value, None
        around = (plan.left.shape[1], plan.right.shape[1])
        query = F.pad(query, (0, 0, 0, 0, *around))
        context, _ = local_rows(query, key, value, plan.pattern, window, dilation, dropout)
        return context[:, around[0] : context.shape[1] - around[1]], None

    def put_global(
        self,
        context: Tensor,
        hidden_states: Tensor,
        query_global: nn.Module,
        key_global: nn.Module,
        value_global: nn.Module,
        num_heads: int,
        dropout: float = 0.0,
    ) -> Tensor:
        """(B, n, E) with the rows of the own global tokens replaced by those that look at their whole document.

        The owner of a global token sends its query; each process answers with the weighted sum of its values, the sum
        of its weights and its highest score; the owner merges the answers by log-sum-exp.

        Args:
            context: (B, n, E) of the local rows.
            hidden_states: (B, n, E), the layer's input.
            query_global, key_global, value_global: the projections, E -> E.
            num_heads: H.
            dropout: probability of dropping an attention weight.
        """
        plan = self._questions
        if plan is None:
            return context
        queries = apply_linear(query_global, hidden_states[plan.own[0], plan.own[1]])  # (own global tokens, E)
        received = all_to_all(queries[plan.send_index], plan.sends, plan.receives, self.group)  # (Q, E)
        num_rows, most = plan.allowed.shape[:2]
        query = received.new_zeros(num_rows, most, received.shape[-1]).index_put(tuple(plan.asked), received)
        query = query.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (B, H, G, D)
        answers = _answer(query, hidden_states, key_global, value_global, plan.allowed[:, None], dropout)
        sent = answers.transpose(1, 2)[tuple(plan.asked)]  # (Q, H, D + 2)
        merged = _merge(all_to_all(sent, plan.receives, plan.sends, self.group), plan.send_index, len(queries))
        return context.index_put(tuple(plan.own), merged.flatten(1).to(context.dtype))


def _answer(
    query: Tensor,
    hidden_states: Tensor,
    key_global: nn.Module,
    value_global: nn.Module,
    allowed: Tensor,
    dropout: float,
) -> Tensor:
    """(B, H, G, D), (B, n, E), (B, 1, G, n) -> (B, H, G, D + 2): weighted sums, sums of weights, highest scores.

    In float32 at least.
    """
    num_heads, num_questions, head_size = query.shape[1:]
    query = query * head_size**-0.5
    if folding_pays(query, num_questions) and is_plain_linear(key_global) and is_plain_linear(value_global):
        return _fold(query, hidden_states, key_global, value_global, allowed, dropout)
    key, value = (
        apply_linear(project, hidden_states).unflatten(-1, (num_heads, -1)).transpose(1, 2)
        for project in (key_global, value_global)
    )  # (B, H, n, D)
    weights, total, top = _weights(query @ key.transpose(-1, -2), allowed)
    return torch.cat([F.dropout(weights, dropout).to(value.dtype) @ value, total, top], dim=-1)


def _fold(
    query: Tensor,
    hidden_states: Tensor,
    key_global: nn.Linear,
    value_global: nn.Linear,
    allowed: Tensor,
    dropout: float,
) -> Tensor:
    """`_answer` without a key and a value for each token; see `longformer_plus.attention.global_rows`."""
    num_heads, num_questions = query.shape[1:3]
    key_weight, value_weight = (
        layer.weight.unflatten(0, (num_heads, -1)) for layer in (key_global, value_global)
    )  # (H, D, E)
    key_bias, value_bias = (layer.bias.unflatten(0, (num_heads, -1)) for layer in (key_global, value_global))  # (H, D)
    folded = (query @ key_weight).flatten(1, 2)  # (B, H * G, E)
    scores = (folded @ hidden_states.transpose(1, 2)).unflatten(1, (num_heads, num_questions))  # (B, H, G, n)
    weights, total, top = _weights(scores + query @ key_bias[:, :, None], allowed)
    kept = F.dropout(weights, dropout)
    mixed = (kept.to(query.dtype).flatten(1, 2) @ hidden_states).unflatten(1, (num_heads, num_questions))
    mixed = mixed @ value_weight.transpose(1, 2)
    return torch.cat([mixed + kept.sum(-1, keepdim=True) * value_bias[:, None], total, top], dim=-1)


def _weights(scores: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, H, G, n) -> the weights before they are divided by their sum, their sums, and the highest scores."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    lowest = torch.finfo(scores.dtype).min / 2
    scores = scores.masked_fill(~allowed, lowest)
    top = F.pad(scores.detach(), (0, 1), value=lowest).amax(-1, keepdim=True)  # also of no tokens
    weights = (scores - top).exp() * allowed
    return weights, weights.sum(-1, keepdim=True), top


def _merge(answers: Tensor, about: Tensor, num_tokens: int) -> Tensor:
    """(S, H, D + 2) answers, each about one of the own global tokens -> their contexts (own global tokens, H, D)."""
    mixed, total, top = answers[..., :-2], answers[..., -2:-1], answers[..., -1:].detach()
    index = about[:, None, None].expand_as(top)
    highest = top.new_full((num_tokens, *top.shape[1:]), -torch.inf).scatter_reduce(0, index, top, "amax")
    factor = (top - highest[about]).exp()
    sums = [each.new_zeros(num_tokens, *each.shape[1:]).index_add(0, about, each * factor) for each in (mixed, total)]
    return sums[0] / sums[1]
