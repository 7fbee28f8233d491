from __future__ import annotations

import pytest

pytest.importorskip("evaluate")
import evaluate

from longformer_plus.integrations.metrics import metrics


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


def test_numbers_that_do_not_vary_have_no_correlation() -> None:
    scores = metrics.RegressionMetric().compute(predictions=[1.0, 2.0, 4.0], references=[2.0, 4.0, 8.0])
    assert scores["mean_squared_error"] == pytest.approx((1 + 4 + 16) / 3)
    assert (scores["pearson"], scores["spearman"]) == (pytest.approx(1.0), pytest.approx(1.0))
    falling = metrics.RegressionMetric().compute(predictions=[3.0, 2.0, -9.0], references=[0.0, 1.0, 2.0])
    assert falling["spearman"] == pytest.approx(-1.0)
    assert -1 < falling["pearson"] < -0.8
    constant = metrics.RegressionMetric().compute(predictions=[1.0, 1.0], references=[0.0, 2.0])
    assert constant == {"mean_squared_error": 1.0, "pearson": 0.0, "spearman": 0.0}
