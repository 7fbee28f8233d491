"""LongformerPlusForCausalLM: next-token prediction, and generation with a rolling cache.

Shapes: B batch, N tokens, V vocabulary.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig
from transformers.utils import ModelOutput, can_return_tuple

from .cache import LongformerPlusCache
from .configuration import LongformerPlusConfig
from .facts import ValueChecks
from .heads import LongformerPlusLanguageModel, extras
from .inputs import flattened_documents
from .losses import IGNORED_LABEL, Count, token_loss
from .outputs import LongformerPlusCausalLMOutput


class LongformerPlusForCausalLM(LongformerPlusLanguageModel, GenerationMixin):
    """Causal language modelling: each token sees only itself and those before it.

    Its parameters are those of LongformerPlusForMaskedLM, so it starts from any masked checkpoint; its configuration
    is a copy with `is_causal=True`. Generation keeps a rolling cache: see `cache.LongformerPlusCache`. Only tokens of
    the prompt can attend globally.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        config = copy(LongformerPlusConfig.from_longformer(config))
        config.is_causal = True
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: LongformerPlusCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        document_ids: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        head_mask: Tensor | None = None,
        num_items_in_batch: Count = None,
        shift_labels: Tensor | None = None,
        max_global_tokens: int | None = None,
        **kwargs: Any,
    ) -> LongformerPlusCausalLMOutput:
        """
        Args:
            labels: (B, N) token ids, usually the `input_ids`, -100 where nothing is to be learned: the label at each
                place is predicted from the token before it. The first of a document, and one that follows padding,
                is not.
            shift_labels: (B, N), in place of `labels`: what is to be predicted at each place itself. Training that
                splits documents between devices gives these.
            logits_to_keep: compute the logits of this many last tokens only, or of those at these places; 0 for all.

        Returns:
            LongformerPlusCausalLMOutput: `logits` (B, N, V), `loss` where labels are given, and `past_key_values`.

        Raises:
            ValueError: `labels` come with `logits_to_keep`.
        """
        is_labelled = labels is not None or shift_labels is not None
        if is_labelled and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise ValueError("labels need the logits of all tokens. Leave logits_to_keep out.")
        outputs = self.run_encoder(
            input_ids,
            attention_mask,
            global_attention_mask,
            inputs_embeds,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            document_ids=document_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            head_mask=head_mask,
            max_global_tokens=max_global_tokens,
            **kwargs,
        )
        if isinstance(logits_to_keep, int) and logits_to_keep == 0:
            padding = getattr(outputs, "padding", None)
            logits = self.logits(outputs.last_hidden_state, padding)
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.logits(outputs.last_hidden_state[:, kept])
        loss = None
        if shift_labels is None and labels is not None:
            if document_ids is None:
                document_ids = flattened_documents(kwargs, position_ids, labels.shape[1], ValueChecks())
            shift_labels = next_tokens(labels, attention_mask, document_ids)
        if shift_labels is not None:
            loss = token_loss(logits, shift_labels, num_items_in_batch)
        return LongformerPlusCausalLMOutput(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, **extras(outputs)
        )

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """What `generate` calls `forward` with: transformers' choice, and the new tokens' part of the global mask."""
        inputs = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,  # type: ignore[arg-type]
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        if (mask := inputs.get("global_attention_mask")) is not None:
            cache = inputs.get("past_key_values")
            first = 0 if cache is None else cache.get_seq_length()
            tokens = inputs["inputs_embeds"] if inputs.get("input_ids") is None else inputs["input_ids"]
            inputs["global_attention_mask"] = mask[:, first : first + tokens.shape[1]]
        return inputs

    def _prepare_cache_for_generation(  # type: ignore[override]
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any
    ) -> None:
        implementation = generation_config.cache_implementation
        if implementation is not None:
            raise ValueError(
                f"cache_implementation={implementation!r} is not allowed: LongformerPlus generates with a rolling "
                "cache of its own. Leave it out."
            )
        if generation_config.use_cache is not False and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = LongformerPlusCache(self.config)

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        # There they count from 0.
        return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs) + self.config.pad_token_id + 1

    def _expand_inputs_for_generation(  # type: ignore[override]
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        # A policy chooses among the tokens of the prompt, once: it would find others in what is generated.
        cache = model_kwargs.get("past_key_values")
        if model_kwargs.get("global_attention_mask") is None and (cache is None or not cache.get_seq_length()):
            model_kwargs["global_attention_mask"] = self.choose_global_attention(
                input_ids, model_kwargs.get("inputs_embeds"), model_kwargs.get("attention_mask")
            )
        return super()._expand_inputs_for_generation(  # type: ignore[misc]
            expand_size,
            is_encoder_decoder,
            input_ids,  # type: ignore[arg-type]
            **model_kwargs,
        )

    def _update_model_kwargs_for_generation(
        self, outputs: ModelOutput, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        if (mask := model_kwargs.get("global_attention_mask")) is not None:
            model_kwargs["global_attention_mask"] = F.pad(mask, (0, kwargs.get("num_new_tokens", 1)))
        return model_kwargs


def next_tokens(labels: Tensor, attention_mask: Tensor | None, document_ids: Tensor | None) -> Tensor:
    """(B, N) labels -> (B, N), what each token is to predict; -100 at the end of a document and on padding."""
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
    if attention_mask is not None:
        following = following.masked_fill(attention_mask == 0, IGNORED_LABEL)
    if document_ids is not None:
        is_last = F.pad(document_ids[:, 1:] != document_ids[:, :-1], (0, 1), value=True)
        following = torch.where(is_last, IGNORED_LABEL, following)
    return following
