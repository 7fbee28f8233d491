"""LongformerPlusForCausalLM: next-token prediction, and generation with a rolling cache.

Shapes: B batch, N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig
from transformers.processing_utils import Unpack
from transformers.utils import can_return_tuple

from ..configuration import LongformerPlusConfig
from ..ops.host_reads import ValueChecks
from .arguments import EncoderArguments
from .cache import LongformerPlusCache
from .heads import LongformerPlusLanguageModel, recorded
from .inputs import flattened_documents
from .losses import IGNORED_LABEL, Count
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
        max_global_tokens: int | None = None,
        num_items_in_batch: Count = None,
        shift_labels: Tensor | None = None,
        **kwargs: Unpack[EncoderArguments],
    ) -> LongformerPlusCausalLMOutput:
        """
        Args:
            labels: (B, N) token ids, usually the `input_ids`; -100 for labels to ignore. Each label is predicted from
                the token before it. The first token of a document and a token after padding are not predicted.
            shift_labels: (B, N), in place of `labels`: the label to predict at each token itself. Context-parallel
                training passes these.
            logits_to_keep: compute the logits of only this many last tokens, or of the tokens at these positions; 0
                for all.

        Returns:
            LongformerPlusCausalLMOutput: `logits` (B, N, V), `loss` where labels are given, and `past_key_values`.

        Raises:
            ValueError: `labels` come with `logits_to_keep`.
        """
        is_labelled = labels is not None or shift_labels is not None
        if is_labelled and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise ValueError("labels need the logits of all tokens. Leave logits_to_keep out.")
        outputs = self.longformer(
            input_ids,
            attention_mask,
            global_attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            past_key_values=past_key_values,
            use_cache=use_cache,
            document_ids=document_ids,
            max_global_tokens=max_global_tokens,
            **{**kwargs, "return_dict": True},
        )
        if isinstance(logits_to_keep, int) and logits_to_keep == 0:
            logits = self.logits(outputs.last_hidden_state, outputs.padding)
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.logits(outputs.last_hidden_state[:, kept])
        loss = None
        if shift_labels is None and labels is not None:
            if document_ids is None:
                document_ids = flattened_documents(kwargs, position_ids, labels.shape[1], ValueChecks())
            shift_labels = next_tokens(labels, attention_mask, document_ids)
        if shift_labels is not None:
            loss = self.token_loss(logits, shift_labels, num_items_in_batch)
        return LongformerPlusCausalLMOutput(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, **recorded(outputs)
        )

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Generate as transformers' `GenerationMixin.generate` does, with a rolling cache.

        Args:
            inputs: (B, N) token ids of the prompt; also as `input_ids`, or as `inputs_embeds` (B, N, E).
            generation_config, args: as in transformers.
            kwargs: as in transformers, and `global_attention_mask` (B, N) of the prompt. By default
                `config.global_attention` chooses global tokens in the prompt; generated tokens are never global.

        Raises:
            ValueError: another kind of cache is requested; assisted generation is to continue a cached document; or
                there are global tokens after the first chunk of a prompt, or in a continuation of a cached document.
        """

        def setting(name: str) -> Any:
            places = (
                kwargs.get(name),
                *(getattr(each, name, None) for each in (generation_config, self.generation_config)),
            )
            return next((value for value in places if value is not None), None)

        if (implementation := setting("cache_implementation")) is not None:
            raise ValueError(
                f"cache_implementation={implementation!r} is not allowed: LongformerPlus generates with a rolling "
                "cache of its own. Leave it out."
            )
        cache = kwargs.get("past_key_values")
        guesses = kwargs.get("assistant_model") is not None or setting("prompt_lookup_num_tokens") is not None
        if guesses and cache is not None and cache.get_seq_length():
            raise ValueError(
                "past_key_values that hold tokens are not allowed with assistant_model or prompt_lookup_num_tokens: "
                "transformers then starts with all of the text, also with what is cached. Leave past_key_values out, "
                "or generate without guesses."
            )
        is_assistant = getattr(generation_config, "is_assistant", False)
        embeds = kwargs.get("inputs_embeds")
        if cache is None and (setting("use_cache") is not False or embeds is not None):
            kwargs["past_key_values"] = LongformerPlusCache(self.config)
            if is_assistant:
                kwargs["past_key_values"].activate_past_recording()
        if kwargs.get("position_ids") is not None and not is_assistant:
            kwargs["position_ids"] = kwargs["position_ids"] - self._first_position
        ids = kwargs.get("input_ids") if inputs is None else inputs
        self._choose_global_tokens(ids, embeds, kwargs)
        _check_global_tokens(kwargs, setting("prefill_chunk_size"))
        return super().generate(inputs, generation_config, *args, **kwargs)  # type: ignore[misc]

    def _choose_global_tokens(self, ids: Tensor | None, embeds: Tensor | None, kwargs: dict[str, Any]) -> None:
        """Add the global attention mask of the prompt to the arguments of `generate`, if none is given.

        It is chosen once: later a policy would also choose among the generated tokens.
        """
        cache = kwargs.get("past_key_values")
        if kwargs.get("global_attention_mask") is not None or (cache is not None and cache.get_seq_length()):
            return
        mask = kwargs.get("attention_mask")
        if mask is None and ids is not None:
            mask = ids != self.config.pad_token_id
        if (chosen := self.choose_global_attention(ids if embeds is None else None, embeds, mask)) is not None:
            kwargs["global_attention_mask"] = chosen

    @property
    def _first_position(self) -> int:
        """The position id of a document's first token; `generate` counts from 0."""
        return self.config.pad_token_id + 1  # type: ignore[operator]

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The inputs of `forward` in a step of `generate`: those of transformers, with the model's own positions, and
        with the part of the prompt's global attention mask that covers the new tokens."""
        inputs = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,  # type: ignore[arg-type]
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        if (position_ids := inputs.get("position_ids")) is not None:
            inputs["position_ids"] = position_ids + self._first_position
        if (mask := inputs.pop("global_attention_mask", None)) is not None:
            cache = inputs.get("past_key_values")
            first = 0 if cache is None else cache.get_seq_length()
            tokens = inputs["inputs_embeds"] if inputs.get("input_ids") is None else inputs["input_ids"]
            if first < mask.shape[1]:
                after = max(first + tokens.shape[1] - mask.shape[1], 0)
                inputs["global_attention_mask"] = F.pad(mask, (0, after))[:, first : first + tokens.shape[1]]
        return inputs


def _check_global_tokens(kwargs: Mapping[str, Any], chunk: int | None) -> None:
    """Raise a ValueError if a token of the prompt outside of the first forward is global."""
    mask, cache = kwargs.get("global_attention_mask"), kwargs.get("past_key_values")
    if mask is None or cache is None:
        return
    before = cache.get_seq_length()
    if before:
        where, remedy = "after those of past_key_values", "Leave them out, or generate from the whole text anew"
        late = mask[:, before:]
    elif chunk is not None:
        where = f"after the first {chunk}, prefill_chunk_size"
        remedy = "Leave prefill_chunk_size out, or raise it until the first chunk has all of them"
        late = mask[:, chunk:]
    else:
        return
    if late.any():
        raise ValueError(
            f"global_attention_mask has global tokens {where}. A global token looks at all tokens before it, of which "
            f"a rolling cache keeps those that the window reaches. {remedy}."
        )


def next_tokens(labels: Tensor, attention_mask: Tensor | None, document_ids: Tensor | None) -> Tensor:
    """(B, N) labels -> (B, N), the label that each token predicts; -100 at the end of a document and on padding."""
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
    if attention_mask is not None:
        following = following.masked_fill(attention_mask == 0, IGNORED_LABEL)
    if document_ids is not None:
        is_last = F.pad(document_ids[:, 1:] != document_ids[:, :-1], (0, 1), value=True)
        following = torch.where(is_last, IGNORED_LABEL, following)
    return following
