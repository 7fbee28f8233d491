"""What the tab Attention does, apart from how it looks.

Shapes: N tokens.
"""

from __future__ import annotations

import threading
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
from .inputs import SAMPLES, InputError, check_text, sample
from .memory import release_free_memory
from .opening import telling_token
from .store import VisitorStore
from .views import Pictures, document_view, heads_view, layer_view, links_view, scores_view

# The mean of a long text is between 3 and 6.
MOST_CHARACTERS_PER_TOKEN = 32
MOST_GLOBAL_TOKENS = 512
POLICIES = ("first token", "full stops", "separators", "none")
# What the page opens with: global tokens that one sees in the whole text.
OPENING_POLICY = "full stops"
NOT_THERE = "This page asked for something that is not there. Reload it."


@dataclass(frozen=True)
class AnalysedDocument:
    """A visitor's document.

    Attributes:
        document: the text and its attention.
        input_ids: (1, N).
        global_positions: the tokens that attend globally.
        mean: the pictures of the mean of all layers and heads, which take longest to make.
        seconds: how long the analysis took.
        is_cut: whether the text goes on after the last token.
    """

    document: DocumentMaps
    input_ids: Tensor
    global_positions: list[int]
    mean: Pictures
    seconds: float
    is_cut: bool

    @property
    def num_bytes(self) -> int:
        """What is held for the visitor."""
        return self.document.maps.num_bytes + len(self.document.text) + self.mean.num_bytes


@dataclass(frozen=True)
class Question:
    """What a click in the browser asks.

    Attributes:
        ask: "links", "layer", "heads", "rollout", "gradient", "global" or "page".
        token: a position.
        layer, head: their indices, None for the mean of all.
        direction: "to" or "from".
        columns, rows: the pixels that there are for a picture.
        with_self: whether the pictures show the weight of each token on itself.
    """

    ask: str
    token: int
    layer: int | None
    head: int | None
    direction: Direction
    columns: int
    rows: int
    with_self: bool

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
            with_self = sent.get("withSelf") is True
            return cls(str(sent["ask"]), token, *where, direction, columns, rows, with_self)
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
        self._opening_lock = threading.Lock()
        self._opening: AnalysedDocument | None = None

    def policy(self, name: str) -> Policy:
        """One of `POLICIES` -> a policy of `longformer_plus.global_attention`.

        Raises:
            InputError: there is none of this name.
        """
        if name not in POLICIES:
            raise InputError(f"There is no such choice of global tokens. Choose one of: {', '.join(POLICIES)}.")
        if name == "full stops":
            found = [self.checkpoint.tokenizer.convert_tokens_to_ids(mark) for mark in (".", "?", "!")]
            return [index for index in found if isinstance(index, int)]
        return {"first token": "cls"}.get(name, name)

    def open(self, visitor: str, address: str = "") -> dict[str, Any]:
        """What the page opens on: the first sample, analysed once for all visitors.

        Args:
            visitor: the session's name.
            address: where the visitor comes from.
        """
        analysed = self.prepare_opening()
        # All visitors share it: for one more of them nothing more is held.
        self.store.put(visitor, analysed, 0, address)
        # How long it took to read it once is nothing that this visitor waited for.
        return {**self._view(analysed, telling_token(analysed.document)), "seconds": 0}

    def prepare_opening(self) -> AnalysedDocument:
        """The first sample, analysed at the first call."""
        with self._opening_lock:
            if self._opening is None:
                text = sample(next(iter(SAMPLES)))
                self._opening = self.read(text, self.policy(OPENING_POLICY))
            return self._opening

    def read(self, text: str | None, policy: Policy) -> AnalysedDocument:
        """Run the model on a text, and keep nothing.

        Args:
            text: the document.
            policy: which tokens attend globally.

        Raises:
            InputError: the text is empty or too long, or too many tokens would be global.
        """
        text = check_text(text)
        # What is cut off here the tokenizer would cut off too, only slower.
        text = text[: self.checkpoint.max_tokens * MOST_CHARACTERS_PER_TOKEN]
        tokenizer = self.checkpoint.tokenizer
        encoding = tokenizer(text, truncation=True, max_length=self.checkpoint.max_tokens, return_tensors="pt")
        ids = encoding["input_ids"]
        mask = build_global_attention_mask(policy, ids, torch.ones_like(ids) > 0, tokenizer.sep_token_id)
        return self._run(text, ids, [] if mask is None else mask[0].nonzero()[:, 0].tolist())

    def analyse(self, visitor: str, text: str | None, policy: Policy = "cls", address: str = "") -> dict[str, Any]:
        """Run the model on a text, keep its attention for the visitor, and say what the browser needs to show it.

        Args:
            visitor: the session's name.
            text: the document.
            policy: which tokens attend globally.
            address: where the visitor comes from.

        Raises:
            InputError: as of `read`, or what would be kept takes too much memory.
        """
        return self._show(visitor, self.read(text, policy), None, address)

    def restore(self, visitor: str, sent: Mapping[str, Any], address: str = "") -> dict[str, Any]:
        """Analyse again what a page still shows but is no longer kept here.

        Args:
            visitor: the session's name.
            sent: "text", and "globals", the positions that attend globally.
            address: where the visitor comes from.

        Raises:
            InputError: as of `analyse`, or the positions are none of the document's.
        """
        analysed = self.read(str(sent.get("text", "")), "none")
        positions = sent.get("globals")
        count = analysed.document.maps.num_tokens
        if not isinstance(positions, list) or not all(type(one) is int and 0 <= one < count for one in positions):
            raise InputError(NOT_THERE)
        if positions:
            analysed = self._run(analysed.document.text, analysed.input_ids, sorted(set(positions)))
        return self._show(visitor, analysed, None, address)

    def answer(self, visitor: str, sent: Mapping[str, Any], address: str = "") -> dict[str, Any]:
        """Answer what a click in the browser asks.

        Args:
            visitor: the session's name.
            sent: the fields of a `Question`.
            address: where the visitor comes from.

        Returns:
            What the page shows; its "kind" is "gone" where nothing is kept for the visitor.

        Raises:
            InputError: the question makes no sense.
        """
        if isinstance(sent, Mapping) and sent.get("ask") == "restore":
            return self.restore(visitor, sent, address)
        analysed = self.store.get(visitor)
        if analysed is None:
            return {"kind": "gone"}
        maps = analysed.document.maps
        question = Question.read(sent, maps)
        layer, head, token = question.layer, question.head, question.token
        if question.ask == "page":
            return {"kind": "page", "page": to_html(analysed.document, layer, head, title="What a Longformer looks at")}
        if question.ask == "heads":
            return {"kind": "heads", **heads_view(maps)}
        if question.ask == "global":
            positions = sorted(set(analysed.global_positions) ^ {token})
            again = self._run(analysed.document.text, analysed.input_ids, positions)
            return self._show(visitor, again, token, address)
        where = {"layer": -1 if layer is None else layer, "head": -1 if head is None else head}
        if question.ask in ("rollout", "gradient"):
            scores = maps.rollout(token, head, layer) if question.ask == "rollout" else self._gradient(analysed, token)
            return {"kind": "links", **where, "links": scores_view(maps, token, scores, layer, head)}
        links = links_view(maps, token, question.direction, layer, head)
        if question.ask == "links":
            return {"kind": "links", **where, "links": links}
        if question.ask == "layer":
            pictures = self._pictures(analysed, question)
            return {"kind": "layer", **where, **layer_view(maps, layer, head, pictures), "links": links}
        raise InputError(NOT_THERE)

    def _pictures(self, analysed: AnalysedDocument, question: Question) -> Pictures:
        size = question.columns, question.rows
        if question.layer is None and question.head is None and not question.with_self:
            return analysed.mean.shrunk(*size)
        return Pictures.of(analysed.document.maps, question.layer, question.head, *size, question.with_self)

    def _run(self, text: str, ids: Tensor, global_positions: list[int]) -> AnalysedDocument:
        """Run the model with these global tokens."""
        if len(global_positions) > MOST_GLOBAL_TOKENS:
            raise InputError(
                f"{len(global_positions):,} tokens would attend globally; at most {MOST_GLOBAL_TOKENS} can here. Choose"
                " others, or a shorter document."
            )
        started = time.perf_counter()
        with self.checkpoint.running() as model:
            document = attention_maps(model, self.checkpoint.tokenizer, text, global_positions=global_positions)
        pictures = Pictures.of(document.maps, None, None)
        release_free_memory()
        is_cut = bool(text[max(stop for _, stop in document.offsets) :].strip())
        return AnalysedDocument(document, ids, global_positions, pictures, time.perf_counter() - started, is_cut)

    def _show(self, visitor: str, analysed: AnalysedDocument, token: int | None, address: str) -> dict[str, Any]:
        """Keep an analysed document for a visitor, and show it with the links of a token, by default a telling one."""
        try:
            self.store.put(visitor, analysed, analysed.num_bytes, address)
        except ValueError as error:
            raise InputError(
                "The attention of this document takes more memory than there is for all visitors. Shorten it."
            ) from error
        return self._view(analysed, telling_token(analysed.document) if token is None else token)

    def _view(self, analysed: AnalysedDocument, token: int) -> dict[str, Any]:
        maps = analysed.document.maps
        limit = f"Only the first {maps.num_tokens:,} tokens are shown: the model has room for no more."
        return {
            "kind": "document",
            "seconds": round(analysed.seconds, 2),
            "cut": limit if analysed.is_cut else "",
            "document": document_view(analysed.document),
            **layer_view(maps, None, None, analysed.mean),
            "layer": -1,
            "head": -1,
            "links": links_view(maps, token, "to", None, None),
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
