"""From rows to features: long documents cut into overlapping stretches, and what that loses counted.

Each function takes records (`sources.Record`) that were checked, and gives features that the collators take.

A stretch is a part of a document that fits the model. Shapes: N tokens of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from longformer_plus.model.losses import IGNORED_LABEL

from .sources import Record
from .stretches import overlapping_spans

logger = logging.get_logger(__name__)

Feature = dict[str, Any]


@dataclass
class Prepared(Dataset):
    """Features, and what became of the documents.

    Attributes:
        features: what the collator takes, one for each stretch.
        document_of: the document, by number, that each feature is of.
        summary: one line for people: how many there are, and what was lost.
    """

    features: Sequence[Feature]
    document_of: list[int]
    summary: str

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Feature:
        return self.features[index]


def class_names(records: Sequence[Record], column: str) -> list[str]:
    """The classes that a column of some rows has, in order: numbers by value, up to the largest; names by alphabet.

    Args:
        records: rows whose column holds a class, or a list of classes.
        column: such as "label".

    Raises:
        ValueError: some are numbers and some are names; or there are fewer than two.
    """
    labels: set[str | int] = set()
    for record in records:
        label = record.row[column]
        labels.update(label if isinstance(label, list) else [label])
    numbers = [label for label in labels if isinstance(label, int)]
    if numbers and len(numbers) < len(labels):
        raise ValueError(f"Some labels are numbers and some are names: {sorted(map(str, labels))}. Use one kind.")
    names = list(map(str, range(max(numbers) + 1))) if numbers else sorted(map(str, labels))
    if len(names) < 2:
        raise ValueError(f"All rows have the label {names[0]!r}: there is nothing to learn. Give rows of two classes.")
    return names


def _class_id(names: dict[str, int], label: str | int, record: Record) -> int:
    if str(label) not in names:
        allowed = ", ".join(map(repr, list(names)[:20]))
        raise ValueError(f"{record.where}: label {label!r} is out of range: the classes are {allowed}.")
    return names[str(label)]


def prepare_classification(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, names: Sequence[str], max_length: int
) -> Prepared:
    """Features for sequence classification, one for each document, cut to `max_length` tokens.

    Args:
        records: rows of `text` and `label`.
        names: the classes, by id.

    Raises:
        ValueError: a row has another label than these; the message names its file and line.
    """
    ids = {name: index for index, name in enumerate(names)}
    return prepare_documents(records, tokenizer, [_document_label(ids, record) for record in records], max_length)


def prepare_documents(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, labels: Sequence[Any], max_length: int
) -> Prepared:
    """Features of one document and its label each, cut to `max_length` tokens.

    Args:
        records: rows of `text`.
        labels: what the model learns of each.
    """
    features, lost, total = [], 0, 0
    for record, label in zip(records, labels, strict=True):
        # Without truncation first: the summary says how much is lost.
        tokens = _encode(tokenizer, record.row["text"])
        kept = _with_special_tokens(tokenizer, tokens, max_length)
        total += len(tokens)
        lost += max(len(tokens) - max_length + tokenizer.num_special_tokens_to_add(), 0)
        features.append({"input_ids": kept, "labels": label})
    share = lost / max(total, 1)
    summary = f"{len(features):,} documents of {total / len(features):,.0f} tokens; cutting loses {share:.1%} of these"
    return Prepared(features, list(range(len(features))), summary)


def _document_label(ids: dict[str, int], record: Record) -> int | list[float]:
    label = record.row["label"]
    if not isinstance(label, list):
        return _class_id(ids, label, record)
    chosen = {_class_id(ids, each, record) for each in label}
    return [float(index in chosen) for index in range(len(ids))]


def prepare_tagging(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    max_length: int,
    overlap: int = 128,
) -> Prepared:
    """Features for token classification of pre-split words, of documents of any length.

    A word's label stands on its first token. Where two stretches overlap, a word is labelled in the one that shows more
    of its surroundings, so that each counts once.

    Args:
        records: rows of `tokens` and `ner_tags`, perhaps of `global_attention_mask` by word.
        tokenizer: with `add_prefix_space=True`.
        names: the tags, by id.
        max_length: tokens of a stretch, special ones included.
        overlap: tokens that neighbouring stretches share.

    Raises:
        ValueError: a tag is none of these, and the message names file and line; or there is no room for a stretch.
    """
    ids = {name: index for index, name in enumerate(names)}
    room = max_length - tokenizer.num_special_tokens_to_add()
    features: list[Feature] = []
    document_of: list[int] = []
    for number, record in enumerate(records):
        words = record.row["tokens"]
        encoding = tokenizer(words, is_split_into_words=True, add_special_tokens=False, verbose=False)
        word_of = np.array(encoding.word_ids())
        is_first = np.diff(word_of, prepend=-1) != 0
        tags = np.array([_class_id(ids, tag, record) for tag in record.row["ner_tags"]])
        labels = np.where(is_first, tags[word_of], IGNORED_LABEL)
        word_mask = record.row.get("global_attention_mask")
        for start, stop, first, last in overlapping_spans(len(word_of), room, overlap):
            here = labels[start:stop].copy()
            here[: first - start] = here[last - start :] = IGNORED_LABEL
            feature: Feature = {
                "input_ids": _surround(tokenizer, encoding["input_ids"][start:stop]),
                "labels": np.concatenate([[IGNORED_LABEL], here, [IGNORED_LABEL]]),
            }
            if word_mask is not None:
                is_global = np.array(word_mask)[word_of[start:stop]]
                feature["global_attention_mask"] = np.concatenate([[0], is_global, [0]])
            features.append(feature)
            document_of.append(number)
    summary = f"{len(records):,} documents in {len(features):,} stretches; every word is labelled once"
    return Prepared(features, document_of, summary)


def prepare_choices(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Prepared:
    """Features for multiple choice: the context with the question and each choice, the context cut where too long.

    Args:
        records: rows of `choices` and `label`, perhaps of `context` and `question`.

    Raises:
        ValueError: a question with a choice alone is longer than `max_length`; the message names file and line.
    """
    features, cut = [], 0
    for record in records:
        row = record.row
        parts = [" ".join(filter(None, (row.get("question"), choice))) for choice in row["choices"]]
        context = row.get("context") or ""
        lengths = [len(_encode(tokenizer, part)) for part in parts]
        special = tokenizer.num_special_tokens_to_add(pair=True)
        if max(lengths) + special > max_length:
            raise ValueError(
                f"{record.where}: question and choice have {max(lengths)} tokens; {max_length - special} fit."
            )
        cut += len(_encode(tokenizer, context)) + max(lengths) + special > max_length
        encoding = tokenizer([context] * len(parts), parts, truncation="only_first", max_length=max_length)
        features.append({"input_ids": encoding["input_ids"], "labels": row["label"]})
    summary = f"{len(features):,} questions; of {cut / max(len(features), 1):.1%} the context is cut"
    return Prepared(features, list(range(len(features))), summary)


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
    encoded = [_encode(tokenizer, record.row["question"]) for record in records]
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
    return PreparedQuestions(features, document_of, summary, records, documents, features.spans)


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


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> np.ndarray:
    """The ids of a text of any length, without special tokens."""
    return np.array(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int32)


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The special tokens before, between and after a pair."""
    pair = tokenizer("a", "a")
    sequences = pair.sequence_ids()
    groups = [list(group) for _, group in groupby(range(len(sequences)), key=lambda place: sequences[place] is None)]
    if len(groups) != 5:
        raise ValueError("The tokenizer puts no special tokens before, between and after the parts of a pair.")
    ids = np.array(pair["input_ids"], dtype=np.int32)
    return ids[groups[0]], ids[groups[2]], ids[groups[4]]


def _surround(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> np.ndarray:
    return np.array([tokenizer.cls_token_id, *ids, tokenizer.sep_token_id], dtype=np.int32)


def _with_special_tokens(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray, max_length: int) -> torch.Tensor:
    room = max_length - tokenizer.num_special_tokens_to_add()
    return torch.from_numpy(_surround(tokenizer, ids[:room].tolist()))
