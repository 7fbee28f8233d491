"""Metrics that need no network, as `evaluate.Metric`.

    metric = AnswerMetric()
    metric.add_batch(predictions=["Denver Broncos"], references=[["the Denver Broncos", "Denver"]])
    metric.compute()  # {"exact_match": 100.0, "f1": 100.0}

`accuracy` and the various `f1` are from scikit-learn, entities from seqeval, correlations from SciPy; answers are
compared as SQuAD does. The numbers of classes are shares from 0 to 1, those of answers percent, as is usual for each.
A task's `compute_metrics` makes what `Trainer` takes of them.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value
from datasets import Sequence as ListOf
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import accuracy_score as tag_accuracy
from seqeval.metrics import f1_score as entity_f1
from seqeval.metrics import precision_score as entity_precision
from seqeval.metrics import recall_score as entity_recall
from sklearn.metrics import accuracy_score, f1_score, mean_squared_error


class _Metric(evaluate.Metric):
    """A metric that says what it takes in `_features`, and keeps what it is given in memory."""

    _features: Features

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"keep_in_memory": kwargs.get("num_process", 1) == 1, **kwargs})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=type(self).__doc__ or "", citation="", features=self._features)


class ClassificationMetric(_Metric):
    """Accuracy, and the mean over the classes of F1, of predicted and true class ids."""

    _features = Features({"predictions": Value("int64"), "references": Value("int64")})

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "f1": float(f1_score(references, predictions, average="macro", zero_division=0)),
        }


class MultiLabelMetric(_Metric):
    """F1 over all decisions (micro) and by class (macro), and how often all labels of a document are right."""

    _features = Features({"predictions": ListOf(Value("int64")), "references": ListOf(Value("int64"))})

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        truth, guess = np.array(references), np.array(predictions)
        return {
            "f1": float(f1_score(truth, guess, average="micro", zero_division=0)),
            "f1_macro": float(f1_score(truth, guess, average="macro", zero_division=0)),
            "exact_match": float(accuracy_score(truth, guess)),
        }


class RegressionMetric(_Metric):
    """Mean squared error, and Pearson's and Spearman's correlation: 0 where all values of a side are the same."""

    _features = Features({"predictions": Value("float64"), "references": Value("float64")})

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        truth, guess = np.array(references), np.array(predictions)
        varies = len(truth) > 1 and np.ptp(truth) > 0 and np.ptp(guess) > 0
        return {
            "mean_squared_error": float(mean_squared_error(truth, guess)),
            "pearson": float(pearsonr(truth, guess)[0]) if varies else 0.0,
            "spearman": float(spearmanr(truth, guess)[0]) if varies else 0.0,
        }


class EntityMetric(_Metric):
    """Precision, recall and F1 of whole entities in the BIO notation, and accuracy by word."""

    _features = Features({"predictions": ListOf(Value("string")), "references": ListOf(Value("string"))})

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        truth, guess = [list(tags) for tags in references], [list(tags) for tags in predictions]
        return {
            "precision": float(entity_precision(truth, guess, zero_division=0)),
            "recall": float(entity_recall(truth, guess, zero_division=0)),
            "f1": float(entity_f1(truth, guess, zero_division=0)),
            "accuracy": float(tag_accuracy(truth, guess)),
        }


class AnswerMetric(_Metric):
    """Exact match and F1 of answers, in percent, each against the best of its references, as SQuAD compares them.

    A question without an answer has no references, and is answered rightly by an empty text.
    """

    _features = Features({"predictions": Value("string"), "references": ListOf(Value("string"))})

    def _compute(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        scores = [
            [max(score(guess, truth) for truth in (list(truths) or [""])) for score in (answers_match, answer_overlap)]
            for guess, truths in zip(predictions, references, strict=True)
        ]
        exact, overlap = np.mean(scores, axis=0) * 100
        return {"exact_match": float(exact), "f1": float(overlap)}


class TokenMetric(_Metric):
    """Accuracy, loss and perplexity of language models, from predicted and true ids and negative log-likelihoods.

    Each of the three has one entry for each token that is predicted, of all documents together.
    """

    _features = Features({"predictions": Value("int64"), "references": Value("int64"), "losses": Value("float32")})

    def _compute(self, predictions: Any, references: Any, losses: Any) -> dict[str, float]:
        loss = float(np.mean(np.array(losses, dtype=np.float64)))
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "token_loss": loss,
            "perplexity": float(np.exp(loss)),
        }


def answers_match(guess: str, truth: str) -> float:
    """1 where two answers are the same but for case, punctuation, articles and spaces, else 0."""
    return float(_words(guess) == _words(truth))


def answer_overlap(guess: str, truth: str) -> float:
    """F1 of the words of two answers, from 0 to 1."""
    left, right = _words(guess), _words(truth)
    if not left or not right:
        return float(left == right)
    shared = sum((Counter(left) & Counter(right)).values())
    return 2 * shared / (len(left) + len(right))


def _words(answer: str) -> list[str]:
    bare = answer.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()
