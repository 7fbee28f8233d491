"""What the browser is sent of a selection: a token, a phrase, a sentence or more, and what it looks at.

Shapes: N tokens, U units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longformer_plus.attention_maps import AttentionMaps, Units, unit_attention
from longformer_plus.attention_maps.maps import Choice

from .documents import AnalysedDocument
from .questions import Question
from .views import STRONGEST, links_view, weights_view

# Units beyond are put together for the picture: a page has no more pixels for them.
MOST_UNITS = 400


def selection_view(analysed: AnalysedDocument, question: Question, scores: Tensor | None = None) -> dict[str, Any]:
    """What the selected tokens look at, or who looks at them, added up by the chosen unit.

    Args:
        analysed: the document.
        question: what is selected.
        scores: (N) of another measure than attention, with any sign.
    """
    maps, layer, head = analysed.choose(question.layer, question.head)
    if question.first == question.last and question.unit == "token" and scores is None:
        view = links_view(maps, question.first, question.direction, layer, head)
        return {**view, "last": question.first, "unit": "token"}
    attention = _attention(maps, question, layer, head)
    shown = attention if scores is None else scores
    is_global = analysed.document.maps.layout.global_rank >= 0
    units = Units.of(range(maps.num_tokens)) if question.unit == "token" else analysed.units[question.unit]
    by_unit = units.mean if question.direction == "from" else units.sum
    amounts = by_unit(shown)
    is_own = torch.zeros(len(units), dtype=torch.bool)
    # A token may look at itself; of a larger selection what stays inside would hide all the rest.
    if question.unit != "token" or question.first != question.last:
        is_own[units.unit_of_token[question.tokens]] = True
    others = amounts if question.with_self else amounts.masked_fill(is_own, 0.0)
    order = others.abs().topk(min(STRONGEST, len(others))).indices.tolist()
    view = {
        "token": question.first,
        "last": question.last,
        "unit": question.unit,
        "direction": question.direction,
        "weights": weights_view(others.abs()[units.unit_of_token]),
        "negative": (others[units.unit_of_token] < 0).nonzero()[:, 0].tolist(),
        "own": float(shown[question.tokens].sum()),
        "total": float(shown.sum()),
        "local": float(shown[~is_global].abs().sum()),
        "global": float(shown[is_global].abs().sum()),
        "strongest": [
            [units.spans[unit][0], units.spans[unit][1] - 1, float(others[unit]), _is_global(units, unit, is_global)]
            for unit in order
            if float(others[unit])
        ],
    }
    if scores is None:
        return view
    return {**view, "attention": weights_view(by_unit(attention)[units.unit_of_token])}


def _attention(maps: AttentionMaps, question: Question, layer: Choice, head: Choice) -> Tensor:
    """(N) of each token what the selected ones give to it, or what it gives to them."""
    ask = maps.given_by if question.direction == "to" else maps.given_to
    return ask(question.tokens, layer, head)


def _is_global(units: Units, unit: int, is_global: Tensor) -> bool:
    """Whether a unit is one token, which attends globally."""
    start, stop = units.spans[unit]
    return stop - start == 1 and bool(is_global[start])


def flow_view(analysed: AnalysedDocument, question: Question) -> dict[str, Any] | None:
    """The attention between all units as a table of bytes, row by row; None where the unit is a token.

    Without `with_self` the diagonal, what each unit gives to itself, is left out.
    """
    if question.unit == "token":
        return None
    units = analysed.units[question.unit]
    together = -(-len(units) // MOST_UNITS)
    if together > 1:
        units = Units.of((units.unit_of_token // together).tolist())
    maps, layer, head = analysed.choose(question.layer, question.head)
    table = unit_attention(maps, units, layer, head)
    if not question.with_self:
        table.fill_diagonal_(0.0)
    starts = [start for start, _ in units.spans]
    return {"unit": question.unit, "together": together, "starts": starts, "weights": weights_view(table.flatten())}
