"""What the tab Attention does, apart from how it looks.

Shapes: N tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from longformer_plus import LongformerPlusForMaskedLM
from longformer_plus.attention_maps import contributions, gradient_times_input, logit_lens, mask_of, to_html

from .documents import AnalysedDocument, Reader, Source
from .inputs import SAMPLES, InputError, sample
from .questions import NOT_THERE, Question
from .store import VisitorStore
from .unit_views import flow_view, selection_view
from .views import Pictures, document_view, heads_view, layer_view

MOST_CONTRIBUTING = 256


class Analyzer:
    """Documents analysed, and questions about them answered, for visitors who know nothing of one another.

    Args:
        reader: runs the models.
        store: where the visitors' documents are kept.
    """

    def __init__(self, reader: Reader, store: VisitorStore[AnalysedDocument]) -> None:
        self.reader = reader
        self.store = store
        self._opening_lock = threading.Lock()
        self._opening: AnalysedDocument | None = None

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
        return {**_view(analysed, analysed.opening), "seconds": 0}

    def prepare_opening(self) -> AnalysedDocument:
        """The first sample, analysed at the first call."""
        with self._opening_lock:
            if self._opening is None:
                self._opening = self.reader.read(Source(sample(next(iter(SAMPLES)))))
            return self._opening

    def analyse(self, visitor: str, source: Source, address: str = "") -> dict[str, Any]:
        """Run a model on a text, keep its attention for the visitor, and say what the browser needs to show it.

        Args:
            visitor: the session's name.
            source: what is read.
            address: where the visitor comes from.

        Raises:
            InputError: as of `Reader.read`, or what would be kept takes too much memory.
        """
        return self._keep(visitor, self.reader.read(source), None, address)

    def restore(self, visitor: str, sent: Mapping[str, Any], address: str = "") -> dict[str, Any]:
        """Analyse what a page still shows but is no longer kept here, or what a shared address says.

        Args:
            visitor: the session's name.
            sent: "text", or "sample", the name of one; "question", "model", and "policy", or "globals", the positions
                that attend globally.
            address: where the visitor comes from.

        Raises:
            InputError: as of `analyse`.
        """
        name = str(sent.get("sample") or "")
        given = {field: str(sent.get(field) or "") for field in ("text", "policy", "question", "model")}
        source = Source(sample(name) if name else given["text"], given["policy"], given["question"], given["model"])
        positions = sent.get("globals")
        if source.policy != "chosen":
            return self.analyse(visitor, source, address)
        if not isinstance(positions, list) or not all(type(one) is int for one in positions):
            raise InputError(NOT_THERE)
        return self._keep(visitor, self.reader.read(source, sorted(set(positions))), None, address)

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
        question = Question.read(sent, analysed)
        layer, head = question.layer, question.head
        if question.ask == "page":
            page = to_html(analysed.document, layer, head, title="What a Longformer looks at")
            return {"kind": "page", "page": page}
        if question.ask == "heads":
            return {"kind": "heads", **heads_view(analysed.document.maps)}
        if question.ask == "lens":
            return {"kind": "lens", **_lens(analysed, question)}
        if question.ask == "global":
            positions = sorted(set(analysed.global_positions) ^ {question.first})
            source = replace(analysed.source, policy="chosen")
            return self._keep(visitor, self.reader.read(source, positions), question.first, address)
        return _links_or_layer(analysed, question)

    def _keep(self, visitor: str, analysed: AnalysedDocument, token: int | None, address: str) -> dict[str, Any]:
        """Keep an analysed document for a visitor, and show it with the links of a token, by default a telling one."""
        try:
            self.store.put(visitor, analysed, analysed.num_bytes, address)
        except ValueError as error:
            raise InputError(
                "The attention of this document takes more memory than there is for all visitors. Shorten it."
            ) from error
        return _view(analysed, analysed.opening if token is None else token)


def _view(analysed: AnalysedDocument, token: int) -> dict[str, Any]:
    """A document as it is first shown, with the links of a token."""
    first = Question("links", token, token, "token", None, None, "to", 1, 1, with_self=False, is_masked=False)
    maps, source = analysed.document.maps, analysed.source
    limit = f"Only the first {maps.num_tokens:,} tokens are shown: the model has room for no more."
    return {
        "kind": "document",
        "seconds": round(analysed.seconds, 2),
        "cut": limit if analysed.is_cut else "",
        "document": document_view(analysed.document, analysed.units),
        "source": {"sample": source.sample, "policy": source.policy, "question": source.question},
        "model": analysed.checkpoint.title,
        "hasLens": analysed.checkpoint.task == "fill-mask",
        **layer_view(analysed.average, None, None, Pictures.of(analysed.average, None, None)),
        "layer": -1,
        "head": -1,
        "links": selection_view(analysed, first),
    }


def _links_or_layer(analysed: AnalysedDocument, question: Question) -> dict[str, Any]:
    where = {
        "layer": -1 if question.layer is None else question.layer,
        "head": -1 if question.head is None else question.head,
    }
    if question.ask in _MEASURES:
        scores = _MEASURES[question.ask](analysed, question)
        return {"kind": "links", **where, "links": selection_view(analysed, question, scores)}
    links = selection_view(analysed, question)
    if question.ask == "links":
        return {"kind": "links", **where, "links": links}
    if question.ask == "layer":
        maps, layer, head = analysed.choose(question.layer, question.head)
        pictures = Pictures.of(maps, layer, head, question.columns, question.rows, question.with_self)
        flow = flow_view(analysed, question)
        return {"kind": "layer", **where, **layer_view(maps, layer, head, pictures), "flow": flow, "links": links}
    raise InputError(NOT_THERE)


def _rollout(analysed: AnalysedDocument, question: Question) -> Tensor:
    """(N) where the states of the selected tokens come from."""
    maps = analysed.document.maps
    amounts = torch.zeros(maps.num_tokens)
    amounts[question.tokens] = 1.0 / (question.last + 1 - question.first)
    return maps.rollout(amounts, question.head, question.layer)


def _contributions(analysed: AnalysedDocument, question: Question) -> Tensor:
    """(N) the mean norm of what each token carries to the selected ones, or, from them, the sum for each token."""
    if question.last - question.first >= MOST_CONTRIBUTING:
        raise InputError(
            f"The norms of at most {MOST_CONTRIBUTING} tokens can be shown at once. Choose a smaller part."
        )
    maps, total = analysed.document.maps, torch.zeros(analysed.document.maps.num_tokens)
    # A few at a time: each is a row of all heads.
    for some in torch.arange(question.first, question.last + 1).split(8):
        if question.direction == "to":
            total += contributions(maps, question.layer, question.head, rows=some).sum(0)
        else:
            total += contributions(maps, question.layer, question.head, columns=some).sum(1)
    return total / (question.last + 1 - question.first) if question.direction == "to" else total


def _gradient(analysed: AnalysedDocument, question: Question) -> Tensor:
    """(N) how much each token counts for what the model says at the selected tokens."""
    with analysed.checkpoint.running() as model:
        # Words are many: the head of a masked language model is asked for these tokens alone.
        if isinstance(model, LongformerPlusForMaskedLM):
            return gradient_times_input(
                model.longformer,
                _inputs(analysed),
                lambda outputs: model.lm_head(outputs.last_hidden_state[0, question.tokens]).amax(-1).sum(),
            )
        return gradient_times_input(model, _inputs(analysed), lambda outputs: _scalar_of(outputs, question.tokens))


_MEASURES = {"rollout": _rollout, "gradient": _gradient, "norm": _contributions}


def _lens(analysed: AnalysedDocument, question: Question) -> dict[str, Any]:
    """The words that a masked language model would say at a token, layer by layer."""
    inputs, tokenizer = _inputs(analysed), analysed.checkpoint.tokenizer
    if question.is_masked:
        inputs["input_ids"] = inputs["input_ids"].clone()
        inputs["input_ids"][0, question.first] = tokenizer.mask_token_id
    with analysed.checkpoint.running() as model:
        if not isinstance(model, LongformerPlusForMaskedLM):
            raise InputError("This model says no words. Choose a masked language model.")
        found = logit_lens(model, inputs, question.first)
    rows = [[[str(tokenizer.decode([word])), round(value, 4)] for word, value in words] for words in found]
    return {"token": question.first, "masked": question.is_masked, "rows": rows}


def _inputs(analysed: AnalysedDocument) -> dict[str, Tensor]:
    ids = analysed.input_ids
    return {"input_ids": ids, "global_attention_mask": mask_of(analysed.global_positions, ids.shape[1])}


def _scalar_of(outputs: Any, tokens: slice) -> Tensor:
    """What a model's outputs say at some tokens, or of the document, as one number."""
    if "last_hidden_state" in outputs:
        return outputs.last_hidden_state[0, tokens].square().sum()
    if "start_logits" in outputs:
        return outputs.start_logits[0, tokens].sum()
    logits = outputs.logits[0]
    return logits.max() if logits.dim() == 1 else logits[tokens].amax(-1).sum()
