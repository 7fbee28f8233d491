"""The Auto classes: LongformerPlus always, and on request the Longformer checkpoints too."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer, LongformerConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from .adapter_targets import add_adapter_targets, remove_adapter_targets
from .configuration import LongformerPlusConfig
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

# By Auto class: the stem of what transformers calls its tables of classes and of their names, and the class.
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
    """Register configuration, models, tokenizer and adapter targets of LongformerPlus. Importing the package does."""
    AutoConfig.register(LongformerPlusConfig.model_type, LongformerPlusConfig, exist_ok=True)
    for name, (stem, model) in _MODELS.items():
        getattr(transformers, name).register(LongformerPlusConfig, model, exist_ok=True)
        _add_name(stem, model)
    AutoTokenizer.register(LongformerPlusConfig, tokenizer_class=LongformerPlusTokenizer, exist_ok=True)
    add_adapter_targets(LongformerPlusConfig.model_type)


def register_for_longformer() -> None:
    """Make `AutoModel*.from_pretrained` give LongformerPlus classes for Longformer checkpoints, for all heads at once.

    PEFT then has default target modules for Longformers of transformers' own, too. `unregister_for_longformer` undoes
    it. Classes named outright (`transformers.LongformerModel`) are not touched.
    """
    for stem, model in _MODELS.values():
        # `AutoModel.register` refuses the configuration of another class than the model's; its table takes it.
        getattr(transformers, f"{stem}_MAPPING").register(LongformerConfig, model, exist_ok=True)
    add_adapter_targets(LongformerConfig.model_type)


def unregister_for_longformer() -> None:
    """Give the Auto classes transformers' own Longformer classes for Longformer checkpoints back."""
    for stem, model in _MODELS.values():
        _take_back(getattr(transformers, f"{stem}_MAPPING"), model)
    remove_adapter_targets(LongformerConfig.model_type)


def _add_name(stem: str, model: type[PreTrainedModel]) -> None:
    """Let pipelines know a model: they look its class's name up, and say "not supported" of one that is not there.

    They say so and go on, which is what happens where a version of transformers has no such table.
    """
    names = getattr(modeling_auto, f"{stem}_MAPPING_NAMES", None)
    if isinstance(names, dict):
        names[LongformerPlusConfig.model_type] = model.__name__


def _take_back(table: Any, model: type[PreTrainedModel]) -> None:
    """Undo what was registered for Longformer, which transformers has no method for.

    Where it does not keep that apart from its own entries, its own class is registered in turn. For a head that it has
    no class for, ours stays then.
    """
    registered = getattr(table, "_extra_content", None)
    if isinstance(registered, dict):
        registered.pop(LongformerConfig, None)
    elif own := getattr(transformers, model.__name__.replace("LongformerPlus", "Longformer"), None):
        table.register(LongformerConfig, own, exist_ok=True)
