"""Extractive question answering: the span of a document that answers a question, or that there is none.

Shapes: B batch, N tokens, K candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TokenizersBackend

from longformer_plus import LongformerPlusForQuestionAnswering

from ..data.checks import list_of, require, text_of
from ..data.collators import DataCollatorForLongformerQuestionAnswering
from ..data.features import Prepared
from ..data.question_features import PreparedQuestions, Span, join_paragraphs, prepare_questions
from ..data.sources import Record, Row
from ..long_documents import answer_questions
from .task import HeldOut, Preparation, Scorer, Scores, Task

_NUM_CANDIDATES = 64
_NO_SCORE = -1e9


def _check_input(row: Row) -> None:
    require(bool(text_of(row, "question").strip()), "'question' is empty")
    require(bool(text_of(row, "context").strip()), "'context' is empty")


def _check(row: Row) -> None:
    _check_input(row)
    context, answers = row["context"], row.get("answers")
    require(isinstance(answers, dict), f"'answers' is {answers!r:.80}, not an object with 'text' and 'answer_start'")
    texts, starts = list_of(answers, "text"), list_of(answers, "answer_start")  # type: ignore[arg-type]
    require(len(texts) == len(starts), f"{len(texts)} texts of answers for {len(starts)} answer_starts")
    for text, start in zip(texts, starts, strict=True):
        require(isinstance(text, str) and bool(text.strip()), f"the answer {text!r:.80} is no text")
        require(isinstance(start, int), f"answer_start {start!r:.80} is not an int")
        found = context[start : start + len(text)] if start >= 0 else ""
        require(
            found == text,
            f"the answer {text!r:.80} is outside its document: at character {start} of {len(context)} stands "
            f"{found!r:.80}",
        )


def _prepare(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, options: Preparation) -> Prepared:
    return prepare_questions(
        records,
        tokenizer,
        options.max_length,
        options.overlap,
        unanswered_share=options.unanswered_share,
        seed=options.seed,
    )


def _scorer(prepared: Any, names: Sequence[str]) -> Scorer:
    if not isinstance(prepared, PreparedQuestions):
        raise TypeError("Question answering is evaluated on what prepare_questions gives.")
    from ..metrics import AnswerMetric

    references = [record.row["answers"]["text"] for record in prepared.records]

    def score(shrunk: Any, labels: np.ndarray) -> dict[str, float]:
        edges, no_answer = shrunk
        predictions = best_answers(np.asarray(edges), np.asarray(no_answer), prepared)
        return AnswerMetric().compute(predictions=predictions, references=references) or {}

    return score


def _best_edges(logits: tuple[Tensor, Tensor], labels: Any) -> tuple[Tensor, Tensor]:
    """(B, 4, K) places and scores of the best starts and of the best ends; (B) the score of no answer."""
    starts, ends = logits[0].float(), logits[1].float()
    candidates = []
    for scores in (starts, ends):
        # Rows shorter than K candidates are filled with the worst.
        filled = F.pad(scores, (0, max(_NUM_CANDIDATES - scores.shape[1], 0)), value=_NO_SCORE)
        best = filled.topk(_NUM_CANDIDATES, dim=1)
        candidates += [best.indices.to(scores.dtype), best.values]
    return torch.stack(candidates, dim=1), starts[:, 0] + ends[:, 0]


def best_answers(
    edges: np.ndarray, no_answer: np.ndarray, prepared: PreparedQuestions, max_answer_length: int = 30
) -> list[str]:
    """The best answer to each question, over all stretches of its document.

    A span's score is that of its start and its end less that of no answer in the same stretch, which makes scores of
    different stretches comparable. An empty text, no answer, is given only where some question of the data has none.

    Args:
        edges: (features, 4, K) and
        no_answer: (features,) as `shrink_logits` of the task gives them.
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


def _evaluate(model: PreTrainedModel, tokenizer: TokenizersBackend, held_out: HeldOut) -> Scores:
    """The scores of the answers, of a document's first sentence, and of the words most like the question."""
    from ..metrics import AnswerMetric, baselines

    records = held_out.records
    questions, documents = ([record.row[name] for record in records] for name in ("question", "context"))
    truths = [record.row["answers"]["text"] for record in records]
    has_null = any(not texts for texts in truths)
    found = answer_questions(model, tokenizer, questions, documents, null_answer=has_null, **held_out.reading)
    windows = {document: baselines.OverlappingWindow(document) for document in set(documents)}
    guesses = {
        "model": [answers[0].text if answers else "" for answers in found],
        "first sentence": [baselines.first_sentence(document) for document in documents],
        "likest window": [
            windows[document].answer(question) for question, document in zip(questions, documents, strict=True)
        ],
    }
    return {
        name: AnswerMetric().compute(predictions=answers, references=truths) or {} for name, answers in guesses.items()
    }


def _predict(
    model: PreTrainedModel, tokenizer: TokenizersBackend, rows: Sequence[Row], **options: Any
) -> list[dict[str, Any]]:
    """The `answers` of each row, the best first. `options` are those of `answer_questions`."""
    questions, documents = ([row[name] for row in rows] for name in ("question", "context"))
    found = answer_questions(model, tokenizer, questions, documents, **options)
    return [{"answers": [asdict(answer) for answer in answers]} for answers in found]


TASK = Task(
    name="question-answering",
    model=LongformerPlusForQuestionAnswering,
    collator=DataCollatorForLongformerQuestionAnswering,
    label_names=("start_positions", "end_positions"),
    columns={
        "question": "a string",
        "context": "the document, of any length",
        "answers": '{"text": [...], "answer_start": [...]}, empty lists where there is none',
    },
    check_input=_check_input,
    check=_check,
    join=join_paragraphs,
    prepare=_prepare,
    shrink_logits=_best_edges,
    logits_dimensions=2,
    scorer=_scorer,
    scores=("exact_match", "f1"),
    evaluate=_evaluate,
    evaluation="exact match and F1; baselines: the first sentence, the words likest to the question",
    predict=_predict,
    peft_type="QUESTION_ANS",
)
