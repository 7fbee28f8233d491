from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from longformer_plus import LongformerPlusTokenizer

pytest.importorskip("evaluate")
import evaluate

from longformer_plus.integrations.data.features import prepare_questions, prepare_tagging
from longformer_plus.integrations.data.sources import Record
from longformer_plus.integrations.metrics import metrics

from ...fine_tuning import rows


@pytest.mark.parametrize(
    ("guess", "truth", "exact", "overlap"),
    [
        ("The Denver Broncos!", "denver broncos", 1, 1),
        ("Broncos", "Denver Broncos", 0, 2 / 3),
        ("a red, red rose", "red rose", 0, 4 / 5),
        ("Panthers", "Denver Broncos", 0, 0),
        ("", "", 1, 1),
        ("", "Denver", 0, 0),
    ],
)
def test_answers_are_compared_as_squad_does(guess: str, truth: str, exact: float, overlap: float) -> None:
    assert metrics.answers_match(guess, truth) == exact
    assert metrics.answer_overlap(guess, truth) == pytest.approx(overlap)


def test_metrics_are_those_of_evaluate() -> None:
    """They add up over batches, and combine, with no network."""
    answers = metrics.AnswerMetric()
    answers.add_batch(predictions=["Broncos"], references=[["Denver Broncos", "the Broncos"]])
    answers.add_batch(predictions=["something"], references=[[]])
    assert answers.compute() == {"exact_match": 50.0, "f1": 50.0}
    entities = metrics.EntityMetric()
    entities.add(prediction=["B-PER", "I-PER", "O", "B-LOC"], reference=["B-PER", "I-PER", "O", "O"])
    found = entities.compute()
    assert found["f1"] == pytest.approx(2 / 3)
    assert (found["precision"], found["recall"], found["accuracy"]) == (0.5, 1.0, 0.75)
    both = evaluate.combine([metrics.ClassificationMetric(), metrics.ClassificationMetric()])
    scores = both.compute(predictions=[0, 1, 1, 1], references=[0, 1, 1, 0])
    assert [score for name, score in scores.items() if "accuracy" in name] == [0.75, 0.75]
    several = metrics.MultiLabelMetric().compute(predictions=[[1, 0], [1, 1]], references=[[1, 0], [0, 1]])
    assert several["exact_match"] == 0.5
    assert several["f1"] == pytest.approx(0.8)


def test_masked_tokens() -> None:
    logits = torch.randn(2, 5, 7)
    labels = torch.tensor([[-100, 3, -100, 0, -100], [6, -100, -100, -100, -100]])
    logits[0, 1, 3] = 20.0
    shrunk = metrics.shrink_logits("fill-mask")(logits, labels)
    scores = metrics.compute_metrics("fill-mask", None)(
        EvalPrediction(tuple(each.numpy() for each in shrunk), labels.numpy())
    )
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()
    assert scores["token_loss"] == pytest.approx(loss, rel=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    right = (logits.argmax(-1) == labels).sum().item()
    assert scores["accuracy"] == pytest.approx(right / 3)


def test_entities_of_a_document_are_put_together_from_its_stretches(tokenizer: LongformerPlusTokenizer) -> None:
    names = ["B-LOC", "I-LOC", "O"]
    words = ["river"] * 70 + ["Berlin", "Paris"] + ["stone"] * 60
    tags = ["O"] * 70 + ["B-LOC", "I-LOC"] + ["O"] * 60
    prepared = prepare_tagging([Record("a", {"tokens": words, "ner_tags": tags})], tokenizer, names, 40, 8)
    assert len(prepared) > 2
    length = max(len(feature["labels"]) for feature in prepared)
    labels = np.full((len(prepared), length), -100)
    for row, feature in zip(labels, prepared, strict=True):
        row[: len(feature["labels"])] = feature["labels"]
    compute = metrics.compute_metrics("token-classification", prepared, names)
    assert compute(EvalPrediction(np.maximum(labels, 0), labels))["f1"] == 1.0
    wrong = np.where(labels == 1, 2, np.maximum(labels, 0))
    assert compute(EvalPrediction(wrong, labels))["f1"] == 0.0


def logits_for(prepared, sure: dict[int, float], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits by which each feature that holds its answer says so, as surely as told by question."""
    start, end = torch.zeros(len(prepared), length), torch.zeros(len(prepared), length)
    for index, feature in enumerate(prepared):
        if feature["start_positions"]:
            start[index, feature["start_positions"]] = end[index, feature["end_positions"]] = sure[
                prepared.document_of[index]
            ]
        else:
            start[index, 0] = end[index, 0] = 9.0
            # A better span than any in the question, which is no answer.
            start[index, 2] = end[index, 2] = 50.0
    return start, end


def test_the_best_answer_over_all_stretches(tokenizer: LongformerPlusTokenizer) -> None:
    answerable = [Record(f"{i}", row) for i, row in enumerate(rows("question-answering", 6, length=100))]
    prepared = prepare_questions(answerable, tokenizer, 60, 10)
    assert len(prepared) > 12
    shrunk = metrics.shrink_logits("question-answering")(
        logits_for(prepared, dict.fromkeys(range(6), 5.0), length=60), None
    )
    evaluated = EvalPrediction(tuple(each.numpy() for each in shrunk), ())
    assert metrics.compute_metrics("question-answering", prepared)(evaluated) == {"exact_match": 100.0, "f1": 100.0}

    without = [*answerable, Record("none", {**answerable[0].row, "answers": {"text": [], "answer_start": []}})]
    prepared = prepare_questions(without, tokenizer, 60, 10)
    sure = {0: -5.0, **dict.fromkeys(range(1, 6), 5.0)}
    shrunk = metrics.shrink_logits("question-answering")(logits_for(prepared, sure, length=60), None)
    answers = metrics.best_answers(*(each.numpy() for each in shrunk), prepared)
    assert answers[6] == ""
    assert answers[1:6] == [record.row["answers"]["text"][0] for record in answerable[1:]]
