"""The Auto classes: LongformerPlus always, and on request the Longformer checkpoints too."""

from __future__ import annotations

import transformers
from transformers import AutoConfig, AutoTokenizer, LongformerConfig
from transformers.models.auto import modeling_auto

from .adapter_targets import add_adapter_targets, remove_adapter_targets
from .causal_lm import LongformerPlusForCausalLM
from .configuration import LongformerPlusConfig
from .heads import (
    LongformerPlusForMaskedLM,
    LongformerPlusForMultipleChoice,
    LongformerPlusForQuestionAnswering,
    LongformerPlusForSequenceClassification,
    LongformerPlusForTokenClassification,
)
from .modeling import LongformerPlusModel
from .tokenization import LongformerPlusTokenizer

_MODELS = {
    "AutoModel": LongformerPlusModel,
    "AutoModelForPreTraining": LongformerPlusForMaskedLM,
    "AutoModelForMaskedLM": LongformerPlusForMaskedLM,
    "AutoModelForCausalLM": LongformerPlusForCausalLM,
    "AutoModelForSequenceClassification": LongformerPlusForSequenceClassification,
    "AutoModelForQuestionAnswering": LongformerPlusForQuestionAnswering,
    "AutoModelForTokenClassification": LongformerPlusForTokenClassification,
    "AutoModelForMultipleChoice": LongformerPlusForMultipleChoice,
}

_NAME_TABLES = {
    "MODEL_MAPPING_NAMES": LongformerPlusModel,
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": LongformerPlusForMaskedLM,
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": LongformerPlusForCausalLM,
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": LongformerPlusForSequenceClassification,
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES": LongformerPlusForQuestionAnswering,
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": LongformerPlusForTokenClassification,
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES": LongformerPlusForMultipleChoice,
}


def register() -> None:
    """Register configuration, models, tokenizer and adapter targets of LongformerPlus. Importing the package does."""
    AutoConfig.register(LongformerPlusConfig.model_type, LongformerPlusConfig, exist_ok=True)
    for name, model in _MODELS.items():
        getattr(transformers, name).register(LongformerPlusConfig, model, exist_ok=True)
    # Pipelines look a model's class up by name in these tables, and say "not supported" of one that is not there.
    for task, model in _NAME_TABLES.items():
        getattr(modeling_auto, task)[LongformerPlusConfig.model_type] = model.__name__
    AutoTokenizer.register(LongformerPlusConfig, tokenizer_class=LongformerPlusTokenizer, exist_ok=True)
    add_adapter_targets(LongformerPlusConfig.model_type)


def register_for_longformer() -> None:
    """Make `AutoModel*.from_pretrained` give LongformerPlus classes for Longformer checkpoints, for all heads at once.

    PEFT then has default target modules for Longformers of transformers' own, too. `unregister_for_longformer` undoes
    it. Classes named outright (`transformers.LongformerModel`) are not touched.
    """
    # `register` refuses, or in some versions passes over, a configuration of transformers' own.
    for name, model in _MODELS.items():
        getattr(transformers, name)._model_mapping._extra_content[LongformerConfig] = model
    add_adapter_targets(LongformerConfig.model_type)


def unregister_for_longformer() -> None:
    """Give the Auto classes transformers' own Longformer classes for Longformer checkpoints back."""
    for name in _MODELS:
        getattr(transformers, name)._model_mapping._extra_content.pop(LongformerConfig, None)
    remove_adapter_targets(LongformerConfig.model_type)
