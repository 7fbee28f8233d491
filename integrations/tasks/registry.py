"""The tasks that `training` knows: for each its model, its collator and its labels."""

from __future__ import annotations

from dataclasses import dataclass

from longformer_plus import (
    LongformerPlusForCausalLM,
    LongformerPlusForMaskedLM,
    LongformerPlusForMultipleChoice,
    LongformerPlusForQuestionAnswering,
    LongformerPlusForSequenceClassification,
    LongformerPlusForTokenClassification,
    LongformerPlusPreTrainedModel,
)

from ..data.collators import (
    DataCollatorForLongformer,
    DataCollatorForLongformerCausalLM,
    DataCollatorForLongformerMaskedLM,
    DataCollatorForLongformerMultipleChoice,
    DataCollatorForLongformerQuestionAnswering,
    DataCollatorForLongformerSequenceClassification,
    DataCollatorForLongformerTokenClassification,
)


@dataclass(frozen=True)
class Task:
    """What a task needs.

    Attributes:
        model: its head.
        collator: makes its batches.
        label_names: the arguments of the model that hold what is to be learned.
        is_packed: whether it learns from text alone, in rows packed full of documents.
    """

    model: type[LongformerPlusPreTrainedModel]
    collator: type[DataCollatorForLongformer]
    label_names: tuple[str, ...] = ("labels",)
    is_packed: bool = False


# By the names of transformers' pipelines, where there is one.
TASKS = {
    "fill-mask": Task(LongformerPlusForMaskedLM, DataCollatorForLongformerMaskedLM, is_packed=True),
    "text-generation": Task(LongformerPlusForCausalLM, DataCollatorForLongformerCausalLM, is_packed=True),
    "text-classification": Task(
        LongformerPlusForSequenceClassification, DataCollatorForLongformerSequenceClassification
    ),
    "token-classification": Task(LongformerPlusForTokenClassification, DataCollatorForLongformerTokenClassification),
    "question-answering": Task(
        LongformerPlusForQuestionAnswering,
        DataCollatorForLongformerQuestionAnswering,
        ("start_positions", "end_positions"),
    ),
    "multiple-choice": Task(LongformerPlusForMultipleChoice, DataCollatorForLongformerMultipleChoice),
}
ALIASES = {"masked-lm": "fill-mask", "causal-lm": "text-generation"}
