"""What the heads make of a document: answers, filled masks, classes, tags; each with the attention that led there.

Shapes: N tokens, C classes, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import BatchEncoding

from longformer_plus.attention_maps import AttentionMaps, record

from .checkpoints import Checkpoint
from .documents import InputError, check_text
from .views import text_view, weights_view

MOST_ANSWER_TOKENS = 40
MOST_MASKS = 32
MOST_ENTITIES = 64
MOST_QUESTION_CHARACTERS = 1000


@dataclass(frozen=True)
class Span:
    """A stretch of tokens, both ends included, and its probability."""

    first: int
    last: int
    score: float


def best_spans(start_logits: Tensor, end_logits: Tensor, count: int) -> list[Span]:
    """The likeliest answers that do not overlap, likeliest first.

    Args:
        start_logits, end_logits: (N), of the tokens that an answer may consist of.
        count: how many.
    """
    start, end = start_logits.float().softmax(-1), end_logits.float().softmax(-1)
    candidates = []
    for first in start.topk(min(20, len(start))).indices.tolist():
        reachable = end[first : first + MOST_ANSWER_TOKENS]
        for length in reachable.topk(min(5, len(reachable))).indices.tolist():
            candidates.append(Span(first, first + length, float(start[first] * reachable[length])))
    chosen: list[Span] = []
    for span in sorted(candidates, key=lambda span: -span.score):
        if all(span.last < other.first or span.first > other.last for other in chosen):
            chosen.append(span)
    return chosen[:count]


def ask(checkpoint: Checkpoint, question: str | None, text: str | None, count: int = 5) -> dict[str, Any]:
    """Answer a question from a document.

    Returns:
        The document with the answers marked, shaded by the question's global attention.

    Raises:
        InputError: question or document is empty or too long.
    """
    question, text = check_text(question, "question"), check_text(text)
    if len(question) > MOST_QUESTION_CHARACTERS:
        raise InputError(
            f"The question has {len(question):,} characters; at most {MOST_QUESTION_CHARACTERS:,} are taken."
        )
    encoding = _encode(checkpoint, question, text)
    with checkpoint.running() as model:
        outputs, maps = record(model, _inputs(encoding))
    parts = encoding.sequence_ids(0)
    inside = [place for place, part in enumerate(parts) if part == 1]
    asking = [place for place, part in enumerate(parts) if part == 0]
    spans = best_spans(outputs.start_logits[0, inside], outputs.end_logits[0, inside], count)
    marks = [_mark(span.first, span.last, str(rank + 1), span.score) for rank, span in enumerate(spans)]
    shade = maps.mean(rows=asking, columns=inside).mean(0)
    return {
        **_text(checkpoint, encoding, text, inside),
        "marks": marks,
        "shades": [weights_view(shade)],
        "caption": "Purple: what the question's words, which attend globally, look at; mean of all layers and heads.",
        "columns": ["answer", "score"],
        "note": _cut(encoding, text),
    }


def fill(checkpoint: Checkpoint, text: str | None, count: int = 5) -> dict[str, Any]:
    """Fill the masks of a text in place.

    Raises:
        InputError: the text is empty or too long, or has no mask or too many.
    """
    mask = str(checkpoint.tokenizer.mask_token)
    text = check_text(text, "text")
    encoding = _encode(checkpoint, text)
    places = (encoding["input_ids"][0] == checkpoint.tokenizer.mask_token_id).nonzero()[:, 0].tolist()
    if not 0 < len(places) <= MOST_MASKS:
        raise InputError(f"Write {mask} where a word is to be guessed: at least once, at most {MOST_MASKS} times.")
    inputs = _inputs(encoding, global_attention_mask=_first_token(encoding))
    with checkpoint.running() as model, torch.no_grad():
        outputs, maps = record(model.base_model, inputs)
        # Words are many: only the masks are asked for theirs.
        guesses = model.lm_head(outputs.last_hidden_state[0, places]).float().softmax(-1).topk(count)
    marks = []
    for rank, (values, ids) in enumerate(zip(guesses.values.tolist(), guesses.indices.tolist(), strict=True)):
        words = [str(checkpoint.tokenizer.decode([index])).strip() for index in ids]
        others = ", ".join(f"{word} {value:.0%}" for word, value in zip(words[1:], values[1:], strict=True))
        mark = _mark(places[rank], places[rank], str(rank + 1), values[0])
        marks.append({**mark, "replacement": words[0], "others": others, "shade": rank})
    return {
        **_text(checkpoint, encoding, text),
        "marks": marks,
        "shades": [weights_view(maps.mean(rows=place)[0]) for place in places],
        "globals": maps.layout.global_positions.tolist(),
        "caption": "Orange and purple: what the chosen mask looks at; mean of all layers and heads.",
        "columns": ["guess", "score"],
        "note": _cut(encoding, text),
    }


def classify(checkpoint: Checkpoint, text: str | None) -> dict[str, Any]:
    """Classify a document.

    Raises:
        InputError: the text is empty or too long.
    """
    text = check_text(text)
    encoding = _encode(checkpoint, text)
    with checkpoint.running() as model:
        outputs, maps = record(model, _inputs(encoding))
    scores = outputs.logits[0].float().softmax(-1)
    order = scores.argsort(descending=True).tolist()
    return {
        **_text(checkpoint, encoding, text),
        "marks": [],
        "results": [[_label(checkpoint, index), float(scores[index])] for index in order[:20]],
        "shades": [weights_view(maps.mean(rows=0)[0])],
        "caption": "Purple: what the first token looks at, from which the class is read; mean of all layers and heads.",
        "columns": ["class", "score"],
        "note": _cut(encoding, text),
    }


def tag(checkpoint: Checkpoint, text: str | None) -> dict[str, Any]:
    """Tag the tokens of a document; those of one entity in a row are marked together.

    Raises:
        InputError: the text is empty or too long.
    """
    text = check_text(text)
    encoding = _encode(checkpoint, text)
    with checkpoint.running() as model:
        outputs, maps = record(model, _inputs(encoding))
    scores, classes = outputs.logits[0].float().softmax(-1).max(-1)
    labels = [_label(checkpoint, index) for index in classes.tolist()]
    special = checkpoint.tokenizer.get_special_tokens_mask(
        encoding["input_ids"][0].tolist(), already_has_special_tokens=True
    )
    spans = entities(["O" if is_special else label for label, is_special in zip(labels, special, strict=True)])
    marks = []
    for rank, (first, last, label) in enumerate(spans):
        shade = rank if rank < MOST_ENTITIES else None
        marks.append({**_mark(first, last, label, float(scores[first : last + 1].mean())), "shade": shade})
    return {
        **_text(checkpoint, encoding, text),
        "marks": marks,
        "shades": [weights_view(_mean_row(maps, first, last)) for first, last, _ in spans[:MOST_ENTITIES]],
        "globals": maps.layout.global_positions.tolist(),
        "caption": f"Choose one of the first {MOST_ENTITIES} entities: what its tokens look at is shaded; mean of all "
        "layers and heads.",
        "columns": ["entity", "score"],
        "note": _cut(encoding, text),
    }


def entities(labels: list[str]) -> list[tuple[int, int, str]]:
    """Runs of tokens with one label: (first, last, label without B- and I-). "O" and "LABEL_0" are none."""
    found: list[tuple[int, int, str]] = []
    before = "O"
    for place, label in enumerate(labels):
        prefix, _, name = label.partition("-") if label[:2] in ("B-", "I-") else ("", "", label)
        if name not in ("O", "LABEL_0"):
            if prefix != "B" and name == before:
                found[-1] = (found[-1][0], place, name)
            else:
                found.append((place, place, name))
        before = name
    return found


def _mean_row(maps: AttentionMaps, first: int, last: int) -> Tensor:
    return maps.mean(rows=slice(first, last + 1)).mean(0)


def _encode(checkpoint: Checkpoint, *texts: str) -> BatchEncoding:
    """A text, or a question and a text, cut to what the model has room for."""
    limit = checkpoint.max_tokens
    return checkpoint.tokenizer(
        *(text[: limit * 32] for text in texts),
        truncation="only_second" if len(texts) > 1 else True,
        max_length=limit,
        return_offsets_mapping=True,
        return_tensors="pt",
    )


def _inputs(encoding: BatchEncoding, **more: Tensor) -> dict[str, Tensor]:
    return {"input_ids": encoding["input_ids"], **more}


def _first_token(encoding: BatchEncoding) -> Tensor:
    mask = torch.zeros_like(encoding["input_ids"])
    mask[:, 0] = 1
    return mask


def _offsets(encoding: BatchEncoding) -> list[tuple[int, int]]:
    return [(start, stop) for start, stop in encoding["offset_mapping"][0].tolist()]


def _text(
    checkpoint: Checkpoint, encoding: BatchEncoding, text: str, places: list[int] | None = None
) -> dict[str, Any]:
    """The view of a text, or of the tokens at some places."""
    offsets = _offsets(encoding)
    names = [str(checkpoint.tokenizer.decode([index])) for index in encoding["input_ids"][0].tolist()]
    chosen = range(len(offsets)) if places is None else places
    return text_view(text, [names[place] for place in chosen], [offsets[place] for place in chosen])


def _mark(first: int, last: int, label: str, score: float) -> dict[str, Any]:
    return {"first": first, "last": last, "label": label, "score": score, "shade": 0}


def _label(checkpoint: Checkpoint, index: int) -> str:
    names: dict[Any, str] = checkpoint.config.id2label or {}
    return str(names.get(index, f"LABEL_{index}"))


def _cut(encoding: BatchEncoding, text: str) -> str:
    """What to say where a text is longer than what was read."""
    offsets = _offsets(encoding)
    if text[max(stop for _, stop in offsets) :].strip():
        return f"Only the first {len(offsets):,} tokens were read: the model has room for no more."
    return ""
