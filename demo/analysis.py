"""What the tab Attention does, apart from how it looks.

Shapes: N tokens.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longformer_plus import LongformerPlusForMaskedLM
from longformer_plus.attention_maps import (
    AttentionMaps,
    DocumentMaps,
    attention_maps,
    gradient_times_input,
    mask_of,
    to_html,
)
from longformer_plus.attention_maps.maps import Direction
from longformer_plus.attention_maps.pictures import MOST_COLUMNS, MOST_ROWS
from longformer_plus.global_attention import Policy, build_global_attention_mask

from .checkpoints import Checkpoint
from .inputs import InputError, check_text
from .store import VisitorStore
from .views import Pictures, document_view, layer_view, links_view, scores_view

# The mean of a long text is between 3 and 6.
MOST_CHARACTERS_PER_TOKEN = 32
MOST_GLOBAL_TOKENS = 512
POLICIES = ("first token", "full stops", "separators", "none")
NOT_THERE = "This page asked for something that is not there. Reload it."


@dataclass(frozen=True)
class AnalysedDocument:
    """A visitor's document.

    Attributes:
        document: the text and its attention.
        input_ids: (1, N).
        global_positions: the tokens that attend globally.
        mean: the pictures of the mean of all layers and heads, which take longest to make.
    """

    document: DocumentMaps
    input_ids: Tensor
    global_positions: list[int]
    mean: Pictures

    @property
    def num_bytes(self) -> int:
        """What is held for the visitor."""
        return self.document.maps.num_bytes + len(self.document.text) + self.mean.num_bytes


@dataclass(frozen=True)
class Question:
    """What a click in the browser asks.

    Attributes:
        ask: "links", "layer", "rollout", "gradient", "global" or "page".
        token: a position.
        layer, head: their indices, None for the mean of all.
        direction: "to" or "from".
        columns, rows: the pixels that there are for a picture.
    """

    ask: str
    token: int
    layer: int | None
    head: int | None
    direction: Direction
    columns: int
    rows: int

    @classmethod
    def read(cls, sent: Mapping[str, Any], maps: AttentionMaps) -> Question:
        """Check what the browser sent, where -1 stands for the mean.

        Raises:
            InputError: it asks for something that the document does not have.
        """
        if not isinstance(sent, Mapping):
            raise InputError(NOT_THERE)
        try:
            token = int(sent.get("token", 0))
            layer, head = (int(sent.get(name, -1)) for name in ("layer", "head"))
            direction = sent.get("direction", "to")
            columns, rows = (
                min(int(sent.get(name, most)), most) for name, most in (("columns", MOST_COLUMNS), ("rows", MOST_ROWS))
            )
            within = 0 <= token < maps.num_tokens and -1 <= layer < maps.num_layers and -1 <= head < maps.num_heads
            if not within or direction not in ("to", "from") or min(columns, rows) < 1:
                raise InputError(NOT_THERE)
            where = (None if layer < 0 else layer, None if head < 0 else head)
            return cls(str(sent["ask"]), token, *where, direction, columns, rows)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(NOT_THERE) from error


class Analyzer:
    """Documents analysed, and questions about them answered, for visitors who know nothing of one another.

    Args:
        checkpoint: the model.
        store: where the visitors' documents are kept.
    """

    def __init__(self, checkpoint: Checkpoint, store: VisitorStore[AnalysedDocument]) -> None:
        self.checkpoint = checkpoint
        self.store = store

    def policy(self, name: str) -> Policy:
        """One of `POLICIES` -> a policy of `longformer_plus.global_attention`.

        Raises:
            InputError: there is none of this name.
        """
        if name not in POLICIES:
            raise InputError("There is no such choice of global tokens.")
        if name == "full stops":
            found = [self.checkpoint.tokenizer.convert_tokens_to_ids(mark) for mark in (".", "?", "!")]
            return [index for index in found if isinstance(index, int)]
        return {"first token": "cls"}.get(name, name)

    def analyse(self, visitor: str, text: str | None, policy: Policy = "cls", address: str = "") -> dict[str, Any]:
        """Run the model on a text, keep its attention for the visitor, and say what the browser needs to show it.

        Args:
            visitor: the session's name.
            text: the document.
            policy: which tokens attend globally.
            address: where the visitor comes from.

        Raises:
            InputError: the text is empty or too long, or too many tokens would be global.
        """
        text = check_text(text)
        # What is cut off here the tokenizer would cut off too, only slower.
        text = text[: self.checkpoint.max_tokens * MOST_CHARACTERS_PER_TOKEN]
        tokenizer = self.checkpoint.tokenizer
        ids = self._ids(text)
        mask = build_global_attention_mask(policy, ids, torch.ones_like(ids) > 0, tokenizer.sep_token_id)
        return self._show(visitor, text, ids, [] if mask is None else mask[0].nonzero()[:, 0].tolist(), 1, address)

    def answer(self, visitor: str, sent: Mapping[str, Any], address: str = "") -> dict[str, Any]:
        """Answer what a click in the browser asks.

        Args:
            visitor: the session's name.
            sent: the fields of a `Question`.
            address: where the visitor comes from.

        Raises:
            InputError: nothing is kept for the visitor, or the question makes no sense.
        """
        analysed = self.store.get(visitor)
        if analysed is None:
            raise InputError("Your document is no longer held here. Choose Analyse again.")
        maps = analysed.document.maps
        question = Question.read(sent, maps)
        layer, head, token = question.layer, question.head, question.token
        if question.ask == "page":
            return {"kind": "page", "page": to_html(analysed.document, layer, head, title="What a Longformer looks at")}
        if question.ask == "global":
            positions = sorted(set(analysed.global_positions) ^ {token})
            return self._show(visitor, analysed.document.text, analysed.input_ids, positions, token, address)
        where = {"layer": -1 if layer is None else layer, "head": -1 if head is None else head}
        if question.ask in ("rollout", "gradient"):
            scores = maps.rollout(token, head, layer) if question.ask == "rollout" else self._gradient(analysed, token)
            return {"kind": "links", **where, "links": scores_view(maps, token, scores, layer, head)}
        links = links_view(maps, token, question.direction, layer, head)
        if question.ask == "links":
            return {"kind": "links", **where, "links": links}
        if question.ask == "layer":
            size = question.columns, question.rows
            is_mean = layer is None and head is None
            pictures = analysed.mean.shrunk(*size) if is_mean else Pictures.of(maps, layer, head, *size)
            return {"kind": "layer", **where, **layer_view(maps, layer, head, pictures), "links": links}
        raise InputError(NOT_THERE)

    def _ids(self, text: str) -> Tensor:
        """(1, N)."""
        encoding = self.checkpoint.tokenizer(
            text, truncation=True, max_length=self.checkpoint.max_tokens, return_tensors="pt"
        )
        return encoding["input_ids"]

    def _show(
        self, visitor: str, text: str, ids: Tensor, global_positions: list[int], token: int, address: str
    ) -> dict[str, Any]:
        """Run the model with these global tokens, keep what comes of it, and show it with the links of a token."""
        if len(global_positions) > MOST_GLOBAL_TOKENS:
            raise InputError(
                f"{len(global_positions):,} tokens would attend globally; at most {MOST_GLOBAL_TOKENS} can here. Choose"
                " others, or a shorter document."
            )
        started = time.perf_counter()
        with self.checkpoint.running() as model:
            document = attention_maps(model, self.checkpoint.tokenizer, text, global_positions=global_positions)
        maps = document.maps
        analysed = AnalysedDocument(document, ids, global_positions, Pictures.of(maps, None, None))
        try:
            self.store.put(visitor, analysed, analysed.num_bytes, address)
        except ValueError as error:
            raise InputError(
                "The attention of this document takes more memory than there is for all visitors. Shorten it."
            ) from error
        is_cut = bool(text[max(stop for _, stop in document.offsets) :].strip())
        limit = f"Only the first {maps.num_tokens:,} tokens are shown: the model has room for no more."
        return {
            "kind": "document",
            "seconds": round(time.perf_counter() - started, 2),
            "cut": limit if is_cut else "",
            "document": document_view(document),
            **layer_view(maps, None, None, analysed.mean),
            "layer": -1,
            "head": -1,
            "links": links_view(maps, min(token, maps.num_tokens - 1), "to", None, None),
        }

    def _gradient(self, analysed: AnalysedDocument, token: int) -> Tensor:
        """(N) how much each token counts for what the model says at a token."""
        ids = analysed.input_ids
        inputs = {"input_ids": ids, "global_attention_mask": mask_of(analysed.global_positions, ids.shape[1])}
        with self.checkpoint.running() as model:
            # Words are many: the head of a masked language model is asked for this token alone.
            if isinstance(model, LongformerPlusForMaskedLM):
                return gradient_times_input(
                    model.longformer, inputs, lambda outputs: model.lm_head(outputs.last_hidden_state[0, token]).max()
                )
            return gradient_times_input(model, inputs, lambda outputs: _scalar_of(outputs, token))


def _scalar_of(outputs: Any, token: int) -> Tensor:
    """What a model's outputs say at a token, or of the document, as one number."""
    if "last_hidden_state" in outputs:
        return outputs.last_hidden_state[0, token].square().sum()
    if "start_logits" in outputs:
        return outputs.start_logits[0, token]
    logits = outputs.logits[0]
    return logits.max() if logits.dim() == 1 else logits[token].max()
