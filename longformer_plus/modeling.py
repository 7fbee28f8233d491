"""LongformerPlusModel.

Follow a batch: `LongformerPlusModel.forward` checks the inputs, finds the global tokens and the padding, makes the
embeddings and the attention pattern without it, hands both to the layers, and puts the padding back.

Shapes: B batch, N tokens, H heads, E hidden size, G global tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple, logging
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import AUTO, AttentionPattern, default_backend, places_in, segments_of
from .cache import LongformerPlusCache
from .configuration import LongformerPlusConfig
from .facts import ValueChecks
from .global_attention import Policy, build_global_attention_mask
from .inputs import (
    ModelInputs,
    check_continuation,
    check_global_tokens,
    check_head_mask,
    check_length,
    checked_inputs,
)
from .layers import (
    LongformerPlusEmbeddings,
    LongformerPlusEncoder,
    LongformerPlusLayer,
    LongformerPlusPooler,
    LongformerPlusSelfAttention,
)
from .outputs import LongformerPlusModelOutput
from .padding import Padding

logger = logging.get_logger(__name__)


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
    _supports_flex_attn = True
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
        config.check_for_model()
        super().__init__(config, *args, **kwargs)

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        """The backend that is meant by `attn_implementation`: `default_backend()` by None. "auto" is this package's."""
        wanted = default_backend() if requested_attention is None else requested_attention
        return AUTO if wanted == AUTO else super().get_correct_attn_implementation(wanted, is_init_check)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(bias := getattr(module, "bias", None), nn.Parameter):
            init.zeros_(bias)

    def get_position_embeddings(self) -> nn.Embedding:
        """The position embeddings: row `pad_token_id` + 1 is the first token's."""
        return self._embeddings().position_embeddings

    def _embeddings(self) -> LongformerPlusEmbeddings:
        return self.base_model.embeddings  # type: ignore[return-value]

    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Give the model another number of positions: copies of those it has (the paper's section 5), or fewer.

        Args:
            new_num_position_embeddings: rows of the table, `config.max_position_embeddings`; of these the first
                `config.pad_token_id` + 1 are for no token.

        Raises:
            ValueError: there would be no row for tokens.
        """
        self._embeddings().resize_positions(new_num_position_embeddings)
        self.config.max_position_embeddings = new_num_position_embeddings

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether layers compute their activations again in the backward pass.

        PEFT asks by this name wherever it adapts a model. transformers' own property of that name warns its users, who
        have not asked, to use another.
        """
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    def choose_global_attention(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        auto: Policy | None = None,
        segments: Tensor | None = None,
    ) -> Tensor | None:
        """The global attention mask of a batch that comes without one, by `config.global_attention`.

        Args:
            input_ids: (B, N), or None.
            inputs_embeds: (B, N, E), or None.
            attention_mask: (B, N), or None.
            auto: what "auto" means; by default what it means for this class.
            segments: (B, N) where rows hold several documents; each of them gets its global tokens.

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
        places = None if segments is None else places_in(segments)
        return build_global_attention_mask(policy, input_ids, valid, self.config.sep_token_id, places)


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
        auto_global_attention: Policy | None = None,
        padding_states: bool = False,
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
            auto_global_attention: what `config.global_attention="auto"` means; the task heads say it.
            padding_states: give padding the states that it has where it is not taken out of the batch, in place of
                zeros; the heads' losses read them.
            max_global_tokens: a number that no row has more global tokens than. Given it, compiled and exported graphs
                have no size that depends on the mask.
            document_ids: (B, N) ints where rows hold several documents, one after another: tokens of different ids do
                not see one another, and positions start again. Also as `seq_idx` or `cu_seq_lens_q`, as transformers'
                flattening collator has them; its `position_ids` are then the same as none.
            past_key_values: of a causal model, what it keeps of the tokens before; the masks may include those. Only
                tokens of the first forward can attend globally.
            use_cache: return `past_key_values`, new where none were given. Not with gradient checkpointing.
            return_dict: False for a tuple.

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
        given = ModelInputs(
            input_ids, inputs_embeds, token_type_ids, position_ids, attention_mask, global_attention_mask, document_ids
        )
        # An adapter's layer does not say.
        num_embeddings = getattr(self.embeddings.word_embeddings, "num_embeddings", self.config.vocab_size)
        checks = ValueChecks()
        inputs = checked_inputs(self.config, given, num_embeddings, cache, kwargs, checks)
        head_masks = check_head_mask(self.config, head_mask)
        self._warn(inputs, output_attentions)
        segments = None if inputs.document_ids is None else segments_of(inputs.document_ids)
        valid, is_global = self._masks(inputs, segments, cache, auto_global_attention, max_global_tokens, checks)
        position_ids = inputs.position_ids
        if position_ids is None:
            position_ids = self._positions(inputs, segments, cache, checks)
        # The one time that the host waits for the device.
        numbers = self._numbers(inputs, valid, is_global, cache, max_global_tokens, output_attentions, padding_states)
        sizes = checks.read(numbers)
        padding = None
        if "num_valid" in sizes and valid is not None and not sizes.get("num_unlike"):
            force = self.config.unpad_inputs is True
            padding = Padding.find(valid, sizes["num_valid"], sizes["num_broken"], padding_states, force)
        if cache is not None:
            cache.advance(position_ids)
        hidden_states = self._embed(inputs, position_ids, padding)
        pattern = self._pattern(
            hidden_states, valid, is_global, segments, padding, output_attentions, max_global_tokens, sizes
        )
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
            _put_back(padding, outputs)
        if self.pooler is not None:
            outputs.pooler_output = self.pooler(
                pooled_token(outputs.last_hidden_state, inputs.attention_mask, self.config.is_causal)
            )
        outputs.past_key_values = cache
        # For a head that computes token by token; not one of the outputs.
        outputs.padding = padding
        return outputs

    def _cache(self, past_key_values: LongformerPlusCache | None, use_cache: bool | None) -> LongformerPlusCache | None:
        """The cache of a forward, None for none."""
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
        segments: Tensor | None,
        cache: LongformerPlusCache | None,
        auto_global_attention: Policy | None,
        max_global_tokens: int | None,
        checks: ValueChecks,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Which tokens are valid and which are asked to attend globally: (B, N) bool each, or None for all and none.

        Args:
            inputs: as checked.
            segments: (B, N) int64 of the documents, where rows hold several.
            cache: of the tokens before; only those of its first forward can attend globally.
            auto_global_attention, max_global_tokens: as of the forward.
            checks: where the checks of values are noted.

        Raises:
            ValueError: the rows do not go on from those of the cache.
        """
        global_attention_mask = inputs.global_attention_mask
        if global_attention_mask is None and (cache is None or not cache.get_seq_length()):
            global_attention_mask = self.choose_global_attention(
                inputs.input_ids, inputs.inputs_embeds, inputs.attention_mask, auto_global_attention, segments
            )
        valid, is_global = split_masks(inputs.attention_mask, global_attention_mask)
        check_global_tokens(is_global, max_global_tokens, checks)
        check_continuation(cache, inputs.tokens.shape[0], is_global, checks)
        if is_global is not None and valid is not None:
            is_global = is_global & valid
        return valid, None if cache is not None and cache.get_seq_length() else is_global

    def _numbers(
        self,
        inputs: ModelInputs,
        valid: Tensor | None,
        is_global: Tensor | None,
        cache: LongformerPlusCache | None,
        max_global_tokens: int | None,
        output_attentions: bool,
        padding_states: bool,
    ) -> dict[str, Tensor]:
        """What a forward must know of its masks, by name, as tensors without dimensions; nothing in a traced graph.

        Args:
            inputs: as checked.
            valid, is_global: (B, N) bool, from `_masks`.
            cache: of the tokens before.
            max_global_tokens, output_attentions, padding_states: as of the forward.
        """
        numbers: dict[str, Tensor] = {}
        if torch.compiler.is_compiling() or not inputs.tokens.numel():
            return numbers
        if is_global is not None and max_global_tokens is None:
            numbers["most_global"], numbers["num_global"] = is_global.sum(1).amax(), is_global.sum()
        if valid is None or cache is not None or self.config.unpad_inputs is False or output_attentions:
            return numbers
        # A hook before a layer may treat the rows of a batch apart, as PEFT's do where each row has its own adapter.
        if any(module._forward_pre_hooks for module in self.modules()):
            return numbers
        if padding_states:
            # One sample can stand for all padding only where it is alike.
            if inputs.input_ids is None or inputs.token_type_ids is not None or inputs.position_ids is not None:
                return numbers
            numbers["num_unlike"] = (~valid & (inputs.input_ids != self.config.pad_token_id)).sum()
        if is_global is not None:
            numbers["num_global"] = is_global.sum()
        return numbers | Padding.measure(valid)

    def _embed(self, inputs: ModelInputs, position_ids: Tensor, padding: Padding | None) -> Tensor:
        """(B, N) ids or (B, N, E) word embeddings -> (B, N, E), or (1, T, E) where the padding is taken out."""
        rows = (inputs.input_ids, inputs.token_type_ids, position_ids, inputs.inputs_embeds)
        if padding is not None:
            rows = tuple(None if each is None else padding.remove(each) for each in rows)  # type: ignore[assignment]
        return self.embeddings(*rows)

    def _pattern(
        self,
        hidden_states: Tensor,
        valid: Tensor | None,
        is_global: Tensor | None,
        segments: Tensor | None,
        padding: Padding | None,
        output_attentions: bool,
        max_global_tokens: int | None,
        sizes: dict[str, int],
    ) -> AttentionPattern:
        """Who may attend to whom among the tokens of `hidden_states`.

        Args:
            hidden_states: (B, N, E), or (1, T, E) where the padding is taken out.
            valid, is_global: (B, N) bool, from `_masks`.
            segments: (B, N) int64 of the documents, where rows hold several.
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
            return padding.pattern(is_global, keep_empty, segments, sizes.get("num_global"), **options)
        most = sizes.get("most_global") if max_global_tokens is None else max_global_tokens
        is_packed = segments is not None and len(segments) == 1 and not traced and not output_attentions
        return AttentionPattern.build(
            valid,
            is_global,
            hidden_states,
            keep_empty,
            segments,
            # What is packed is measured on the device, which a promise is there to avoid.
            is_packed=is_packed and max_global_tokens is None,
            max_global_tokens=most,
            **options,
        )

    def _positions(
        self,
        inputs: ModelInputs,
        segments: Tensor | None,
        cache: LongformerPlusCache | None,
        checks: ValueChecks,
    ) -> Tensor:
        """(B, N) or (1, N) position ids of a batch that comes without them."""
        position_ids = self.embeddings.positions(inputs.input_ids, inputs.inputs_embeds, segments)
        num_tokens = position_ids.shape[1]
        if cache is not None:
            position_ids = cache.positions(position_ids, first=self.embeddings.padding_idx + 1)
            num_tokens += cache.get_seq_length()
        check_length(self.config, num_tokens, position_ids, checks)
        return position_ids

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
    """Two masks of (B, N) -> which tokens are valid, which are asked to attend globally; both bool, None for None."""
    is_global = None if global_attention_mask is None else global_attention_mask > 0
    if attention_mask is None:
        return None, is_global
    if attention_mask.dtype != torch.bool:
        # The notation of Longformer's first release: 2 in the attention mask itself.
        merged = attention_mask == 2
        is_global = merged if is_global is None else is_global | merged
    return attention_mask > 0, is_global


def _put_back(padding: Padding, outputs: LongformerPlusModelOutput) -> None:
    """Give the states of an encoder that saw no padding, (1, T, E) each, their places in the batch: (B, N, E)."""
    outputs.last_hidden_state = padding.restore(outputs.last_hidden_state, fill_with_sample=True)
    if outputs.hidden_states is not None:
        # None for each that was not asked for.
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
