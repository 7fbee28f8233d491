"""Metrics that need no network, as `evaluate.Metric`, and what `Trainer` takes to compute them for each task.

    metric = AnswerMetric()
    metric.add_batch(predictions=["Denver Broncos"], references=[["the Denver Broncos", "Denver"]])
    metric.compute()  # {"exact_match": 100.0, "f1": 100.0}

`accuracy` and the various `f1` are from scikit-learn, entities from seqeval; answers are compared as SQuAD does. The
numbers of classes are shares from 0 to 1, those of answers percent, as is usual for each.

Shapes: B batch, N tokens, V vocabulary, K candidates.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import evaluate
import numpy as np
import torch
from datasets import Features, Value
from datasets import Sequence as ListOf
from seqeval.metrics import accuracy_score as tag_accuracy
from seqeval.metrics import f1_score as entity_f1
from seqeval.metrics import precision_score as entity_precision
from seqeval.metrics import recall_score as entity_recall
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor
from torch.nn import functional as F
from transformers import EvalPrediction

from longformer_plus.model.losses import IGNORED_LABEL

from ..data.features import Prepared, PreparedQuestions, Span
from ..data.packing import PackedDocuments

ComputeMetrics = Callable[[EvalPrediction], dict[str, float]]

NUM_CANDIDATES = 64
_NO_SCORE = -1e9


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


# What `Trainer` needs: logits are made small on the device (`preprocess_logits_for_metrics`) before they are gathered.


def shrink_logits(task: str) -> Callable[[Any, Any], Any]:
    """`preprocess_logits_for_metrics` of a task: what the metrics need of the logits, and no more.

    For question answering (B, 4, K): places and scores of the best starts, places and scores of the best ends; and (B)
    the score of no answer. For masked-LM (B, N) the likeliest tokens and (B, N) the losses; for causal LM (B, N - 1) of
    each, of the tokens from the second on. For tagging (B, N).
    """
    return {
        "question-answering": _best_edges,
        "fill-mask": _likeliest_tokens,
        "text-generation": lambda logits, labels: _likeliest_tokens(_first(logits)[:, :-1], labels[:, 1:]),
        "token-classification": lambda logits, labels: _first(logits).argmax(-1),
        "text-classification": lambda logits, labels: _first(logits),
        "multiple-choice": lambda logits, labels: _first(logits),
    }[task]


def compute_metrics(task: str, prepared: Prepared | PackedDocuments, names: Sequence[str] = ()) -> ComputeMetrics:
    """`compute_metrics` of a task, for whole logits or for what `shrink_logits` leaves of them.

    Args:
        task: the name of a pipeline.
        prepared: the features that are evaluated, in their order.
        names: the classes by id, for tagging.
    """
    if task == "question-answering" and not isinstance(prepared, PreparedQuestions):
        raise TypeError("Question answering is evaluated on what prepare_questions gives.")
    if task == "token-classification" and not names:
        raise ValueError("Tagging is evaluated by the names of the tags: give them, by id.")

    def compute(evaluated: EvalPrediction) -> dict[str, float]:
        predictions, labels = _shrunk(task, evaluated), evaluated.label_ids
        if task == "question-answering":
            return _answer_metrics(predictions, prepared)  # type: ignore[arg-type]
        if task == "token-classification":
            return _entity_metrics(predictions, np.asarray(labels), prepared, names)  # type: ignore[arg-type]
        if task == "text-generation":
            return _token_metrics(predictions, np.asarray(labels)[:, 1:])
        if task == "fill-mask":
            return _token_metrics(predictions, np.asarray(labels))
        return _class_metrics(np.asarray(predictions), np.asarray(labels))

    return compute


# The dimensions of (the first of) the logits, for tasks whose metrics do not take them whole.
_DIMENSIONS = {"question-answering": 2, "fill-mask": 3, "text-generation": 3, "token-classification": 3}


def _shrunk(task: str, evaluated: EvalPrediction) -> Any:
    """What `shrink_logits` leaves, where `Trainer` was not told to call it."""
    logits = evaluated.predictions
    if np.ndim(logits[0] if isinstance(logits, tuple) else logits) != _DIMENSIONS.get(task):
        return logits
    whole = tuple(map(torch.as_tensor, logits)) if isinstance(logits, tuple) else torch.as_tensor(logits)
    labels = None if task == "question-answering" else torch.as_tensor(np.asarray(evaluated.label_ids))
    shrunk = shrink_logits(task)(whole, labels)
    return tuple(part.numpy() for part in shrunk) if isinstance(shrunk, tuple) else shrunk.numpy()


def _first(logits: Any) -> Tensor:
    return logits[0] if isinstance(logits, tuple) else logits


def _best_edges(logits: tuple[Tensor, Tensor], labels: Any) -> tuple[Tensor, Tensor]:
    starts, ends = logits[0].float(), logits[1].float()
    candidates = []
    for scores in (starts, ends):
        # Rows shorter than K candidates are filled with the worst.
        filled = F.pad(scores, (0, max(NUM_CANDIDATES - scores.shape[1], 0)), value=_NO_SCORE)
        best = filled.topk(NUM_CANDIDATES, dim=1)
        candidates += [best.indices.to(scores.dtype), best.values]
    return torch.stack(candidates, dim=1), starts[:, 0] + ends[:, 0]


def _likeliest_tokens(logits: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    scores = _first(logits)
    is_labelled = labels != IGNORED_LABEL
    losses = torch.zeros(labels.shape, device=labels.device)
    losses[is_labelled] = F.cross_entropy(scores[is_labelled].float(), labels[is_labelled], reduction="none")
    return scores.argmax(-1), losses


def _class_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    if labels.ndim == 2:
        return MultiLabelMetric().compute(predictions=(logits > 0).astype(int), references=labels.astype(int)) or {}
    return ClassificationMetric().compute(predictions=logits.argmax(-1), references=labels) or {}


def _token_metrics(predictions: Any, labels: np.ndarray) -> dict[str, float]:
    labelled = labels != IGNORED_LABEL
    if not labelled.any():
        return {}
    guesses, losses = map(np.asarray, predictions)
    metric = TokenMetric()
    return metric.compute(predictions=guesses[labelled], references=labels[labelled], losses=losses[labelled]) or {}


def _entity_metrics(
    guesses: np.ndarray, labels: np.ndarray, prepared: Prepared, names: Sequence[str]
) -> dict[str, float]:
    """The stretches of a document are put together again first: each of its words is labelled in one of them."""
    by_document: dict[int, tuple[list[str], list[str]]] = {}
    for document, guess, label in zip(prepared.document_of, guesses, labels, strict=True):
        words = label != IGNORED_LABEL
        for tags, ids in zip(by_document.setdefault(document, ([], [])), (guess, label), strict=True):
            tags += [names[index] for index in ids[words]]
    predictions, references = zip(*by_document.values(), strict=True)
    return EntityMetric().compute(predictions=list(predictions), references=list(references)) or {}


def _answer_metrics(shrunk: Any, prepared: PreparedQuestions) -> dict[str, float]:
    edges, no_answer = shrunk
    predictions = best_answers(np.asarray(edges), np.asarray(no_answer), prepared)
    references = [record.row["answers"]["text"] for record in prepared.records]
    return AnswerMetric().compute(predictions=predictions, references=references) or {}


def best_answers(
    edges: np.ndarray, no_answer: np.ndarray, prepared: PreparedQuestions, max_answer_length: int = 30
) -> list[str]:
    """The best answer to each question, over all stretches of its document.

    A span's score is that of its start and its end less that of no answer in the same stretch, which makes scores of
    different stretches comparable. An empty text, no answer, is given only where some question of the data has none.

    Args:
        edges: (features, 4, K) and
        no_answer: (features,) as `shrink_logits` gives them.
        max_answer_length: tokens of the longest answer.
    """
    may_abstain = any(not record.row["answers"]["text"] for record in prepared.records)
    scores = [0.0 if may_abstain else -np.inf] * len(prepared.records)
    answers = [""] * len(prepared.records)
    for span, candidates, nothing in zip(prepared.spans, edges, no_answer, strict=True):
        found = _best_span(span, candidates, max_answer_length)
        if found is not None and found[0] - nothing > scores[span.question]:
            score, first, last = found
            document = prepared.documents[span.question]
            scores[span.question] = float(score - nothing)
            answers[span.question] = document.text[document.offsets[first, 0] : document.offsets[last, 1]]
    return answers


def _best_span(span: Span, candidates: np.ndarray, max_length: int) -> tuple[float, int, int] | None:
    """The score and the document's tokens of a stretch's best span, from (4, K) candidates; None if there is none."""
    starts, start_scores, ends, end_scores = candidates
    low, high = span.prefix, span.prefix + span.stop - span.start
    is_inside = ((starts >= low) & (starts < high))[:, None] & ((ends >= low) & (ends < high))[None]
    length = ends[None] - starts[:, None] + 1
    scores = start_scores[:, None] + end_scores[None]
    scores = np.where(is_inside & (length >= 1) & (length <= max_length), scores, -np.inf)
    best = np.unravel_index(scores.argmax(), scores.shape)
    if not np.isfinite(scores[best]):
        return None
    shift = span.start - span.prefix
    return float(scores[best]), int(starts[best[0]]) + shift, int(ends[best[1]]) + shift
