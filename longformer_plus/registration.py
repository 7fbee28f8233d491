"""Registration with the Auto classes: of LongformerPlus always, for Longformer checkpoints on request."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer, LongformerConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from .adapter_targets import add_adapter_targets, remove_adapter_targets
from .configuration import LongformerPlusConfig
from .integrations.quantization import register_int8
from .model.causal_lm import LongformerPlusForCausalLM
from .model.encoder import LongformerPlusModel
from .model.heads import (
    LongformerPlusForMaskedLM,
    LongformerPlusForMultipleChoice,
    LongformerPlusForQuestionAnswering,
    LongformerPlusForSequenceClassification,
    LongformerPlusForTokenClassification,
)
from .tokenization import LongformerPlusTokenizer

# For each Auto class: the stem of the names of transformers' tables (such as MODEL_MAPPING), and our class.
_MODELS = {
    "AutoModel": ("MODEL", LongformerPlusModel),
    "AutoModelForPreTraining": ("MODEL_FOR_PRETRAINING", LongformerPlusForMaskedLM),
    "AutoModelForMaskedLM": ("MODEL_FOR_MASKED_LM", LongformerPlusForMaskedLM),
    "AutoModelForCausalLM": ("MODEL_FOR_CAUSAL_LM", LongformerPlusForCausalLM),
    "AutoModelForSequenceClassification": (
        "MODEL_FOR_SEQUENCE_CLASSIFICATION",
        LongformerPlusForSequenceClassification,
    ),
    "AutoModelForQuestionAnswering": ("MODEL_FOR_QUESTION_ANSWERING", LongformerPlusForQuestionAnswering),
    "AutoModelForTokenClassification": ("MODEL_FOR_TOKEN_CLASSIFICATION", LongformerPlusForTokenClassification),
    "AutoModelForMultipleChoice": ("MODEL_FOR_MULTIPLE_CHOICE", LongformerPlusForMultipleChoice),
}


def register() -> None:
    """Register configuration, models, tokenizer, int8 and adapter targets. Importing the package does."""
    AutoConfig.register(LongformerPlusConfig.model_type, LongformerPlusConfig, exist_ok=True)
    for name, (stem, model) in _MODELS.items():
        getattr(transformers, name).register(LongformerPlusConfig, model, exist_ok=True)
        _add_name(stem, model)
    AutoTokenizer.register(LongformerPlusConfig, tokenizer_class=LongformerPlusTokenizer, exist_ok=True)
    register_int8()
    add_adapter_targets(LongformerPlusConfig.model_type)


def register_for_longformer() -> None:
    """Make `AutoModel*.from_pretrained` give LongformerPlus classes for Longformer checkpoints, for all heads at once.

    PEFT then also has default target modules for transformers' own Longformer models. `unregister_for_longformer`
    undoes both. Direct use of `transformers.LongformerModel` is not affected.
    """
    for stem, model in _MODELS.values():
        # `AutoModel.register` accepts only the model's own configuration class; its table accepts any.
        table = getattr(transformers, f"{stem}_MAPPING")
        table.register(LongformerConfig, model, exist_ok=True)
        registered = getattr(table, "_extra_content", {})
        if registered.get(LongformerConfig) is not model:
            # Older versions, such as 5.17, say nothing and leave transformers' own configurations as they are.
            registered[LongformerConfig] = model
    add_adapter_targets(LongformerConfig.model_type)


def unregister_for_longformer() -> None:
    """Make the Auto classes use transformers' own classes for Longformer checkpoints again."""
    for stem, model in _MODELS.values():
        _unregister(getattr(transformers, f"{stem}_MAPPING"), model)
    remove_adapter_targets(LongformerConfig.model_type)


def _add_name(stem: str, model: type[PreTrainedModel]) -> None:
    """Add a class to the table of names by which pipelines recognize supported models.

    Without an entry, or in a version of transformers without the table, pipelines run but log "not supported".
    """
    names = getattr(modeling_auto, f"{stem}_MAPPING_NAMES", None)
    if isinstance(names, dict):
        names[LongformerPlusConfig.model_type] = model.__name__


def _unregister(table: Any, model: type[PreTrainedModel]) -> None:
    """Undo a registration for Longformer; transformers has no method for this.

    If transformers does not keep registered entries apart from its own, its own class is registered again. A head that
    transformers does not have stays registered then.
    """
    registered = getattr(table, "_extra_content", None)
    if isinstance(registered, dict):
        registered.pop(LongformerConfig, None)
    elif own := getattr(transformers, model.__name__.replace("LongformerPlus", "Longformer"), None):
        table.register(LongformerConfig, own, exist_ok=True)
