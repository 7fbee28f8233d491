"""The layers, token states in and out.

Each `LongformerPlusLayer` is self-attention (local rows by backend, global rows) and a feed-forward.

Shapes: B batch, N tokens, H heads, D head size, E hidden size, G global tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from ..attention import (
    ALL_ATTENTION_FUNCTIONS,
    AttentionPattern,
    attend_globally,
    attend_locally,
    eager_local_rows,
)
from ..configuration import LongformerPlusConfig
from ..ops import apply_linear, cast_alike, cast_input, feed_forward, quantize_once
from ..ops.chunking import chunk_size, is_bare
from .cache import LongformerPlusCache, RollingLayer


class LongformerPlusSelfAttention(nn.Module):
    """Sliding-window attention with global tokens (the paper's section 3.1); parameters named as Longformer's."""

    def __init__(self, config: LongformerPlusConfig, layer_index: int) -> None:
        super().__init__()
        self.config = config
        self.window = config.windows[layer_index]
        self.dilations = config.dilations[layer_index]
        self.num_heads = config.num_attention_heads
        self.dropout_probability = config.attention_probs_dropout_prob
        width = config.hidden_size
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.query_global, self.key_global, self.value_global = (nn.Linear(width, width) for _ in range(3))

    def forward(
        self,
        hidden_states: Tensor,
        pattern: AttentionPattern,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
        cache: RollingLayer | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """
        Args:
            hidden_states: (B, N, E).
            pattern: who may attend to whom.
            head_mask: (H) factors of the heads' contributions.
            output_attentions: return the probabilities, which only the eager backend has.
            cache: the layer's cache, if any.

        Returns:
            The context (B, N, E), zero on padding; the probabilities of the local rows (B, H, N, G + W + 1) and of the
            global rows (B, H, N, G), or None.
        """
        dropout = self.dropout_probability if self.training else 0.0
        projections = (self.query, self.key, self.value)
        global_projections = (self.query_global, self.key_global, self.value_global)
        hidden_states = cast_input(hidden_states, *projections, *global_projections)
        projected = quantize_once(hidden_states, *projections)
        query, key, value = cast_alike(
            *(apply_linear(project, projected).unflatten(-1, (self.num_heads, -1)) for project in projections)
        )  # (B, N, H, D) each
        backend = "eager" if output_attentions else self.config._attn_implementation
        local_rows = ALL_ATTENTION_FUNCTIONS.get_interface(backend, eager_local_rows)
        if cache is not None:
            key, value, local_rows = cache.continue_with(key, value, pattern, local_rows, output_attentions)
        if pattern.exchange is not None:
            local_rows = pattern.exchange.extend(local_rows)
        context, probabilities = attend_locally(
            local_rows, query, key, value, pattern, self.window, self.dilations, dropout
        )
        context, global_probabilities = context.flatten(2), None  # (B, N, E)
        if pattern.exchange is not None:
            context = pattern.exchange.put_global(context, hidden_states, *global_projections, self.num_heads, dropout)
        elif pattern.num_global:
            global_rows, global_probabilities = attend_globally(
                hidden_states,
                *global_projections,
                pattern,
                self.num_heads,
                dropout,
                need_probabilities=backend == "eager",
            )
            context = pattern.put_global(context, global_rows)
        context = pattern.clear_masked(context)
        if head_mask is not None:
            context = (context.unflatten(-1, (self.num_heads, -1)) * head_mask[:, None]).flatten(2).to(context.dtype)
        return (context, probabilities, global_probabilities) if output_attentions else (context, None, None)


class LongformerPlusResidual(nn.Module):
    """A projection back to the hidden size, added to the residual stream and normalised."""

    def __init__(self, width: int, config: LongformerPlusConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, update: Tensor, residual: Tensor) -> Tensor:
        """(B, N, width), (B, N, E) -> (B, N, E)."""
        return self.add(apply_linear(self.dense, update), residual)

    def add(self, projected: Tensor, residual: Tensor) -> Tensor:
        """(B, N, E), (B, N, E) -> (B, N, E), what follows the projection."""
        return self.LayerNorm(self.dropout(projected) + residual)


class LongformerPlusAttentionBlock(nn.Module):
    """Self-attention and its residual; `self` and `output` are Longformer's parameter names."""

    def __init__(self, config: LongformerPlusConfig, layer_index: int) -> None:
        super().__init__()
        self.self = LongformerPlusSelfAttention(config, layer_index)
        self.output = LongformerPlusResidual(config.hidden_size, config)

    def forward(
        self,
        hidden_states: Tensor,
        pattern: AttentionPattern,
        head_mask: Tensor | None,
        output_attentions: bool,
        cache: RollingLayer | None,
    ) -> Tensor:
        """(B, N, E) -> (B, N, E)."""
        context = self.self(hidden_states, pattern, head_mask, output_attentions, cache)[0]
        return self.output(context, hidden_states)


class LongformerPlusIntermediate(nn.Module):
    """The widening half of the feed-forward."""

    def __init__(self, config: LongformerPlusConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, N, E) -> (B, N, intermediate size)."""
        return self.activation(apply_linear(self.dense, hidden_states))


class LongformerPlusLayer(GradientCheckpointingLayer):
    """Self-attention and feed-forward."""

    def __init__(self, config: LongformerPlusConfig, layer_index: int) -> None:
        super().__init__()
        self.attention = LongformerPlusAttentionBlock(config, layer_index)
        self.intermediate = LongformerPlusIntermediate(config)
        self.output = LongformerPlusResidual(config.intermediate_size, config)
        self.chunk_size_feed_forward = config.chunk_size_feed_forward
        self.width = config.intermediate_size

    def forward(
        self,
        hidden_states: Tensor,
        pattern: AttentionPattern,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
        cache: RollingLayer | None = None,
    ) -> Tensor:
        """(B, N, E) -> (B, N, E)."""
        hidden_states = self.attention(hidden_states, pattern, head_mask, output_attentions, cache)
        size = self.chunk_size_feed_forward or chunk_size(hidden_states, self.width, self.intermediate, self.output)
        if not size or hidden_states.shape[1] <= size:
            return self.feed_forward(hidden_states)
        chunks = hidden_states.split(size, dim=1)
        if torch.is_grad_enabled():
            return torch.cat([self.feed_forward(chunk) for chunk in chunks], dim=1)
        # torch.cat would need the memory of the result twice.
        result = torch.empty_like(hidden_states)
        for chunk, place in zip(chunks, result.split(size, dim=1), strict=True):
            place.copy_(self.feed_forward(chunk))
        return result

    def feed_forward(self, hidden_states: Tensor) -> Tensor:
        """(B, N, E) -> (B, N, E), token by token."""
        if not is_bare(self.intermediate, self.output):
            return self.output(self.intermediate(hidden_states), hidden_states)
        update = feed_forward(hidden_states, self.intermediate.dense, self.intermediate.activation, self.output.dense)
        return self.output.add(update, hidden_states)


class LongformerPlusEncoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, config: LongformerPlusConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([LongformerPlusLayer(config, index) for index in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states: Tensor,
        pattern: AttentionPattern,
        head_masks: list[Tensor | None],
        output_attentions: bool,
        cache: LongformerPlusCache | None = None,
    ) -> Tensor:
        """(B, N, E) -> (B, N, E)."""
        caches: Sequence[RollingLayer | None] = [None] * len(self.layer) if cache is None else cache.layers
        for layer, head_mask, kept in zip(self.layer, head_masks, caches, strict=True):
            hidden_states = layer(hidden_states, pattern, head_mask, output_attentions, kept)
        return hidden_states


class LongformerPlusPooler(nn.Module):
    """The first valid token's state, through a dense layer and tanh."""

    def __init__(self, config: LongformerPlusConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first_token: Tensor) -> Tensor:
        """(B, E) -> (B, E)."""
        return torch.tanh(apply_linear(self.dense, first_token))
