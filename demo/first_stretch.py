"""Answers, classes and tags from as much of a document as a model reads at once.

Shapes: N tokens, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedModel, TokenizersBackend

MOST_ANSWER_TOKENS = 30


@dataclass(frozen=True)
class Answer:
    """A span of a document, from `start` up to, not including, `end`, in characters, and its probability."""

    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Classification:
    """The probabilities of the classes by their labels."""

    scores: dict[str, float]


@dataclass(frozen=True)
class Entity:
    """A span with a label, from `start` up to, not including, `end`, in characters."""

    label: str
    score: float
    start: int
    end: int


@torch.no_grad()
def answer_question(
    model: PreTrainedModel, tokenizer: TokenizersBackend, question: str, document: str, *, top_k: int = 1
) -> list[Answer]:
    """The likeliest answers that do not overlap, likeliest first."""
    encoding = _encode(model, tokenizer, question, document)
    outputs = model(input_ids=encoding["input_ids"])
    inside = torch.tensor([part == 1 for part in encoding.sequence_ids(0)])
    start, end = (
        logits[0].float().masked_fill(~inside, -torch.inf).softmax(-1)
        for logits in (outputs.start_logits, outputs.end_logits)
    )
    offsets = encoding["offset_mapping"][0].tolist()
    spans = best_spans(start, end, top_k)
    return [Answer(offsets[first][0], offsets[last][1], score) for first, last, score in spans]


def best_spans(start: Tensor, end: Tensor, count: int) -> list[tuple[int, int, float]]:
    """(N) probabilities of starts and of ends -> first and last token of the likeliest spans, and their scores."""
    candidates = []
    for first in start.topk(min(20, len(start))).indices.tolist():
        reachable = end[first : first + MOST_ANSWER_TOKENS]
        for length in reachable.topk(min(5, len(reachable))).indices.tolist():
            candidates.append((first, first + length, float(start[first] * reachable[length])))
    chosen: list[tuple[int, int, float]] = []
    for span in sorted(candidates, key=lambda span: -span[2]):
        if span[2] > 0 and all(span[1] < other[0] or span[0] > other[1] for other in chosen):
            chosen.append(span)
    return chosen[:count]


@torch.no_grad()
def classify_document(model: PreTrainedModel, tokenizer: TokenizersBackend, document: str) -> Classification:
    """The classes of a document."""
    scores = model(input_ids=_encode(model, tokenizer, document)["input_ids"]).logits[0].float().softmax(-1)
    return Classification({_label(model, index): score for index, score in enumerate(scores.tolist())})


@torch.no_grad()
def tag_document(model: PreTrainedModel, tokenizer: TokenizersBackend, document: str) -> list[Entity]:
    """A label for every token that has characters."""
    encoding = _encode(model, tokenizer, document)
    scores, classes = model(input_ids=encoding["input_ids"]).logits[0].float().softmax(-1).max(-1)
    columns = zip(classes.tolist(), scores.tolist(), encoding["offset_mapping"][0].tolist(), strict=True)
    return [Entity(_label(model, index), score, *span) for index, score, span in columns if span[1] > span[0]]


def find_entities(document: str, tags: list[Entity]) -> list[Entity]:
    """Runs of tags with one label, named without B- and I-; "O" is none."""
    found: list[list[Entity]] = []
    before = "O"
    for tag in tags:
        name = tag.label[2:] if tag.label[:2] in ("B-", "I-") else tag.label
        if name != "O" and (tag.label[:2] == "B-" or name != before):
            found.append([tag])
        elif name != "O":
            found[-1].append(tag)
        before = name
    return [
        Entity(
            run[0].label[2:] if run[0].label[:2] in ("B-", "I-") else run[0].label,
            sum(tag.score for tag in run) / len(run),
            run[0].start,
            run[-1].end,
        )
        for run in found
    ]


def _encode(model: PreTrainedModel, tokenizer: TokenizersBackend, *texts: str) -> BatchEncoding:
    return tokenizer(
        *texts,
        truncation="only_second" if len(texts) > 1 else True,
        max_length=model.config.max_tokens,
        return_offsets_mapping=True,
        return_tensors="pt",
    )


def _label(model: PreTrainedModel, index: int) -> str:
    return str(model.config.id2label[index])  # type: ignore[index]
