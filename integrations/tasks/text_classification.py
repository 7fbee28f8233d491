"""Classification of whole documents, into one class of several or into any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TokenizersBackend

from longformer_plus import LongformerPlusForSequenceClassification

from ..data.checks import check_text, require
from ..data.collators import DataCollatorForLongformerSequenceClassification
from ..data.features import Prepared, class_names, prepare_classification
from ..data.sources import Record, Row
from ..long_documents import classify_documents
from .task import HeldOut, Preparation, Scorer, Scores, Task, judge_documents, score_classes

_BASELINE = "TF-IDF + logistic regression"


def _check(row: Row) -> None:
    check_text(row)
    require("label" in row, f"has no 'label'; it has {', '.join(map(repr, row))}")
    label = row["label"]
    if isinstance(label, int):
        require(label >= 0, f"label {label} is out of range: classes are numbered from 0")
        return
    is_list = isinstance(label, list) and all(isinstance(each, str) for each in label)
    require(
        isinstance(label, str) or is_list, f"label {label!r:.80} is neither a string, an int, nor a list of strings"
    )


def _class_names(records: Sequence[Record]) -> list[str]:
    return class_names(records, "label")


def _configure(records: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    """The classes, and whether they exclude one another."""
    problem = "multi_label_classification" if _have_several(records) else "single_label_classification"
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": problem,
    }


def _have_several(records: Sequence[Record]) -> bool:
    return any(isinstance(record.row["label"], list) for record in records)


def _prepare(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, options: Preparation) -> Prepared:
    return prepare_classification(records, tokenizer, options.names, options.max_length, options.overlap)


def _scorer(prepared: Prepared, names: Sequence[str]) -> Scorer:
    from ..metrics import MultiLabelMetric

    def score(logits: Any, labels: np.ndarray) -> dict[str, float]:
        if labels.ndim == 1:
            return score_classes(*judge_documents(prepared, logits, labels, "single_label_classification"))
        found, truths = judge_documents(prepared, logits, labels, "multi_label_classification")
        decisions = (found > 0.5).astype(int)
        return MultiLabelMetric().compute(predictions=decisions, references=truths.astype(int)) or {}

    return score


def _evaluate(model: PreTrainedModel, tokenizer: TokenizersBackend, held_out: HeldOut) -> Scores:
    """The scores of the classes, and those of logistic regression on TF-IDF."""
    records = held_out.records
    texts = [record.row["text"] for record in records]
    found = classify_documents(model, tokenizer, texts, **held_out.reading)
    learned = [record.row["text"] for record in held_out.learned]
    if _have_several(records):
        several = {"model": [[label for label, score in each.scores.items() if score > 0.5] for each in found]}
        if learned:
            several[_BASELINE] = _several_by_words(learned, [record.row["label"] for record in held_out.learned], texts)
        return _score_several([record.row["label"] for record in records], several)
    guesses = {"model": [each.label for each in found]}
    if learned:
        from ..metrics.baselines import classify_by_words

        labels = [str(record.row["label"]) for record in held_out.learned]
        guesses[_BASELINE] = classify_by_words(learned, labels, texts)
    return _score([str(record.row["label"]) for record in records], guesses)


def _score(truths: Sequence[str], guesses: dict[str, list[str]]) -> Scores:
    from ..metrics import ClassificationMetric

    ids = {label: index for index, label in enumerate(sorted(set(truths).union(*guesses.values())))}
    references = [ids[label] for label in truths]
    return {
        name: ClassificationMetric().compute(predictions=[ids[label] for label in labels], references=references) or {}
        for name, labels in guesses.items()
    }


def _score_several(truths: Sequence[Sequence[str]], guesses: dict[str, list[list[str]]]) -> Scores:
    from ..metrics import MultiLabelMetric

    names = sorted({label for rows in (truths, *guesses.values()) for labels in rows for label in labels})

    def encoded(rows: Sequence[Sequence[str]]) -> list[list[int]]:
        return [[int(name in labels) for name in names] for labels in rows]

    return {
        name: MultiLabelMetric().compute(predictions=encoded(rows), references=encoded(truths)) or {}
        for name, rows in guesses.items()
    }


def _several_by_words(texts: Sequence[str], labels: Sequence[Sequence[str]], unseen: Sequence[str]) -> list[list[str]]:
    """The classes of unseen texts, each decided by itself. One that all texts learned from have, or none, stays so."""
    from ..metrics.baselines import classify_by_words

    found: list[list[str]] = [[] for _ in unseen]
    for name in sorted({name for each in labels for name in each}):
        has_it = [str(name in each) for each in labels]
        decisions = classify_by_words(texts, has_it, unseen) if len(set(has_it)) > 1 else has_it[:1] * len(unseen)
        for classes, decision in zip(found, decisions, strict=True):
            classes += [name] if decision == "True" else []
    return found


def _predict(
    model: PreTrainedModel, tokenizer: TokenizersBackend, rows: Sequence[Row], **options: Any
) -> list[dict[str, Any]]:
    """`label`, `score` and the `scores` of all classes of each row."""
    return [asdict(each) for each in classify_documents(model, tokenizer, [row["text"] for row in rows], **options)]


TASK = Task(
    name="text-classification",
    model=LongformerPlusForSequenceClassification,
    collator=DataCollatorForLongformerSequenceClassification,
    columns={"text": "of any length", "label": "a string, an int, or a list of strings where there are several"},
    check_input=check_text,
    check=_check,
    class_names=_class_names,
    configure=_configure,
    prepare=_prepare,
    scorer=_scorer,
    scores=("accuracy", "f1"),
    scores_of_several=("f1", "f1_macro", "exact_match"),
    evaluate=_evaluate,
    evaluation="accuracy and F1; baseline, with --train: TF-IDF and logistic regression",
    predict=_predict,
    peft_type="SEQ_CLS",
)
