"""What the heads make of a document: answers, filled masks, classes, tags; each with the attention that led there.

Shapes: N tokens.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longformer_plus import LongformerPlusPreTrainedModel
from longformer_plus.attention_maps import AttentionMaps, record
from longformer_plus.integrations.long_documents import (
    answer_question,
    classify_document,
    find_entities,
    tag_document,
)

from .checkpoints import MOST_TOKENS, Checkpoint
from .inputs import InputError, check_question, check_text
from .views import text_view, weights_view

MOST_MASKS = 32
MOST_ENTITIES = 64
# As for what is analysed.
MOST_CHARACTERS = MOST_TOKENS * 32


def ask(checkpoint: Checkpoint, question: str | None, text: str | None, count: int = 5) -> dict[str, Any]:
    """Answer a question from a document.

    Returns:
        The document with the answers marked, shaded by the question's global attention.

    Raises:
        InputError: question or document is empty or too long.
    """
    question, text = check_question(question), _document(text)
    tokens = _Tokens.of(checkpoint, text)
    with checkpoint.running() as model:
        attention = _Attention.of(checkpoint, model, question, text)
        answers = answer_question(model, checkpoint.tokenizer, question, text, top_k=count)
    marks = [
        {
            **_mark(tokens.between(answer.start, answer.end), str(rank + 1), answer.score),
            "text": text[answer.start : answer.end],
        }
        for rank, answer in enumerate(answers)
    ]
    shade = attention.maps.mean(rows=attention.question).mean(0)
    return {
        **tokens.view(checkpoint),
        "marks": marks,
        "shades": [weights_view(attention.on(tokens, shade))],
        "caption": "Purple: what the question's words, which attend globally, look at; mean of all layers and heads.",
        "columns": ["answer", "score"],
        "note": attention.note(tokens),
    }


def fill(checkpoint: Checkpoint, text: str | None, count: int = 5) -> dict[str, Any]:
    """Fill the masks of a text in place.

    Raises:
        InputError: the text is empty or too long, or has no mask or too many.
    """
    tokenizer = checkpoint.tokenizer
    tokens = _Tokens.of(checkpoint, check_text(text, "text"), checkpoint.max_tokens, with_special_tokens=True)
    places = (tokens.ids == tokenizer.mask_token_id).nonzero()[:, 0].tolist()
    if not 0 < len(places) <= MOST_MASKS:
        raise InputError(
            f"Write {tokenizer.mask_token} where a word is to be guessed: at least once, at most {MOST_MASKS} times."
        )
    first = torch.zeros_like(tokens.ids)
    first[0] = 1
    with checkpoint.running() as model, torch.no_grad():
        inputs = {"input_ids": tokens.ids[None], "global_attention_mask": first[None]}
        outputs, maps = record(model.base_model, inputs)
        # Words are many: only the masks are asked for theirs.
        guesses = model.lm_head(outputs.last_hidden_state[0, places]).float().softmax(-1).topk(count)
    marks = []
    for rank, (values, ids) in enumerate(zip(guesses.values.tolist(), guesses.indices.tolist(), strict=True)):
        words = [str(tokenizer.decode([index])).strip() for index in ids]
        others = ", ".join(f"{word} {value:.0%}" for word, value in zip(words[1:], values[1:], strict=True))
        mark = _mark((places[rank], places[rank]), str(rank + 1), values[0], shade=rank)
        marks.append({**mark, "replacement": words[0], "others": others})
    return {
        **tokens.view(checkpoint),
        "marks": marks,
        "shades": [weights_view(maps.mean(rows=place)[0]) for place in places],
        "globals": maps.layout.global_positions.tolist(),
        "caption": "Orange and purple: what the chosen mask looks at; mean of all layers and heads.",
        "columns": ["guess", "score"],
        "note": "",
    }


def classify(checkpoint: Checkpoint, text: str | None) -> dict[str, Any]:
    """Classify a document.

    Raises:
        InputError: the text is empty or too long.
    """
    text = _document(text)
    tokens = _Tokens.of(checkpoint, text)
    with checkpoint.running() as model:
        attention = _Attention.of(checkpoint, model, text)
        scores = classify_document(model, checkpoint.tokenizer, text).scores
    return {
        **tokens.view(checkpoint),
        "marks": [],
        "results": sorted(scores.items(), key=lambda result: -result[1])[:20],
        "shades": [weights_view(attention.on(tokens, attention.maps.mean(rows=0)[0]))],
        "caption": "Purple: what the first token looks at, from which the class is read; mean of all layers and heads.",
        "columns": ["class", "score"],
        "note": attention.note(tokens),
    }


def tag(checkpoint: Checkpoint, text: str | None) -> dict[str, Any]:
    """Tag the tokens of a document; those of one entity in a row are marked together.

    Raises:
        InputError: the text is empty or too long.
    """
    text = _document(text)
    tokens = _Tokens.of(checkpoint, text)
    with checkpoint.running() as model:
        attention = _Attention.of(checkpoint, model, text)
        found = find_entities(text, tag_document(model, checkpoint.tokenizer, text))
    marks: list[dict[str, Any]] = []
    shades: list[dict[str, Any]] = []
    for entity in found:
        first, last = tokens.between(entity.start, entity.end)
        shade = None
        if len(shades) < MOST_ENTITIES and last < len(attention.inside):
            rows = attention.inside[first : last + 1]
            shade = len(shades)
            shades.append(weights_view(attention.on(tokens, attention.maps.mean(rows=rows).mean(0))))
        mark = _mark((first, last), entity.label, entity.score, shade)
        marks.append({**mark, "text": text[entity.start : entity.end]})
    return {
        **tokens.view(checkpoint),
        "marks": marks,
        "shades": shades,
        "globals": [],
        "caption": f"Choose one of the first {MOST_ENTITIES} entities: what its tokens look at is shaded; mean of all "
        "layers and heads.",
        "columns": ["entity", "score"],
        "note": attention.note(tokens),
    }


@dataclass(frozen=True)
class _Tokens:
    """The tokens of a document as it is shown.

    Attributes:
        text: what they are of.
        ids: (N) int64.
        offsets: N pairs of character positions.
    """

    text: str
    ids: Tensor
    offsets: list[tuple[int, int]]

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, text: str, most: int = MOST_TOKENS, with_special_tokens: bool = False
    ) -> _Tokens:
        encoding = checkpoint.tokenizer(
            text,
            truncation=True,
            max_length=most,
            add_special_tokens=with_special_tokens,
            return_offsets_mapping=True,
        )
        return cls(text, torch.tensor(encoding["input_ids"]), [(s, e) for s, e in encoding["offset_mapping"]])

    def between(self, start: int, stop: int) -> tuple[int, int]:
        """The first and the last token of a stretch of characters."""
        first = bisect_right(self.offsets, start, key=lambda span: span[1])
        last = bisect_left(self.offsets, stop, key=lambda span: span[0]) - 1
        first = min(first, len(self.offsets) - 1)
        return first, max(first, last)

    def view(self, checkpoint: Checkpoint) -> dict[str, Any]:
        names = [str(checkpoint.tokenizer.decode([index])) for index in self.ids.tolist()]
        return text_view(self.text, names, self.offsets)


@dataclass(frozen=True)
class _Attention:
    """The attention over as much of a document as the model reads at once.

    Attributes:
        maps: the attention.
        inside: where the document's tokens are in it.
        question: where those of the question are.
    """

    maps: AttentionMaps
    inside: list[int]
    question: list[int]

    @classmethod
    def of(cls, checkpoint: Checkpoint, model: LongformerPlusPreTrainedModel, *texts: str) -> _Attention:
        encoding = checkpoint.tokenizer(
            *texts,
            truncation="only_second" if len(texts) > 1 else True,
            max_length=checkpoint.max_tokens,
            return_tensors="pt",
        )
        ids = encoding["input_ids"]
        chosen = model.choose_global_attention(ids, None, None)
        mask = torch.zeros_like(ids) if chosen is None else chosen
        _, maps = record(model.base_model, {"input_ids": ids, "global_attention_mask": mask})
        parts = encoding.sequence_ids(0)
        inside = [place for place, part in enumerate(parts) if part == len(texts) - 1]
        return cls(maps, inside, [place for place, part in enumerate(parts) if part == 0 and len(texts) > 1])

    def on(self, tokens: _Tokens, weights: Tensor) -> Tensor:
        """Weights on what the model read -> on the tokens that are shown, 0 on those beyond."""
        shown = torch.zeros(len(tokens.ids))
        shown[: len(self.inside)] = weights[self.inside][: len(shown)]
        return shown

    def note(self, tokens: _Tokens) -> str:
        """What to say where the document is longer than what the model reads at once."""
        if len(tokens.ids) <= len(self.inside):
            return ""
        return f"The attention is that on the first {len(self.inside):,} of {len(tokens.ids):,} tokens."


def _document(text: str | None) -> str:
    return check_text(text)[:MOST_CHARACTERS]


def _mark(span: tuple[int, int], label: str, score: float, shade: int | None = 0) -> dict[str, Any]:
    return {"first": span[0], "last": span[1], "label": label, "score": score, "shade": shade}
