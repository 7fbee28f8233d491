"""Multiple choice: which of several endings or answers is the right one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from longformer_plus import LongformerPlusForMultipleChoice

from ..data.checks import is_integer, list_of, require, text_of
from ..data.collators import DataCollatorForLongformerMultipleChoice
from ..data.features import Prepared, prepare_choices
from ..data.sources import Record, Row
from .task import Preparation, Scorer, Task, score_classes


def _check_input(row: Row) -> None:
    choices = list_of(row, "choices")
    require(len(choices) >= 2, f"{len(choices)} choices: give at least two")
    require(all(isinstance(choice, str) for choice in choices), "'choices' holds something that is not a string")
    for name in ("question", "context"):
        text_of(row, name, optional=True)


def _check(row: Row) -> None:
    _check_input(row)
    require("label" in row, f"has no 'label'; it has {', '.join(map(repr, row))}")
    label, count = row["label"], len(row["choices"])
    wanted = f"it must be the index of one of the {count} choices, 0 to {count - 1}"
    require(is_integer(label), f"label {label!r:.80} is not an integer: {wanted}")
    require(0 <= int(label) < count, f"label {label!r:.80} is out of range: {wanted}")


def _prepare(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, options: Preparation) -> Prepared:
    return prepare_choices(records, tokenizer, options.max_length)


def _scorer(prepared: Any, names: Sequence[str]) -> Scorer:
    return score_classes


TASK = Task(
    name="multiple-choice",
    model=LongformerPlusForMultipleChoice,
    collator=DataCollatorForLongformerMultipleChoice,
    columns={
        "choices": "a list of strings",
        "label": "the index of the right one",
        "question": "optional",
        "context": "optional",
    },
    check_input=_check_input,
    check=_check,
    prepare=_prepare,
    scorer=_scorer,
    scores=("accuracy", "f1"),
    modules_to_save=("pooler", "classifier"),
)
