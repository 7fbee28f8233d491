"""Regression: a number for each whole document, such as a grade or a similarity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TokenizersBackend

from longformer_plus import LongformerPlusForSequenceClassification

from ..data.checks import check_text, require
from ..data.collators import DataCollatorForLongformerSequenceClassification
from ..data.features import Prepared, prepare_documents
from ..data.sources import Record, Row
from ..long_documents import classify_documents
from .task import HeldOut, Preparation, Scorer, Scores, Task, judge_documents


def _check(row: Row) -> None:
    check_text(row)
    require("label" in row, f"has no 'label'; it has {', '.join(map(repr, row))}")
    require(_is_number(row["label"]), f"label {row['label']!r:.80} is not a finite number")


def _is_number(label: Any) -> bool:
    """Whether it is a finite number, or the text of one: of a table without types, every cell is text."""
    try:
        return not isinstance(label, bool) and math.isfinite(float(label))
    except (TypeError, ValueError):
        return False


def _configure(records: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    return {"num_labels": 1, "problem_type": "regression"}


def _prepare(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, options: Preparation) -> Prepared:
    return prepare_documents(records, tokenizer, _labels(records), options.max_length, options.overlap)


def _labels(records: Sequence[Record]) -> list[float]:
    return [float(record.row["label"]) for record in records]


def _scorer(prepared: Prepared, names: Sequence[str]) -> Scorer:
    from ..metrics import RegressionMetric

    def score(logits: Any, labels: np.ndarray) -> dict[str, float]:
        found, truths = judge_documents(prepared, logits, labels, "regression")
        return RegressionMetric().compute(predictions=found[:, 0], references=truths) or {}

    return score


def _evaluate(model: PreTrainedModel, tokenizer: TokenizersBackend, held_out: HeldOut) -> Scores:
    """The scores of the numbers, of the mean of the labels learned from, and of ridge regression on TF-IDF."""
    from ..metrics import RegressionMetric
    from ..metrics.baselines import estimate_by_words

    records = held_out.records
    texts = [record.row["text"] for record in records]
    found = classify_documents(model, tokenizer, texts, **held_out.reading)
    guesses = {"model": [each.score for each in found]}
    if held_out.learned:
        labels = _labels(held_out.learned)
        guesses["mean of the training labels"] = [float(np.mean(labels))] * len(texts)
        learned = [record.row["text"] for record in held_out.learned]
        guesses["TF-IDF + ridge regression"] = estimate_by_words(learned, labels, texts)
    truths = _labels(records)
    return {
        name: RegressionMetric().compute(predictions=values, references=truths) or {}
        for name, values in guesses.items()
    }


def _predict(
    model: PreTrainedModel, tokenizer: TokenizersBackend, rows: Sequence[Row], **options: Any
) -> list[dict[str, Any]]:
    """The `value` of each row."""
    found = classify_documents(model, tokenizer, [row["text"] for row in rows], **options)
    return [{"value": each.score} for each in found]


TASK = Task(
    name="text-regression",
    model=LongformerPlusForSequenceClassification,
    collator=DataCollatorForLongformerSequenceClassification,
    columns={"text": "of any length", "label": "a number"},
    check_input=check_text,
    check=_check,
    configure=_configure,
    prepare=_prepare,
    scorer=_scorer,
    scores=("mean_squared_error", "pearson", "spearman"),
    evaluate=_evaluate,
    evaluation="mean squared error and correlations; baselines, with --train: the mean, TF-IDF and ridge regression",
    predict=_predict,
    peft_type="SEQ_CLS",
)
