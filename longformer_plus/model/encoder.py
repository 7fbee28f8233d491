"""LongformerPlusModel, the encoder. Its `forward` is where to start reading: each step of it is a method below.

Shapes: B batch, N tokens, T tokens left after unpadding, H heads, E hidden size, G global tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.utils import can_return_tuple, logging
from transformers.utils.output_capturing import capture_outputs

from ..attention import AttentionPattern, segments_of
from ..ops.host_reads import ValueChecks
from .cache import LongformerPlusCache
from .embeddings import LongformerPlusEmbeddings
from .inputs import (
    ModelInputs,
    check_continuation,
    check_global_tokens,
    check_head_mask,
    check_length,
    checked_inputs,
)
from .layers import LongformerPlusEncoder, LongformerPlusPooler
from .outputs import LongformerPlusModelOutput
from .padding import Padding
from .pretrained import LongformerPlusPreTrainedModel
from .splitting import SequenceSplit, check_split

logger = logging.get_logger(__name__)


class TokenMasks(NamedTuple):
    """What the masks of a batch say of its tokens.

    Attributes:
        valid: (B, N) bool, False on padding; None where every token is valid.
        is_global: (B, N) bool, the valid tokens that attend globally; None where none does.
        segments: (B, N) int64, the document of each token; None where each row is one document.
    """

    valid: Tensor | None
    is_global: Tensor | None
    segments: Tensor | None


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
        # Set while the tokens are spread over processes; see `integrations.context_parallel`.
        self.sequence_split: SequenceSplit | None = None
        self._dilations = tuple(sorted({step for layer in self.config.dilations for step in layer}))
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
        max_global_tokens: int | None = None,
        document_ids: Tensor | None = None,
        past_key_values: LongformerPlusCache | None = None,
        use_cache: bool | None = None,
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
            max_global_tokens: an upper bound of the global tokens of a row. With it, no size in compiled and exported
                graphs depends on the mask.
            document_ids: (B, N) ints where rows hold several documents, one after another: tokens of different ids do
                not see one another, and positions start again.
            past_key_values: the cache of a causal model. The masks may include the cached tokens. Only tokens of the
                first forward can attend globally.
            use_cache: return `past_key_values`, a new cache if none was passed. Not with gradient checkpointing.
            kwargs: `return_dict`, False for a tuple; `seq_idx` (1, N) or `cu_seq_lens_q` (documents + 1) in place of
                `document_ids`, as transformers' flattening collator has them, whose `position_ids` count from 0.

        Returns:
            LongformerPlusModelOutput: `last_hidden_state` (B, N, E); `pooler_output` (B, E), from the first valid
            token; `hidden_states`, `attentions` and `global_attentions` as in `outputs`; `past_key_values`.

        Raises:
            TypeError: `past_key_values` is another model's.
            ValueError: an input has a shape or values that the model cannot take.
        """
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        cache = self._cache(past_key_values, use_cache)
        split = self.sequence_split
        check_split(split, output_attentions, cache is not None)
        head_masks = check_head_mask(self.config, head_mask)
        given = ModelInputs(
            input_ids, inputs_embeds, token_type_ids, position_ids, attention_mask, global_attention_mask, document_ids
        )
        inputs, masks, padding, sizes = self._prepare(given, cache, kwargs, output_attentions, max_global_tokens)
        if split is not None:
            split.start((inputs.tokens.shape[0], inputs.tokens.shape[1]), padding)
        hidden_states = self._embed(inputs, padding)
        whole = hidden_states if split is None else inputs.tokens
        pattern = self._pattern(whole, masks, padding, output_attentions, max_global_tokens, sizes)
        if split is not None:
            pattern, padding = split.pattern(pattern), None  # which is not put back into a part of the tokens
        outputs: LongformerPlusModelOutput = self._encode(
            hidden_states,
            pattern,
            head_masks,
            cache,
            output_attentions=output_attentions,
            output_global_attentions=output_attentions and pattern.num_global > 0,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        if padding is not None:
            _restore_padding(padding, outputs)
        if self.pooler is not None:
            outputs.pooler_output = self.pooler(self.pooled(outputs.last_hidden_state, inputs.attention_mask))
        outputs.past_key_values = cache
        outputs.padding = padding
        return outputs

    def _prepare(
        self,
        given: ModelInputs,
        cache: LongformerPlusCache | None,
        arguments: dict[str, Any],
        output_attentions: bool,
        max_global_tokens: int | None,
    ) -> tuple[ModelInputs, TokenMasks, Padding | None, dict[str, int]]:
        """Check the inputs of a forward, and decide masks, positions and padding, once for all layers.

        Args:
            given: as the caller gave them.
            cache: of the tokens before, if there are any.
            arguments: the other keyword arguments of the forward.
            output_attentions, max_global_tokens: as of the forward.

        Returns:
            The inputs with position ids, the masks, the padding to take out, and the sizes read from the device.
        """
        checks = ValueChecks()
        # An adapter's layer does not say how many rows it has.
        num_embeddings = getattr(self.embeddings.word_embeddings, "num_embeddings", self.config.vocab_size)
        inputs = checked_inputs(self.config, given, num_embeddings, cache, arguments, checks)
        self._warn(inputs, output_attentions)
        masks = self._masks(inputs, cache, max_global_tokens, checks)
        inputs = self._with_positions(inputs, masks, cache, checks)
        unpads = cache is None and self.config.unpad_inputs is not False and not output_attentions
        # The one time that the host waits for the device.
        sizes = checks.read(self._sizes(inputs, masks, unpads, max_global_tokens))
        padding = None
        if masks.valid is not None and "num_valid" in sizes:
            measured = {name: sizes[name] for name in ("num_valid", "num_broken", "num_unlike")}
            padding = Padding.find(masks.valid, **measured, force=self.config.unpad_inputs is True)
        if cache is not None:
            cache.advance(inputs.position_ids)  # type: ignore[arg-type]
        return inputs, masks, padding, sizes

    def _cache(self, past_key_values: LongformerPlusCache | None, use_cache: bool | None) -> LongformerPlusCache | None:
        """The cache of a forward, or None."""
        if self.training and self.encoder.gradient_checkpointing:
            if use_cache or past_key_values is not None:
                # The layers run twice, and would be cached twice.
                logger.warning_once("Gradient checkpointing goes with no cache: use_cache is taken as False.")
            return None
        if past_key_values is None and use_cache:
            return LongformerPlusCache(self.config)
        return past_key_values

    def _warn(self, inputs: ModelInputs, output_attentions: bool) -> None:
        """Warn once about suspicious inputs; about padding on a CPU, where looking costs nothing."""
        if inputs.input_ids is not None and inputs.input_ids.numel() and inputs.input_ids.device.type == "cpu":
            self.warn_if_padding_and_no_attention_mask(inputs.input_ids, inputs.attention_mask)
        if output_attentions and self.config._attn_implementation != "eager":
            logger.warning_once(
                f'output_attentions=True is computed by the eager backend: "{self.config._attn_implementation}" has no '
                "attention probabilities to return."
            )

    def _masks(
        self,
        inputs: ModelInputs,
        cache: LongformerPlusCache | None,
        max_global_tokens: int | None,
        checks: ValueChecks,
    ) -> TokenMasks:
        """Which tokens are valid, which attend globally, and the documents.

        Args:
            inputs: as checked.
            cache: of the tokens before; only those of its first forward can attend globally.
            max_global_tokens: as of the forward.
            checks: where the checks of values are noted.

        Raises:
            ValueError: the rows do not go on from those of the cache.
        """
        continues = cache is not None and cache.get_seq_length() > 0
        segments = None if inputs.document_ids is None else segments_of(inputs.document_ids)
        global_attention_mask = inputs.global_attention_mask
        if global_attention_mask is None and not continues:
            global_attention_mask = self.choose_global_attention(
                inputs.input_ids, inputs.inputs_embeds, inputs.attention_mask, segments
            )
        valid, is_global = split_masks(inputs.attention_mask, global_attention_mask)
        check_global_tokens(is_global, max_global_tokens, checks)
        check_continuation(cache, inputs.tokens.shape[0], is_global, checks)
        if is_global is not None and valid is not None:
            is_global = is_global & valid
        return TokenMasks(valid, None if continues else is_global, segments)

    def _with_positions(
        self, inputs: ModelInputs, masks: TokenMasks, cache: LongformerPlusCache | None, checks: ValueChecks
    ) -> ModelInputs:
        """The inputs with position ids (B, N) or (1, N), counted where none were given."""
        if inputs.position_ids is not None:
            return inputs
        position_ids = self.embeddings.positions(inputs.input_ids, inputs.inputs_embeds, masks.segments)
        num_tokens = position_ids.shape[1]
        if cache is not None:
            position_ids = cache.positions(position_ids, first=self.embeddings.padding_idx + 1)
            num_tokens += cache.get_seq_length()
        check_length(self.config, num_tokens, position_ids, checks)
        return replace(inputs, position_ids=position_ids)

    def _sizes(
        self, inputs: ModelInputs, masks: TokenMasks, unpads: bool, max_global_tokens: int | None
    ) -> dict[str, Tensor]:
        """What a forward must know of its masks, by name, as tensors without dimensions; nothing in a traced graph.

        Args:
            inputs: with position ids.
            masks: from `_masks`.
            unpads: whether padding may be taken out.
            max_global_tokens: as of the forward.
        """
        sizes: dict[str, Tensor] = {}
        if torch.compiler.is_compiling() or not inputs.tokens.numel():
            return sizes
        if masks.is_global is not None and max_global_tokens is None:
            sizes["most_global"], sizes["num_global"] = masks.is_global.sum(1).amax(), masks.is_global.sum()
        # A hook before a layer may treat each row of a batch differently: PEFT can apply another adapter to each.
        if masks.valid is None or not unpads or any(module._forward_pre_hooks for module in self.modules()):
            return sizes
        if masks.is_global is not None:
            sizes["num_global"] = masks.is_global.sum()
        return sizes | Padding.measure(masks.valid, (rows for rows in inputs.embedded if rows is not None))

    def _embed(self, inputs: ModelInputs, padding: Padding | None) -> Tensor:
        """(B, N) ids or (B, N, E) word embeddings -> (B, N, E), or (1, T, E) where the padding is taken out.

        Where the tokens are spread over processes, of the own tokens alone.
        """
        if self.sequence_split is not None:
            return self.embeddings(
                *(None if rows is None else self.sequence_split.own(rows) for rows in inputs.embedded)
            )
        if padding is None:
            return self.embeddings(*inputs.embedded)
        return self.embeddings(*(None if rows is None else padding.remove(rows) for rows in inputs.embedded))

    def _pattern(
        self,
        batch: Tensor,
        masks: TokenMasks,
        padding: Padding | None,
        output_attentions: bool,
        max_global_tokens: int | None,
        sizes: dict[str, int],
    ) -> AttentionPattern:
        """Who may attend to whom among the tokens of the whole batch.

        Args:
            batch: (B, N, ...), or where the padding is taken out any tensor.
            masks: from `_masks`.
            padding: what is taken out, if anything.
            output_attentions, max_global_tokens: as of the forward.
            sizes: what was read from the device.
        """
        traced = torch.compiler.is_compiling()
        # Without a global token, returned attentions have no global columns; else a filler keeps the parameters in use.
        # In training also without gradients: a checkpointed forward draws the same random numbers in both passes.
        keep_empty = traced or ((self.training or torch.is_grad_enabled()) and not output_attentions)
        options: Any = {"is_causal": self.config.is_causal, "dilations": self._dilations}
        if padding is not None:
            return padding.pattern(masks.is_global, keep_empty, masks.segments, sizes.get("num_global"), **options)
        most = sizes.get("most_global") if max_global_tokens is None else max_global_tokens
        # Packed documents need sizes from the device. With `max_global_tokens` nothing must be read from it.
        measures = not traced and not output_attentions and max_global_tokens is None
        return AttentionPattern.build(
            masks.valid,
            masks.is_global,
            batch,
            keep_empty,
            masks.segments,
            is_packed=masks.segments is not None and len(masks.segments) == 1 and measures,
            max_global_tokens=most,
            **options,
        )

    def pooled(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, N, E) -> (B, E), the state of the token that stands for a row's document; see `pooled_token`."""
        pool = pooled_token if self.sequence_split is None else self.sequence_split.pooled
        return pool(hidden_states, attention_mask, self.config.is_causal)

    @capture_outputs
    def _encode(
        self,
        hidden_states: Tensor,
        pattern: AttentionPattern,
        head_masks: list[Tensor | None],
        cache: LongformerPlusCache | None,
        output_attentions: bool,
        **kwargs: Any,
    ) -> LongformerPlusModelOutput:
        """The layers; `capture_outputs` records what `_can_record_outputs` names on the way."""
        hidden_states = self.encoder(hidden_states, pattern, head_masks, output_attentions, cache)
        return LongformerPlusModelOutput(last_hidden_state=hidden_states)


def split_masks(
    attention_mask: Tensor | None, global_attention_mask: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """(B, N) masks -> bool masks of the valid tokens and of those that are to attend globally, each or None."""
    is_global = None if global_attention_mask is None else global_attention_mask > 0
    if attention_mask is None:
        return None, is_global
    if attention_mask.dtype != torch.bool:
        # The notation of Longformer's first release: 2 in the attention mask itself.
        merged = attention_mask == 2
        is_global = merged if is_global is None else is_global | merged
    return attention_mask > 0, is_global


def _restore_padding(padding: Padding, outputs: LongformerPlusModelOutput) -> None:
    """Give the states of an encoder that saw no padding, (1, T, E) each, their places in the batch: (B, N, E)."""
    outputs.last_hidden_state = padding.restore(outputs.last_hidden_state)
    if outputs.hidden_states is not None:
        # Hidden states that were not requested are None.
        outputs.hidden_states = tuple(
            None if states is None else padding.restore(states) for states in outputs.hidden_states
        )


def pooled_token(hidden_states: Tensor, attention_mask: Tensor | None, is_causal: bool = False) -> Tensor:
    """(B, N, E) -> (B, E), the state of the token that stands for a row's document.

    It is the first token that is not padding; in a causal model, where that one sees only itself, the last. Of a row
    that is all padding it is the first or last token.
    """
    if attention_mask is None:
        return hidden_states[:, -1 if is_causal else 0]
    valid = (attention_mask.to(hidden_states.device) > 0).long()
    place = hidden_states.shape[1] - 1 - valid.flip(1).argmax(dim=1) if is_causal else valid.argmax(dim=1)
    return hidden_states.gather(1, place[:, None, None].expand(-1, 1, hidden_states.shape[-1]))[:, 0]
