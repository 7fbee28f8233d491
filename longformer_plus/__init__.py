"""Longformer for transformers, exact and fast. Importing this package registers its classes with the Auto classes."""

from importlib import import_module
from types import ModuleType

from .configuration import LongformerPlusConfig
from .model.cache import LongformerPlusCache
from .model.causal_lm import LongformerPlusForCausalLM
from .model.encoder import LongformerPlusModel
from .model.heads import (
    LongformerPlusForMaskedLM,
    LongformerPlusForMultipleChoice,
    LongformerPlusForQuestionAnswering,
    LongformerPlusForSequenceClassification,
    LongformerPlusForTokenClassification,
)
from .model.pretrained import LongformerPlusPreTrainedModel
from .registration import register, register_for_longformer, unregister_for_longformer
from .shipped import shipped_adapter, shipped_checkpoint, shipped_models
from .tokenization import LongformerPlusTokenizer
from .version import __version__

__all__ = [
    "LongformerPlusCache",
    "LongformerPlusConfig",
    "LongformerPlusForCausalLM",
    "LongformerPlusForMaskedLM",
    "LongformerPlusForMultipleChoice",
    "LongformerPlusForQuestionAnswering",
    "LongformerPlusForSequenceClassification",
    "LongformerPlusForTokenClassification",
    "LongformerPlusModel",
    "LongformerPlusPreTrainedModel",
    "LongformerPlusTokenizer",
    "__version__",
    "register_for_longformer",
    "shipped_adapter",
    "shipped_checkpoint",
    "shipped_models",
    "unregister_for_longformer",
]

register()


def __getattr__(name: str) -> ModuleType:
    """Import `longformer_plus.conversion` at its first use: few programs need it."""
    if name == "conversion":
        return import_module(".conversion", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
