"""What the tab Compare does: two models, two versions of a text, or two heads, side by side.

Shapes: L layers, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from longformer_plus.attention_maps import align, head_changes

from .documents import AnalysedDocument, Reader, Source
from .inputs import InputError
from .questions import NOT_THERE, Question
from .store import VisitorStore
from .views import packed, text_view, weights_view

SIDES = ("left", "right")


class Comparer:
    """Pairs of documents, each as of `Analyzer`.

    Args:
        reader: runs the models.
        store: where the visitors' documents are kept.
    """

    def __init__(self, reader: Reader, store: VisitorStore[AnalysedDocument]) -> None:
        self.reader = reader
        self.store = store

    def compare(self, visitor: str, left: Source, right: Source, address: str = "") -> dict[str, Any]:
        """Read two documents and keep them for the visitor; the page asks for the "documents" then.

        Args:
            visitor: the session's name.
            left, right: what is read.
            address: where the visitor comes from.

        Raises:
            InputError: as of `Reader.read`, or both together take too much memory.
        """
        pair = [self.reader.read(source) for source in (left, right)]
        for side, one in zip(SIDES, pair, strict=True):
            try:
                self.store.put(_name(visitor, side), one, one.num_bytes, address)
            except ValueError as error:
                raise InputError("These documents take more memory than there is. Shorten them.") from error
        return {"kind": "read"}

    def answer(self, visitor: str, sent: Any) -> dict[str, Any]:
        """Answer a click.

        Args:
            visitor: the session's name.
            sent: "ask", "documents", "pair" or "changes"; for a pair "direction", and "sides", the "token", "layer" and
                "head" of each side, where the token -1 is none.

        Raises:
            InputError: the question makes no sense.
        """
        kept = [self.store.get(_name(visitor, side)) for side in SIDES]
        pair = [one for one in kept if one is not None]
        if len(pair) < len(SIDES):
            return {"kind": "gone"}
        if not isinstance(sent, Mapping):
            raise InputError(NOT_THERE)
        if sent.get("ask") == "documents":
            return {"kind": "documents", **_documents(pair)}
        if sent.get("ask") == "changes":
            return {"kind": "changes", "rows": _changes(pair)}
        sides = sent.get("sides")
        if sent.get("ask") != "pair" or not isinstance(sides, list) or len(sides) != len(SIDES):
            raise InputError(NOT_THERE)
        direction = sent.get("direction", "to")
        return {"kind": "pair", "weights": [_weights(*one, direction) for one in zip(pair, sides, strict=True)]}

    def free(self, visitor: str) -> None:
        """Forget a visitor."""
        for side in SIDES:
            self.store.free(_name(visitor, side))


def _name(visitor: str, side: str) -> str:
    return f"{visitor} {side}"


def _documents(pair: list[AnalysedDocument]) -> dict[str, Any]:
    """All that is shown of two documents at first."""
    partners = align(pair[0].document.tokens, pair[1].document.tokens)
    opening = pair[0].opening
    first = [{"token": opening}, {"token": int(partners[opening])}]
    return {
        "sides": [_side(one) for one in pair],
        "partners": packed(partners.tolist()),
        "weights": [_weights(one, sent, "to") for one, sent in zip(pair, first, strict=True)],
        "opening": opening,
        "seconds": round(sum(one.seconds for one in pair), 2),
    }


def _side(analysed: AnalysedDocument) -> dict[str, Any]:
    document, maps = analysed.document, analysed.document.maps
    return {
        **text_view(document.text, document.tokens, document.offsets),
        "model": analysed.checkpoint.title,
        "globals": analysed.global_positions,
        "layers": maps.num_layers,
        "heads": maps.num_heads,
    }


def _weights(analysed: AnalysedDocument, sent: Any, direction: Any) -> dict[str, Any]:
    """What a token of one side looks at, by what the page sent of it; nothing for the token -1."""
    if not isinstance(sent, Mapping):
        raise InputError(NOT_THERE)
    is_there = sent.get("token") != -1
    question = Question.read(
        {**sent, **({} if is_there else {"token": 0}), "ask": "links", "direction": direction}, analysed
    )
    maps, layer, head = analysed.choose(question.layer, question.head)
    weights = maps.links(question.first, question.direction, layer, head, top_k=0).weights
    return weights_view(weights if is_there else torch.zeros_like(weights))


def _changes(pair: list[AnalysedDocument]) -> list[list[float]]:
    """(L, H) how differently each head attends on the two sides."""
    left, right = pair
    try:
        partners = align(left.document.tokens, right.document.tokens)
        changes = head_changes(left.document.maps, right.document.maps, partners)
    except ValueError as error:
        raise InputError("These models differ in layers or heads: there is nothing to compare head by head.") from error
    return [[0.0 if math.isnan(one) else round(one, 4) for one in row] for row in changes.tolist()]
