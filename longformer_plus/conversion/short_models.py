"""The short models that can be made long, and the parameter names of their heads: RoBERTa, XLM-RoBERTa, CamemBERT,
BERT and ELECTRA.

Their layers have the same parameter names as Longformer's, without global projections. They differ in the position
table, in the names of the heads' parameters, and sometimes in an activation that Longformer's heads do not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import transformers
from transformers import PreTrainedModel

from ..model.encoder import LongformerPlusModel
from ..model.heads import (
    LongformerPlusForMaskedLM,
    LongformerPlusForMultipleChoice,
    LongformerPlusForQuestionAnswering,
    LongformerPlusForSequenceClassification,
    LongformerPlusForTokenClassification,
)
from ..model.pretrained import LongformerPlusPreTrainedModel


@dataclass(frozen=True)
class Family:
    """Models that differ in name only.

    Attributes:
        names: what their classes' names start with.
        model_types: their `model_type`.
        prefix: the name of the encoder in a model with a head.
        has_reserved_positions: whether positions start after the padding index, as Longformer's do, and not at 0.
        has_pooler: whether the bare encoder has one.
    """

    names: tuple[str, ...]
    model_types: tuple[str, ...]
    prefix: str
    has_reserved_positions: bool
    has_pooler: bool = True


@dataclass(frozen=True)
class Head:
    """A head of a family, and its place in LongformerPlus.

    Attributes:
        target: the class of this package with the same head.
        renamed: pairs of the prefixes of its parameters' names, there and here, without the encoder's prefix.
        left_behind: the prefixes of parameters that the target does not have.
        needs: options of the configuration, and the values for which the two compute the same.
    """

    target: type[LongformerPlusPreTrainedModel]
    renamed: tuple[tuple[str, str], ...] = ()
    left_behind: tuple[str, ...] = ()
    needs: tuple[tuple[str, object], ...] = ()


ROBERTA = Family(
    ("Roberta", "XLMRoberta", "Camembert"),
    ("roberta", "xlm-roberta", "camembert"),
    "roberta",
    has_reserved_positions=True,
)
BERT = Family(("Bert",), ("bert",), "bert", has_reserved_positions=False)
ELECTRA = Family(("Electra",), ("electra",), "electra", has_reserved_positions=False, has_pooler=False)

_BERT_LM = (
    ("cls.predictions.transform.dense.", "lm_head.dense."),
    ("cls.predictions.transform.LayerNorm.", "lm_head.layer_norm."),
    ("cls.predictions.", "lm_head."),
)
_ELECTRA_LM = (
    ("generator_predictions.dense.", "lm_head.dense."),
    ("generator_predictions.LayerNorm.", "lm_head.layer_norm."),
    ("generator_lm_head.", "lm_head.decoder."),
)
_SAME = {
    "ForTokenClassification": Head(LongformerPlusForTokenClassification),
    "ForQuestionAnswering": Head(LongformerPlusForQuestionAnswering),
}
HEADS: dict[Family, dict[str, Head]] = {
    ROBERTA: {
        **_SAME,
        "Model": Head(LongformerPlusModel),
        "ForMaskedLM": Head(LongformerPlusForMaskedLM),
        "ForSequenceClassification": Head(LongformerPlusForSequenceClassification),
        "ForMultipleChoice": Head(LongformerPlusForMultipleChoice),
    },
    BERT: {
        **_SAME,
        "Model": Head(LongformerPlusModel),
        # Longformer's LM head has GELU whatever the layers have.
        "ForMaskedLM": Head(LongformerPlusForMaskedLM, _BERT_LM, needs=(("hidden_act", "gelu"),)),
        "ForPreTraining": Head(
            LongformerPlusForMaskedLM, _BERT_LM, ("cls.seq_relationship.", "pooler."), (("hidden_act", "gelu"),)
        ),
        # The pooler and the classifier after it are one head there: dense, tanh, classes.
        "ForSequenceClassification": Head(
            LongformerPlusForSequenceClassification,
            (("pooler.dense.", "classifier.dense."), ("classifier.", "classifier.out_proj.")),
        ),
        "ForMultipleChoice": Head(LongformerPlusForMultipleChoice),
    },
    ELECTRA: {
        **_SAME,
        "Model": Head(LongformerPlusModel),
        "ForMaskedLM": Head(LongformerPlusForMaskedLM, _ELECTRA_LM),
        "ForPreTraining": Head(LongformerPlusModel, left_behind=("discriminator_predictions.",)),
        "ForMultipleChoice": Head(
            LongformerPlusForMultipleChoice,
            (("sequence_summary.summary.", "pooler.dense."),),
            needs=(("summary_type", "first"), ("summary_use_proj", True), ("summary_activation", "tanh")),
        ),
    },
}
_KNOWN = "RoBERTa, XLM-RoBERTa, CamemBERT, BERT and ELECTRA can, bare or with a head that Longformer has too"
_NO_PLACE = {
    "ElectraForSequenceClassification": "its head has GELU where Longformer's has tanh",
}
ENCODER_ALONE = (
    "Convert its encoder alone: load it with the bare class (such as transformers.ElectraModel), pass that model to "
    "convert_to_long, and train a new head."
)


def class_named(architectures: Sequence[str] | None, folder: object) -> type[PreTrainedModel]:
    """The class of transformers that a checkpoint's `architectures` names.

    Raises:
        ValueError: `architectures` is missing, or names no class in `HEADS`.
    """
    known = {prefix + head for family, heads in HEADS.items() for prefix in family.names for head in heads}
    for name in architectures or ():
        if name in known:
            return getattr(transformers, name)
        _refuse_no_place(name)
    raise ValueError(
        f"{folder} is of architectures={architectures!r}, and cannot be made long: {_KNOWN}. If it is one of them and "
        "does not say so, load it with its class and convert the model."
    )


def place_of(model: PreTrainedModel) -> tuple[Family, Head]:
    """The family of a model and its head's place.

    Raises:
        TypeError: it is of no family here.
        ValueError: its head has no place.
    """
    for kind in type(model).__mro__:
        for family, heads in HEADS.items():
            for prefix in family.names:
                head = heads.get(kind.__name__.removeprefix(prefix))
                if head is not None and kind is getattr(transformers, kind.__name__, None):
                    return family, head
        _refuse_no_place(kind.__name__)
    raise TypeError(f"A {type(model).__name__} cannot be made long: {_KNOWN}. Merge adapters into their model first.")


def _refuse_no_place(name: str) -> None:
    if name in _NO_PLACE:
        raise ValueError(f"{name} has no equal in Longformer: {_NO_PLACE[name]}. {ENCODER_ALONE}")
