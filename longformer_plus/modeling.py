"""Embeddings, layers and LongformerPlusModel.

Follow a batch: `LongformerPlusModel.forward` checks the inputs, builds the attention pattern and the embeddings, and
hands both to the layers; each `LongformerPlusLayer` is self-attention (local rows by backend, global rows) and a
feed-forward.

Shapes: B batch, N tokens, H heads, D head size, E hidden size, G global tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import can_return_tuple, logging
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .activations import without_gelu_output
from .attention import ALL_ATTENTION_FUNCTIONS, AttentionPattern, attend_globally, eager_local_rows
from .configuration import LongformerPlusConfig
from .global_attention import Policy, build_global_attention_mask
from .inputs import check_head_mask, check_inputs, check_length
from .outputs import LongformerPlusModelOutput
from .padding import Padding

logger = logging.get_logger(__name__)

# Of feed-forward activations without gradients on a CPU; glibc maps blocks of over 32 MiB afresh each time.
_CHUNK_BYTES = 12 * 2**20


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

    def positions(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """(B, N) or (1, N) position ids: counted from the padding index + 1, padding itself at the padding index."""
        if input_ids is None:
            start = self.padding_idx + 1
            return torch.arange(start, start + inputs_embeds.shape[1], device=inputs_embeds.device)[None]  # type: ignore[union-attr]
        is_token = input_ids != self.padding_idx
        return is_token.long().cumsum(dim=1) * is_token + self.padding_idx

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
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """
        Args:
            hidden_states: (B, N, E).
            pattern: who may attend to whom.
            head_mask: (H) factors of the heads' contributions.
            output_attentions: return the probabilities, which only the eager backend has.

        Returns:
            The context (B, N, E), zero on padding; the probabilities of the local rows (B, H, N, G + W + 1) and of the
            global rows (B, H, N, G), or None.
        """
        dropout = self.dropout_probability if self.training else 0.0
        query, key, value = (
            project(hidden_states).unflatten(-1, (self.num_heads, -1))  # (B, N, H, D)
            for project in (self.query, self.key, self.value)
        )
        backend = "eager" if output_attentions else self.config._attn_implementation
        context, probabilities = self._local_rows(backend, query, key, value, pattern, dropout)
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

    def _local_rows(
        self, backend: str, query: Tensor, key: Tensor, value: Tensor, pattern: AttentionPattern, dropout: float
    ) -> tuple[Tensor, Tensor | None]:
        """(B, N, H, D) -> (B, N, H, D), (B, H, N, G + W + 1) or None: one call for the heads of each dilation."""
        local_rows = ALL_ATTENTION_FUNCTIONS.get_interface(backend, eager_local_rows)
        steps = sorted(set(self.dilations))
        if len(steps) == 1:
            return local_rows(query, key, value, pattern, self.window, steps[0], dropout)
        groups = [[head for head, step in enumerate(self.dilations) if step == wanted] for wanted in steps]
        results = [
            local_rows(query[:, :, heads], key[:, :, heads], value[:, :, heads], pattern, self.window, step, dropout)
            for step, heads in zip(steps, groups, strict=True)
        ]
        order = torch.tensor([head for heads in groups for head in heads], device=query.device).argsort()
        context = torch.cat([context for context, _ in results], dim=2)[:, :, order]
        if results[0][1] is None:
            return context, None
        return context, torch.cat([probabilities for _, probabilities in results], dim=1)[:, order]


class LongformerPlusResidual(nn.Module):
    """A projection back to the hidden size, added to the residual stream and normalised."""

    def __init__(self, width: int, config: LongformerPlusConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, update: Tensor, residual: Tensor) -> Tensor:
        """(B, N, width), (B, N, E) -> (B, N, E)."""
        return self.LayerNorm(self.dropout(self.dense(update)) + residual)


class LongformerPlusAttentionBlock(nn.Module):
    """Self-attention and its residual; `self` and `output` are Longformer's parameter names."""

    def __init__(self, config: LongformerPlusConfig, layer_index: int) -> None:
        super().__init__()
        self.self = LongformerPlusSelfAttention(config, layer_index)
        self.output = LongformerPlusResidual(config.hidden_size, config)
        self.width = config.intermediate_size

    def forward(
        self, hidden_states: Tensor, pattern: AttentionPattern, head_mask: Tensor | None, output_attentions: bool
    ) -> Tensor:
        """(B, N, E) -> (B, N, E)."""
        context = self.self(hidden_states, pattern, head_mask, output_attentions)[0]
        return in_chunks(self.output, cheapest_chunk(hidden_states, self.width), context, hidden_states)


class LongformerPlusIntermediate(nn.Module):
    """The widening half of the feed-forward."""

    def __init__(self, config: LongformerPlusConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, N, E) -> (B, N, intermediate size)."""
        return self.activation(self.dense(hidden_states))


class LongformerPlusLayer(GradientCheckpointingLayer):
    """Self-attention and feed-forward."""

    def __init__(self, config: LongformerPlusConfig, layer_index: int) -> None:
        super().__init__()
        self.attention = LongformerPlusAttentionBlock(config, layer_index)
        self.intermediate = LongformerPlusIntermediate(config)
        self.output = LongformerPlusResidual(config.intermediate_size, config)
        self.chunk_size_feed_forward = config.chunk_size_feed_forward

    def forward(
        self,
        hidden_states: Tensor,
        pattern: AttentionPattern,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> Tensor:
        """(B, N, E) -> (B, N, E)."""
        hidden_states = self.attention(hidden_states, pattern, head_mask, output_attentions)
        size = self.chunk_size_feed_forward or cheapest_chunk(hidden_states, self.intermediate.dense.out_features)
        return in_chunks(self.feed_forward, size, hidden_states)

    def feed_forward(self, hidden_states: Tensor) -> Tensor:
        """(B, N, E) -> (B, N, E), token by token."""
        activated = self.intermediate(hidden_states)
        # A checkpointed layer keeps nothing in the first place.
        with nullcontext() if self.gradient_checkpointing else without_gelu_output(activated):
            return self.output(activated, hidden_states)


def cheapest_chunk(hidden_states: Tensor, width: int) -> int:
    """Tokens of a row to compute at a time where nobody chose, 0 for all of them.

    Without gradients the activations in between are soon free again. In chunks that the CPU's allocator reuses, rather
    than in one piece that it maps afresh for each layer, a 4096-token feed-forward takes about 0.8 of the time.

    Args:
        hidden_states: (B, N, E).
        width: the widest activation's features.
    """
    if torch.is_grad_enabled() or hidden_states.device.type != "cpu" or torch.compiler.is_compiling():
        return 0
    return max(_CHUNK_BYTES // (width * hidden_states.element_size() * hidden_states.shape[0]), 1)


def in_chunks(function: Callable[..., Tensor], size: int, *rows: Tensor) -> Tensor:
    """`function` of (B, N, E) tensors, which works token by token, on `size` tokens of a row at a time; 0: on all."""
    if not size or rows[0].shape[1] <= size:
        return function(*rows)
    chunks = zip(*(tensor.split(size, dim=1) for tensor in rows), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([function(*chunk) for chunk in chunks], dim=1)
    # Not torch.cat, which would hold everything twice.
    first = function(*next(chunks))
    result = first.new_empty(first.shape[0], rows[0].shape[1], *first.shape[2:])
    result[:, :size] = first
    for chunk, place in zip(chunks, result[:, size:].split(size, dim=1), strict=True):
        place.copy_(function(*chunk))
    return result


class LongformerPlusEncoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, config: LongformerPlusConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([LongformerPlusLayer(config, index) for index in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False

    def forward(
        self, hidden_states: Tensor, pattern: AttentionPattern, head_masks: list[Tensor | None], output_attentions: bool
    ) -> Tensor:
        """(B, N, E) -> (B, N, E)."""
        for layer, head_mask in zip(self.layer, head_masks, strict=True):
            hidden_states = layer(hidden_states, pattern, head_mask, output_attentions)
        return hidden_states


class LongformerPlusPooler(nn.Module):
    """The first valid token's state, through a dense layer and tanh."""

    def __init__(self, config: LongformerPlusConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first_token: Tensor) -> Tensor:
        """(B, E) -> (B, E)."""
        return torch.tanh(self.dense(first_token))


class LongformerPlusPreTrainedModel(PreTrainedModel):
    """What all LongformerPlus models share: loading, initialisation, and the policy of global attention.

    A `transformers.LongformerConfig` is converted where one is given, so that Longformer checkpoints load as they are.
    """

    config: LongformerPlusConfig
    config_class = LongformerPlusConfig
    base_model_prefix = "longformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LongformerPlusEmbeddings", "LongformerPlusLayer"]
    _supports_sdpa = True
    # A buffer in checkpoints written before transformers 4.31.
    _keys_to_ignore_on_load_unexpected = [r"embeddings\.position_ids$"]
    _can_record_outputs = {
        "hidden_states": LongformerPlusLayer,
        "attentions": OutputRecorder(LongformerPlusSelfAttention, index=1),
        "global_attentions": OutputRecorder(LongformerPlusSelfAttention, index=2),
    }

    # What global_attention="auto" means for the class.
    auto_global_attention: Policy = "none"

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        config = LongformerPlusConfig.from_longformer(config)
        config.check()
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(bias := getattr(module, "bias", None), nn.Parameter):
            init.zeros_(bias)

    def choose_global_attention(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        auto: Policy | None = None,
    ) -> Tensor | None:
        """The global attention mask of a batch that comes without one, by `config.global_attention`.

        Args:
            input_ids: (B, N), or None.
            inputs_embeds: (B, N, E), or None.
            attention_mask: (B, N), or None.
            auto: what "auto" means; by default what it means for this class.

        Returns:
            (B, N) of 0 and 1, or None where no token attends globally.
        """
        policy: Policy = self.config.global_attention
        if policy == "auto":
            policy = self.auto_global_attention if auto is None else auto
        batch = input_ids if input_ids is not None else inputs_embeds
        if policy == "none" or batch is None:
            return None
        if attention_mask is None:
            valid = torch.ones(batch.shape[:2], dtype=torch.bool, device=batch.device)
        else:
            valid = attention_mask > 0
        return build_global_attention_mask(policy, input_ids, valid, self.config.sep_token_id)

    def find_padding(
        self,
        attention_mask: Tensor | None,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        output_attentions: bool | None,
        padding_states: bool,
    ) -> Padding | None:
        """The padding that the encoder takes out of a batch with these arguments of its forward; None for none."""
        unpad = self.config.unpad_inputs
        if attention_mask is None or unpad is False or output_attentions or torch.compiler.is_compiling():
            return None
        valid = attention_mask > 0
        if padding_states:
            # One sample can stand for all padding only where it is alike.
            if input_ids is None or token_type_ids is not None or position_ids is not None:
                return None
            if not bool((valid | (input_ids == self.config.pad_token_id)).all()):
                return None
        return Padding.find(valid, keep_sample=padding_states, force=unpad is True)


class LongformerPlusModel(LongformerPlusPreTrainedModel):
    """The bare encoder.

    Args:
        config: a LongformerPlusConfig, or a LongformerConfig.
        add_pooling_layer: whether there is a pooler.
    """

    def __init__(self, config: PreTrainedConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = LongformerPlusEmbeddings(self.config)
        self.encoder = LongformerPlusEncoder(self.config)
        self.pooler = LongformerPlusPooler(self.config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embeddings."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.embeddings.word_embeddings = value  # type: ignore[assignment]

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        head_mask: Tensor | None = None,
        auto_global_attention: Policy | None = None,
        padding_states: bool = False,
        **kwargs: Any,
    ) -> LongformerPlusModelOutput:
        """
        Args:
            input_ids: (B, N) token ids.
            attention_mask: (B, N), 1 for valid tokens and 0 for padding; also 2 for valid tokens that attend globally.
            global_attention_mask: (B, N), 1 for tokens that attend globally. When None, `config.global_attention` says
                which do.
            token_type_ids: (B, N).
            position_ids: (B, N), or (1, N) for all rows.
            inputs_embeds: (B, N, E), in place of `input_ids`.
            output_attentions: return `attentions` and `global_attentions`, computed by the eager backend.
            output_hidden_states: return the hidden states: all, or those of these indices.
            head_mask: (H) or (L, H) factors of the heads' contributions.
            auto_global_attention: what `config.global_attention="auto"` means; the task heads say it.
            padding_states: give padding the states that it has where it is not taken out of the batch, in place of
                zeros; the heads' losses read them.
            return_dict: False for a tuple.

        Returns:
            LongformerPlusModelOutput: `last_hidden_state` (B, N, E); `pooler_output` (B, E), from the first valid
            token; `hidden_states`, `attentions` and `global_attentions` as in `outputs`.

        Raises:
            ValueError: an input has a shape or values that the model cannot take.
        """
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        check_inputs(
            self.config,
            input_ids,
            inputs_embeds,
            masks={"attention_mask": attention_mask, "global_attention_mask": global_attention_mask},
            ids={
                "input_ids": (input_ids, self.embeddings.word_embeddings.num_embeddings),
                "token_type_ids": (token_type_ids, self.config.type_vocab_size),
                "position_ids": (position_ids, self.config.max_position_embeddings),
            },
        )
        head_masks = check_head_mask(self.config, head_mask)
        if input_ids is not None:
            self.warn_if_padding_and_no_attention_mask(input_ids, attention_mask)
        if global_attention_mask is None:
            global_attention_mask = self.choose_global_attention(
                input_ids, inputs_embeds, attention_mask, auto_global_attention
            )
        padding = self.find_padding(
            attention_mask, input_ids, token_type_ids, position_ids, output_attentions, padding_states
        )
        if position_ids is None:
            position_ids = self.embeddings.positions(input_ids, inputs_embeds)
            check_length(self.config, position_ids.shape[1], position_ids)
        if output_attentions and self.config._attn_implementation != "eager":
            logger.warning_once(
                f'output_attentions=True is computed by the eager backend: "{self.config._attn_implementation}" has no '
                "attention probabilities to return."
            )

        valid, is_global = split_masks(attention_mask, global_attention_mask)
        batch = (input_ids, token_type_ids, position_ids, inputs_embeds)
        if padding is not None:
            batch = tuple(None if rows is None else padding.remove(rows) for rows in batch)  # type: ignore[assignment]
        hidden_states = self.embeddings(*batch)
        # Without a global token, returned attentions have no global columns; else a filler keeps the parameters in use.
        traced = torch.compiler.is_compiling()
        keep_empty = traced or (self.training and torch.is_grad_enabled() and not output_attentions)
        if padding is None:
            pattern = AttentionPattern.build(
                valid, is_global, hidden_states, keep_empty, is_causal=self.config.is_causal
            )
        else:
            pattern = padding.pattern(is_global, keep_empty, self.config.is_causal)
        outputs: LongformerPlusModelOutput = self._encode(
            hidden_states,
            pattern,
            head_masks,
            output_attentions=output_attentions,
            output_global_attentions=output_attentions and pattern.num_global > 0,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        if padding is not None:
            outputs.last_hidden_state = padding.restore(outputs.last_hidden_state, fill_with_sample=True)
            if outputs.hidden_states is not None:
                # None for each that was not asked for.
                outputs.hidden_states = tuple(
                    None if states is None else padding.restore(states) for states in outputs.hidden_states
                )
        if self.pooler is not None:
            outputs.pooler_output = self.pooler(first_valid_token(outputs.last_hidden_state, attention_mask))
        return outputs

    @capture_outputs
    def _encode(
        self,
        hidden_states: Tensor,
        pattern: AttentionPattern,
        head_masks: list[Tensor | None],
        output_attentions: bool,
        **kwargs: Any,
    ) -> LongformerPlusModelOutput:
        """The layers; `capture_outputs` records what `_can_record_outputs` names on the way."""
        hidden_states = self.encoder(hidden_states, pattern, head_masks, output_attentions)
        return LongformerPlusModelOutput(last_hidden_state=hidden_states)


def split_masks(
    attention_mask: Tensor | None, global_attention_mask: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Two masks of (B, N) -> which tokens are valid, which are asked to attend globally; both bool, None for None."""
    is_global = None if global_attention_mask is None else global_attention_mask > 0
    if attention_mask is None:
        return None, is_global
    if attention_mask.dtype != torch.bool:
        # The notation of Longformer's first release: 2 in the attention mask itself.
        merged = attention_mask == 2
        is_global = merged if is_global is None else is_global | merged
    return attention_mask > 0, is_global


def first_valid_token(hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
    """(B, N, E) -> (B, E), the state of each row's first token that is not padding (of its first where all are)."""
    if attention_mask is None:
        return hidden_states[:, 0]
    first = (attention_mask > 0).long().argmax(dim=1)
    return hidden_states.gather(1, first[:, None, None].expand(-1, 1, hidden_states.shape[-1]))[:, 0]
