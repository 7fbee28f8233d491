"""Answers to what the page asks of a document: those that are read from what is kept, and those that run its model.

Shapes: N tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from longformer_plus import LongformerPlusForMaskedLM
from longformer_plus.attention_maps import contributions, gradient_times_input, logit_lens, to_html

from .documents import AnalysedDocument
from .inputs import InputError
from .questions import Question
from .unit_views import flow_view, selection_view
from .views import Pictures, document_view, heads_view, layer_view

MOST_CONTRIBUTING = 256
Answer = Callable[[AnalysedDocument, Question], dict[str, Any]]


def _document(analysed: AnalysedDocument, question: Question) -> dict[str, Any]:
    """All that is shown of a document at first."""
    source, num_tokens = analysed.source, analysed.document.maps.num_tokens
    limit = f"Only the first {num_tokens:,} tokens are shown: the model has room for no more."
    return {
        "seconds": round(analysed.seconds, 2),
        "cut": limit if analysed.is_cut else "",
        "document": document_view(analysed.document, analysed.units),
        "source": {"sample": source.sample, "policy": source.policy, "question": source.question},
        "model": analysed.checkpoint.title,
        "hasLens": analysed.checkpoint.task == "fill-mask",
        **_layer(analysed, question),
        "kind": "document",
    }


def _layer(analysed: AnalysedDocument, question: Question) -> dict[str, Any]:
    """A layer and a head in pictures, and what is selected there."""
    maps, layer, head = analysed.choose(question.layer, question.head)
    pictures = Pictures.of(maps, layer, head, question.columns, question.rows, question.with_self)
    flow = flow_view(analysed, question)
    links = _links(analysed, question)
    return {**links, "kind": "layer", **layer_view(maps, layer, head, pictures), "flow": flow}


def _links(analysed: AnalysedDocument, question: Question, scores: Tensor | None = None) -> dict[str, Any]:
    """What is selected, by attention or by the scores (N) of another measure."""
    layer, head = (-1 if one is None else one for one in (question.layer, question.head))
    return {"kind": "links", "layer": layer, "head": head, "links": selection_view(analysed, question, scores)}


def _heads(analysed: AnalysedDocument, question: Question) -> dict[str, Any]:
    return {"kind": "heads", **heads_view(analysed.document)}


def _page(analysed: AnalysedDocument, question: Question) -> dict[str, Any]:
    """The document as a page of its own."""
    title = "What a Longformer looks at"
    return {"kind": "page", "page": to_html(analysed.document, question.layer, question.head, title=title)}


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
    maps, total = analysed.maps_with_values, torch.zeros(analysed.document.maps.num_tokens)
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
                analysed.inputs,
                lambda outputs: model.lm_head(outputs.last_hidden_state[0, question.tokens]).amax(-1).sum(),
            )
        return gradient_times_input(model, analysed.inputs, lambda outputs: _scalar_of(outputs, question.tokens))


def _lens(analysed: AnalysedDocument, question: Question) -> dict[str, Any]:
    """The words that a masked language model would say at a token, layer by layer."""
    inputs, tokenizer = analysed.inputs, analysed.checkpoint.tokenizer
    if question.is_masked:
        inputs["input_ids"] = inputs["input_ids"].clone()
        inputs["input_ids"][0, question.first] = tokenizer.mask_token_id
    with analysed.checkpoint.running() as model:
        if not isinstance(model, LongformerPlusForMaskedLM):
            raise InputError("This model says no words. Choose a masked language model.")
        found = logit_lens(model, inputs, question.first)
    rows = [[[str(tokenizer.decode([word])), round(value, 4)] for word, value in words] for words in found]
    return {"kind": "lens", "token": question.first, "masked": question.is_masked, "rows": rows}


def _scalar_of(outputs: Any, tokens: slice) -> Tensor:
    """What a model's outputs say at some tokens, or of the document, as one number."""
    if "last_hidden_state" in outputs:
        return outputs.last_hidden_state[0, tokens].square().sum()
    if "start_logits" in outputs:
        return outputs.start_logits[0, tokens].sum()
    logits = outputs.logits[0]
    return logits.max() if logits.dim() == 1 else logits[tokens].amax(-1).sum()


def _by(measure: Callable[[AnalysedDocument, Question], Tensor]) -> Answer:
    """The selection by another measure than attention."""
    return lambda analysed, question: _links(analysed, question, measure(analysed, question))


def _norm(analysed: AnalysedDocument, question: Question) -> dict[str, Any]:
    """The norms where they can be read; otherwise the page asks for them as for what runs the model."""
    return RUN["norm"](analysed, question) if analysed.has_values else {"kind": "run"}


# What is read from what is kept, and what runs the document's model.
READ: dict[str, Answer] = {
    "document": _document,
    "layer": _layer,
    "links": _links,
    "rollout": _by(_rollout),
    "norm": _norm,
    "heads": _heads,
    "page": _page,
}
RUN: dict[str, Answer] = {"gradient": _by(_gradient), "lens": _lens, "norm": _by(_contributions)}
