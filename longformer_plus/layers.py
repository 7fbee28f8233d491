"""Embeddings and layers, token states in and out.

Each `LongformerPlusLayer` is self-attention (local rows by backend, global rows) and a feed-forward.

Shapes: B batch, N tokens, H heads, D head size, E hidden size, G global tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import (
    ALL_ATTENTION_FUNCTIONS,
    AttentionPattern,
    attend_globally,
    continued_local_rows,
    eager_local_rows,
    places_in,
)
from .cache import LongformerPlusCache, RollingLayer
from .configuration import LongformerPlusConfig
from .ops import apply_linear, autocast_dtype, feed_forward, is_plain_linear
from .ops.pieces import is_bare, piece_size


def tile_positions(table: Tensor, num_reserved: int, num_rows: int) -> Tensor:
    """A position table of another length: its rows for tokens copied over and over (the paper's section 5), or cut.

    Args:
        table: (positions, E).
        num_reserved: how many of its first rows are for no token: up to and with the padding index.
        num_rows: the number of rows wanted, those reserved among them.

    Returns:
        (num_rows, E).

    Raises:
        ValueError: either table has no rows for tokens.
    """
    num_copied = table.shape[0] - num_reserved
    if num_copied < 1 or num_rows <= num_reserved:
        raise ValueError(
            f"A position table of {table.shape[0]} rows cannot be made one of {num_rows}: the first {num_reserved} are "
            "for no token, and both need more than these."
        )
    places = torch.arange(num_rows - num_reserved, device=table.device) % num_copied
    return torch.cat([table[:num_reserved], table[num_reserved:][places]])


class LongformerPlusEmbeddings(nn.Module):
    """Word, position and token type embeddings, summed and normalised. Parameter names and positions are RoBERTa's."""

    def __init__(self, config: LongformerPlusConfig) -> None:
        super().__init__()
        self.padding_idx: int = config.pad_token_id  # type: ignore[assignment]
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=self.padding_idx)
        self.position_embeddings = nn.Embedding(
            config.max_position_embeddings, config.hidden_size, padding_idx=self.padding_idx
        )
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def positions(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, segments: Tensor | None = None
    ) -> Tensor:
        """(B, N) or (1, N) position ids: counted from the padding index + 1, padding itself at the padding index.

        In each of the (B, N) `segments` they start again.
        """
        start = self.padding_idx + 1
        if input_ids is None:
            if segments is not None:
                return places_in(segments) + start
            return torch.arange(start, start + inputs_embeds.shape[1], device=inputs_embeds.device)[None]  # type: ignore[union-attr]
        is_token = input_ids != self.padding_idx
        count = is_token.long().cumsum(dim=1)
        if segments is not None:
            first = torch.arange(count.shape[1], device=count.device) - places_in(segments)
            count = count - (count - is_token.long()).gather(1, first)
        return count * is_token + self.padding_idx

    def resize_positions(self, num_rows: int) -> None:
        """Give the position table another number of rows, by `tile_positions`."""
        old = self.position_embeddings
        table = tile_positions(old.weight.detach(), self.padding_idx + 1, num_rows)
        self.position_embeddings = nn.Embedding.from_pretrained(table, freeze=False, padding_idx=self.padding_idx)
        self.position_embeddings.weight.requires_grad_(old.weight.requires_grad)

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor,
        inputs_embeds: Tensor | None,
    ) -> Tensor:
        """(B, N) ids, or (B, N, E) word embeddings -> (B, N, E)."""
        embeddings = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if token_type_ids is None:
            token_types = self.token_type_embeddings(torch.zeros_like(position_ids[:, :1]))
        else:
            token_types = self.token_type_embeddings(token_type_ids)
        embeddings = embeddings + self.position_embeddings(position_ids) + token_types
        return self.dropout(self.LayerNorm(embeddings))


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
            cache: what is kept of the tokens before, if any, and for those after.

        Returns:
            The context (B, N, E), zero on padding; the probabilities of the local rows (B, H, N, G + W + 1) and of the
            global rows (B, H, N, G), or None.
        """
        dropout = self.dropout_probability if self.training else 0.0
        hidden_states = self._lowered(hidden_states)
        query, key, value = (
            apply_linear(project, hidden_states).unflatten(-1, (self.num_heads, -1))
            for project in (self.query, self.key, self.value)
        )  # (B, N, H, D) each
        if not torch.compiler.is_compiling() and (dtype := autocast_dtype(query.device)) is not None:
            # An adapter may give another dtype than autocast computes in. The backward pass runs without autocast.
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        backend = "eager" if output_attentions else self.config._attn_implementation
        local_rows = partial(ALL_ATTENTION_FUNCTIONS.get_interface(backend, eager_local_rows), pattern=pattern)
        if cache is not None:
            continues = cache.num_tokens > 0
            reached = cache.update(key, value, pattern)
            if continues:
                key, value, is_key = reached
                local_rows = partial(
                    continued_local_rows,
                    is_key=is_key,
                    num_global=cache.num_global,
                    need_probabilities=output_attentions,
                )
        context, probabilities = self._by_dilation(local_rows, query, key, value, dropout)
        context, global_probabilities = context.flatten(2), None
        if pattern.num_global:
            global_context, global_probabilities = attend_globally(
                hidden_states,
                self.query_global,
                self.key_global,
                self.value_global,
                pattern,
                self.num_heads,
                dropout,
                output_attentions,
            )
            context = pattern.put_global(context, global_context.flatten(2).to(context.dtype))
        if not pattern.is_uniform:
            context = context.masked_fill(~pattern.valid[:, :, None], 0.0)
        if head_mask is not None:
            context = (context.unflatten(-1, (self.num_heads, -1)) * head_mask[:, None]).flatten(2).to(context.dtype)
        if not output_attentions:
            return context, None, None
        if global_probabilities is not None:
            global_probabilities = global_probabilities.transpose(2, 3)
        return context, probabilities, global_probabilities

    def _lowered(self, hidden_states: Tensor) -> Tensor:
        """(B, N, E) in the dtype of autocast, which would cast them, and keep them, once for each projection."""
        if torch.compiler.is_compiling() or hidden_states.dtype != torch.float32:
            return hidden_states
        dtype = autocast_dtype(hidden_states.device)
        projections = (self.query, self.key, self.value, self.query_global, self.key_global, self.value_global)
        # An adapter may compute with what it is given.
        return hidden_states if dtype is None or not all(map(is_plain_linear, projections)) else hidden_states.to(dtype)

    def _by_dilation(
        self,
        local_rows: Callable[..., tuple[Tensor, Tensor | None]],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout: float,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, N, H, D) -> (B, N, H, D), (B, H, N, G + W + 1) or None: one call for the heads of each dilation."""
        local_rows = partial(local_rows, window=self.window, dropout=dropout)
        steps = sorted(set(self.dilations))
        if len(steps) == 1:
            return local_rows(query, key, value, dilation=steps[0])
        # Slices alone: a list of indices would be copied to the device in every layer.
        runs = [(step, len(list(heads))) for step, heads in groupby(self.dilations)]
        parts = [rows.split([size for _, size in runs], dim=2) for rows in (query, key, value)]
        contexts: dict[int, Tensor] = {}
        probabilities: dict[int, Tensor] = {}
        for wanted in steps:
            places = [place for place, (step, _) in enumerate(runs) if step == wanted]
            together = (torch.cat([part[place] for place in places], dim=2) for part in parts)
            context, weights = local_rows(*together, dilation=wanted)
            sizes = [runs[place][1] for place in places]
            contexts.update(zip(places, context.split(sizes, dim=2), strict=True))
            if weights is not None:
                probabilities.update(zip(places, weights.split(sizes, dim=1), strict=True))
        joined = torch.cat([contexts[place] for place in range(len(runs))], dim=2)
        if not probabilities:
            return joined, None
        return joined, torch.cat([probabilities[place] for place in range(len(runs))], dim=1)


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
        size = self.chunk_size_feed_forward or piece_size(hidden_states, self.width, self.intermediate, self.output)
        if not size or hidden_states.shape[1] <= size:
            return self.feed_forward(hidden_states)
        pieces = hidden_states.split(size, dim=1)
        if torch.is_grad_enabled():
            return torch.cat([self.feed_forward(piece) for piece in pieces], dim=1)
        # Not torch.cat, which would hold everything twice.
        result = torch.empty_like(hidden_states)
        for piece, place in zip(pieces, result.split(size, dim=1), strict=True):
            place.copy_(self.feed_forward(piece))
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
