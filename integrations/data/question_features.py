"""Features for question answering: stretches of long documents, each with its question, and where the answer is.

Shapes: N tokens of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from .features import Feature, Prepared, encode_text
from .sources import Record
from .stretches import overlapping_spans


@dataclass(eq=False)
class EncodedText:
    """A text, encoded once for all questions about it.

    Attributes:
        text: the text.
        ids: (tokens) without special ones.
        offsets: (tokens, 2) the characters that each stands for.
    """

    text: str
    ids: np.ndarray
    offsets: np.ndarray

    def find(self, start: int, stop: int) -> tuple[int, int]:
        """The first and the last token of the characters from `start` up to, not including, `stop`."""
        first = int(np.searchsorted(self.offsets[:, 1], start, side="right"))
        last = int(np.searchsorted(self.offsets[:, 0], stop, side="left")) - 1
        return first, max(first, last)


@dataclass(frozen=True)
class Span:
    """Where a feature's stretch lies.

    Attributes:
        question: the number of the question.
        start, stop: the tokens of the document that it holds.
        prefix: tokens of the feature before them.
    """

    question: int
    start: int
    stop: int
    prefix: int


@dataclass
class PreparedQuestions(Prepared):
    """Features for question answering, put together when they are asked for.

    Attributes:
        records: the questions.
        documents: the document of each question.
        spans: where each feature's stretch lies.
    """

    records: Sequence[Record] = ()
    documents: Sequence[EncodedText] = ()
    spans: Sequence[Span] = ()


@dataclass
class _QuestionFeatures(Sequence):
    """The features, of which only what differs is kept: a document is long, and has many questions."""

    documents: Sequence[EncodedText]
    questions: Sequence[np.ndarray]
    frame: tuple[np.ndarray, np.ndarray, np.ndarray]
    spans: list[Span] = field(default_factory=list)
    answers: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> Feature:  # type: ignore[override]
        span = self.spans[index]
        before, between, after = self.frame
        document = self.documents[span.question].ids[span.start : span.stop]
        start, end = self.answers[index]
        ids = np.concatenate([before, self.questions[span.question], between, document, after])
        return {"input_ids": ids, "start_positions": start, "end_positions": end}


def prepare_questions(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    overlap: int = 128,
    max_question_length: int = 64,
    unanswered_share: float = 1.0,
    seed: int = 0,
) -> PreparedQuestions:
    """Features for question answering, with the answer anywhere in a document of any length.

    A stretch that does not hold the whole answer has the answer at its first token, <s>: none here.

    Args:
        records: rows of `question`, `context` and `answers`, of which the first is learned.
        max_length: tokens of a feature: special ones, the question and a stretch.
        overlap: tokens that neighbouring stretches share; an answer that is longer may be lost.
        max_question_length: tokens of a question; longer ones are cut.
        unanswered_share: the share of the stretches without an answer that is kept, drawn at random.

    Raises:
        ValueError: there is no room for a stretch.
    """
    documents = _encode_documents([record.row["context"] for record in records], tokenizer)
    encoded = [encode_text(tokenizer, record.row["question"]) for record in records]
    features = _QuestionFeatures(documents, [ids[:max_question_length] for ids in encoded], _frame(tokenizer))
    random = np.random.default_rng(seed)
    answered = lost = 0
    for number, record in enumerate(records):
        answer = _answer_tokens(record, documents[number])
        was_found = False
        for span in _question_spans(features, number, max_length, overlap):
            is_here = answer is not None and span.start <= answer[0] and answer[1] < span.stop
            if not is_here and random.random() >= unanswered_share:
                continue
            shift = span.prefix - span.start
            features.spans.append(span)
            features.answers.append((answer[0] + shift, answer[1] + shift) if answer and is_here else (0, 0))
            was_found |= is_here
        answered += answer is not None
        lost += answer is not None and not was_found
    cut = sum(len(ids) > max_question_length for ids in encoded)
    summary = (
        f"{len(records):,} questions on {len(set(map(id, documents))):,} documents in {len(features):,} stretches; "
        f"{lost:,} of {answered:,} answers are lost ({lost / max(answered, 1):.1%}), {cut:,} questions are cut"
    )
    document_of = [span.question for span in features.spans]
    return PreparedQuestions(features, document_of, summary, records=records, documents=documents, spans=features.spans)


def join_paragraphs(records: Sequence[Record], by: str = "title") -> list[Record]:
    """Questions about paragraphs -> the same questions about whole articles.

    The paragraphs of all rows whose field `by` is the same are joined, each once, in order of their `paragraph`
    numbers where they have them, and `answer_start` is moved.

    Raises:
        ValueError: a row has no such field; the message names file and line.
    """
    contexts: dict[Any, dict[str, Any]] = {}
    for number, record in enumerate(records):
        if by not in record.row:
            raise ValueError(f"{record.where}: has no {by!r} to join paragraphs by.")
        contexts.setdefault(record.row[by], {}).setdefault(record.row["context"], record.row.get("paragraph", number))
    articles, starts = {}, {}
    for title, paragraphs in contexts.items():
        ordered = sorted(paragraphs, key=paragraphs.__getitem__)
        articles[title] = "\n\n".join(ordered)
        ends = np.cumsum([len(text) + 2 for text in ordered]).tolist()
        starts[title] = dict(zip(ordered, [0, *ends[:-1]], strict=True))
    joined = []
    for record in records:
        row, title = record.row, record.row[by]
        moved = [start + starts[title][row["context"]] for start in row["answers"]["answer_start"]]
        answers = {"text": row["answers"]["text"], "answer_start": moved}
        joined.append(Record(record.where, {**row, "context": articles[title], "answers": answers}))
    return joined


def _encode_documents(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[EncodedText]:
    known: dict[str, EncodedText] = {}
    for text in texts:
        if text not in known:
            encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            offsets = np.array(encoding["offset_mapping"], dtype=np.int32).reshape(-1, 2)
            known[text] = EncodedText(text, np.array(encoding["input_ids"], dtype=np.int32), offsets)
    return [known[text] for text in texts]


def _answer_tokens(record: Record, document: EncodedText) -> tuple[int, int] | None:
    """The first and the last token of the answer in its document; None where there is none."""
    answers = record.row["answers"]
    if not answers["text"]:
        return None
    start = answers["answer_start"][0]
    return document.find(start, start + len(answers["text"][0]))


def _question_spans(features: _QuestionFeatures, number: int, max_length: int, overlap: int) -> list[Span]:
    before, between, after = features.frame
    prefix = len(before) + len(features.questions[number]) + len(between)
    room = max_length - prefix - len(after)
    length = len(features.documents[number].ids)
    return [Span(number, start, stop, prefix) for start, stop, _, _ in overlapping_spans(length, room, overlap)]


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The special tokens before, between and after a pair."""
    pair = tokenizer("a", "a")
    sequences = pair.sequence_ids()
    groups = [list(group) for _, group in groupby(range(len(sequences)), key=lambda place: sequences[place] is None)]
    if len(groups) != 5:
        raise ValueError("The tokenizer puts no special tokens before, between and after the parts of a pair.")
    ids = np.array(pair["input_ids"], dtype=np.int32)
    return ids[groups[0]], ids[groups[2]], ids[groups[4]]
