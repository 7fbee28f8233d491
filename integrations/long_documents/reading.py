"""Question answering, classification and tagging of documents of any length, with PEFT's adapters or without.

A document that is longer than the model's position table is read in overlapping stretches (see `stretches`), and judged
as a whole: scores of answers are normalised over all stretches together, so that those of different stretches compare.

Shapes: N tokens of one stretch, A tokens of the longest answer, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, TokenizersBackend

from ..data.stretches import Stretch, StretchReader, TextOrWords

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Answer:
    """A span of a document.

    Attributes:
        text: the span; empty for the null answer, that the document holds none.
        start: its first character in the document.
        end: the character after its last.
        score: its probability among all spans of the document that are no longer than allowed.
    """

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Classification:
    """The class of a document.

    Attributes:
        label: the most probable one.
        score: its probability; for regression the value.
        scores: those of all labels. They sum to 1, unless the model gives several labels at once.
    """

    label: str
    score: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Tag:
    """The class of a word.

    Attributes:
        label: the most probable one, of the word's first token.
        score: its probability.
        start: the word's first character in the document; where words were given, in these with a space between them.
        end: the character after its last.
    """

    label: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Entity:
    """Words that are tagged as one.

    Attributes:
        label: their label without "B-" and "I-".
        text: what stands in the document.
        score: the mean of theirs.
        start: the first character in the document; where words were given, in these with a space between them.
        end: the character after the last.
    """

    label: str
    text: str
    score: float
    start: int
    end: int


def answer_question(
    model: PreTrainedModel | PeftModel,
    tokenizer: TokenizersBackend,
    question: str,
    document: str,
    **options: Any,
) -> list[Answer]:
    """The best answers to one question, the best first. Arguments and errors are those of `answer_questions`."""
    return answer_questions(model, tokenizer, [question], [document], **options)[0]


def answer_questions(
    model: PreTrainedModel | PeftModel,
    tokenizer: TokenizersBackend,
    questions: Sequence[str],
    documents: Sequence[str],
    *,
    top_k: int = 1,
    max_answer_tokens: int = 30,
    null_answer: bool = False,
    **options: Any,
) -> list[list[Answer]]:
    """The best answers to questions about documents of any length.

    The score of a span is exp(start logit + end logit), divided by the sum over all spans of all stretches. Each span
    is scored once, in the stretch where its first token has most context.

    Args:
        model: one with a head for question answering.
        tokenizer: its tokenizer.
        questions: one for each document.
        documents: their texts.
        top_k: answers to each question. Fewer are given where the document has not as many spans.
        max_answer_tokens: the longest answer.
        null_answer: let the null answer compete, with the logits of the first token ("<s>"), in the stretch where they
            are lowest: the document has no answer where no stretch has one. For models trained with such questions.
        options: those of `StretchReader`: `max_length`, `overlap`, `batch_size` and `show_progress`.

    Returns:
        For each question its answers, the best first.

    Raises:
        TypeError: the model is no Longformer, or has no head for question answering.
        ValueError: an option is out of range, a question or a document is empty, or neighbouring stretches share too
            few tokens for the longest answer.
    """
    if top_k < 1 or max_answer_tokens < 1:
        raise ValueError(
            f"top_k={top_k}, max_answer_tokens={max_answer_tokens} is not allowed: both must be at least 1."
        )
    if empty := [index for index, question in enumerate(questions) if not question.strip()]:
        raise ValueError(f"Question {empty[0]} is empty: give at least one word.")
    reader = StretchReader(model, tokenizer, **options)

    def judge(stretch: Stretch, logits: dict[str, Tensor]) -> _Spans:
        if "start_logits" not in logits:
            raise TypeError(f"A {type(model).__name__} has no start and end logits: load it for question answering.")
        return _spans(stretch, logits["start_logits"], logits["end_logits"], max_answer_tokens, top_k)

    read = reader.read(documents, judge, questions)
    return [_rank(document, spans, top_k, null_answer) for document, spans in zip(documents, read, strict=True)]


@dataclass(frozen=True)
class _Spans:
    """The spans of one stretch.

    Attributes:
        logits: those of the best ones, by their first character and the one after their last.
        log_sum: the logarithm of the sum of exp(logit) over all of them.
        null: the logit of the null answer.
    """

    logits: dict[tuple[int, int], float]
    log_sum: float
    null: float


def _spans(stretch: Stretch, start: Tensor, end: Tensor, longest: int, count: int) -> _Spans:
    """The `count` best spans of up to `longest` tokens that start in a stretch's own part, from its (N,) logits."""
    tokens, own, null = stretch.tokens, stretch.own, float(start[0] + end[0])
    if not stretch.is_last and tokens.stop - tokens.start - own.stop < longest:
        raise ValueError(
            f"Answers of up to {longest} tokens may not fit into a stretch: neighbouring ones must share "
            f"{2 * longest} tokens. Raise overlap, lower max_answer_tokens, or shorten the question."
        )
    offsets = stretch.encoding.offsets[tokens]
    can_start, can_end = _edges(offsets)
    start = torch.where(can_start, start[tokens], -torch.inf)
    end = torch.where(can_end, end[tokens], -torch.inf)
    ends = F.pad(end, (0, longest - 1), value=-torch.inf).unfold(0, longest, 1)  # (N, A)
    scores = (start[:, None] + ends)[own].flatten()
    best = scores.topk(min(count, len(scores)))
    logits = {}
    for logit, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        if logit > -math.inf:
            first = own.start + index // longest
            logits[offsets[first][0], offsets[first + index % longest][1]] = logit
    return _Spans(logits, float(scores.logsumexp(0)), null)


def _edges(offsets: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Which tokens a span may start and end with, (N,) bool each: no lone space, and no part of a character."""
    before, behind = [None, *offsets[:-1]], [*offsets[1:], None]
    can_start = [each[0] < each[1] and each != other for each, other in zip(offsets, before, strict=True)]
    can_end = [each[0] < each[1] and each != other for each, other in zip(offsets, behind, strict=True)]
    return torch.tensor(can_start), torch.tensor(can_end)


def _rank(document: str, stretches: Sequence[_Spans], top_k: int, null_answer: bool) -> list[Answer]:
    """The answers from the spans of all stretches."""
    logits = {span: logit for spans in stretches for span, logit in spans.logits.items()}
    log_sums = [spans.log_sum for spans in stretches]
    if null_answer:
        logits[0, 0] = min(spans.null for spans in stretches)
        log_sums.append(logits[0, 0])
    log_sum = float(torch.tensor(log_sums, dtype=torch.float64).logsumexp(0))
    best = sorted(logits.items(), key=itemgetter(1), reverse=True)[:top_k]
    return [
        Answer(document[start:end], start, end, math.exp(min(logit - log_sum, 0.0))) for (start, end), logit in best
    ]


def classify_document(
    model: PreTrainedModel | PeftModel, tokenizer: TokenizersBackend, document: str, **options: Any
) -> Classification:
    """The class of one document. Arguments and errors are those of `classify_documents`."""
    return classify_documents(model, tokenizer, [document], **options)[0]


def classify_documents(
    model: PreTrainedModel | PeftModel, tokenizer: TokenizersBackend, documents: Sequence[str], **options: Any
) -> list[Classification]:
    """The classes of documents of any length: the mean of the stretches' probabilities, weighted by their tokens.

    Args:
        model: one with a head for sequence classification. `config.problem_type` says whether its classes exclude one
            another (the default), go together, or are values of a regression (the default for one class).
        tokenizer: its tokenizer.
        documents: their texts.
        options: those of `StretchReader`: `max_length`, `overlap`, `batch_size` and `show_progress`.

    Raises:
        TypeError: the model is no Longformer, or has no head for sequence classification.
        ValueError: an option is out of range, or a document is empty.
    """
    labels: dict[int, str] = model.config.id2label  # type: ignore[assignment]
    reader = StretchReader(model, tokenizer, **options)

    def judge(stretch: Stretch, logits: dict[str, Tensor]) -> tuple[Tensor, int]:
        if "logits" not in logits or logits["logits"].shape != (len(labels),):
            raise TypeError(f"A {type(model).__name__} does not classify: load it for sequence classification.")
        return logits["logits"], stretch.own.stop - stretch.own.start

    classifications = []
    for stretches in reader.read(documents, judge):
        logits, weights = zip(*stretches, strict=True)
        mean = judge_stretches(torch.stack(logits), torch.tensor(weights), model.config.problem_type)
        scores = {labels[index]: score for index, score in enumerate(mean.tolist())}
        label = max(scores, key=lambda name: scores[name])
        classifications.append(Classification(label, scores[label], scores))
    return classifications


def judge_stretches(logits: Tensor, weights: Tensor, problem_type: str | None) -> Tensor:
    """What a model says of a document, from what it says of its S stretches: the weighted mean.

    Args:
        logits: (S, C).
        weights: (S,), such as how many tokens each counts.
        problem_type: as in a configuration.

    Returns:
        (C,) probabilities, or the values of a regression.
    """
    if problem_type == "multi_label_classification":
        logits = logits.sigmoid()
    elif problem_type != "regression" and (problem_type is not None or logits.shape[1] > 1):
        logits = logits.softmax(1)
    return weights.to(logits.dtype) @ logits / weights.sum()


def tag_document(
    model: PreTrainedModel | PeftModel, tokenizer: TokenizersBackend, document: TextOrWords, **options: Any
) -> list[Tag]:
    """The tags of one document's words. Arguments and errors are those of `tag_documents`."""
    return tag_documents(model, tokenizer, [document], **options)[0]


def tag_documents(
    model: PreTrainedModel | PeftModel, tokenizer: TokenizersBackend, documents: Sequence[TextOrWords], **options: Any
) -> list[list[Tag]]:
    """A tag for every word of documents of any length, from the stretch where the word has most context.

    Args:
        model: one with a head for token classification.
        tokenizer: its tokenizer.
        documents: texts, whose words are the tokenizer's (punctuation stands alone); or lists of words, each of which
            gets its tag.
        options: those of `StretchReader`: `max_length`, `overlap`, `batch_size` and `show_progress`.

    Raises:
        TypeError: the model is no Longformer, or has no head for token classification.
        ValueError: an option is out of range, or a document or one of the words given is empty.
    """
    labels: dict[int, str] = model.config.id2label  # type: ignore[assignment]
    for document in documents:
        if not isinstance(document, str) and not all(word.strip() for word in document):
            raise ValueError("One of the words is empty: leave it out, or put something in its place.")
    reader = StretchReader(model, tokenizer, **options)

    def judge(stretch: Stretch, logits: dict[str, Tensor]) -> list[tuple[int | None, Tag]]:
        if "logits" not in logits or logits["logits"].shape[1:] != (len(labels),):
            raise TypeError(f"A {type(model).__name__} does not tag: load it for token classification.")
        scores, classes = logits["logits"].softmax(-1)[stretch.tokens][stretch.own].max(-1)
        words = stretch.encoding.word_ids[stretch.tokens][stretch.own]
        offsets = stretch.encoding.offsets[stretch.tokens][stretch.own]
        columns = zip(words, classes.tolist(), scores.tolist(), offsets, strict=True)
        return [(word, Tag(labels[label], score, *offset)) for word, label, score, offset in columns]

    read = reader.read(documents, judge)
    return [_by_word(document, stretches) for document, stretches in zip(documents, read, strict=True)]


def _by_word(document: TextOrWords, stretches: Sequence[list[tuple[int | None, Tag]]]) -> list[Tag]:
    """One tag for each word from those of all tokens in order."""
    tokens = [pair for stretch in stretches for pair in stretch]
    tags = []
    for _, group in groupby(tokens, key=itemgetter(0)):
        parts = [tag for _, tag in group]
        tags.append(replace(parts[0], end=parts[-1].end))
    if isinstance(document, str):
        return tags
    # There, characters are counted in each word.
    starts = accumulate((len(word) + 1 for word in document), initial=0)
    return [
        replace(tag, start=start, end=start + len(word))
        for tag, start, word in zip(tags, starts, document, strict=False)
    ]


def find_entities(document: TextOrWords, tags: Sequence[Tag]) -> list[Entity]:
    """The entities of a document from its tags.

    "B-PER" begins an entity and "I-PER" continues one of the same label, or begins one where none stands before it; so
    does a label without a prefix. "O" is none.

    Args:
        document: the text, or the words, that were tagged.
        tags: what `tag_document` gave for it.
    """
    text = document if isinstance(document, str) else " ".join(document)
    groups: list[tuple[str, list[Tag]]] = []
    label = "O"
    for tag in tags:
        prefix, kind = (tag.label[0], tag.label[2:]) if tag.label[:2] in ("B-", "I-") else ("I", tag.label)
        if kind != "O" and (prefix == "B" or kind != label):
            groups.append((kind, [tag]))
        elif kind != "O":
            groups[-1][1].append(tag)
        label = kind
    return [
        Entity(
            label=kind,
            text=text[parts[0].start : parts[-1].end],
            score=sum(part.score for part in parts) / len(parts),
            start=parts[0].start,
            end=parts[-1].end,
        )
        for kind, parts in groups
    ]
