"""Heads are named by what gets most of their attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from longformer_plus.attention_maps import AttentionMaps, head_behaviour
from longformer_plus.attention_maps.layer import LayerMaps, Layout

N, HALF = 40, 4
TOKENS = ["<s>", *("word" if place % 5 else "." for place in range(1, N))]


def head_at(offset: int) -> Tensor:
    """(N, 1 + W + 1) rows that give 60% to a token at an offset, and the rest evenly."""
    weights = torch.zeros(N, 2 + 2 * HALF)
    for place in range(N):
        seen = [k for k in range(-HALF, HALF + 1) if 0 <= place + k < N]
        for k in seen:
            weights[place, 1 + HALF + k] = 0.4 / len(seen)
        weights[place, 1 + HALF + (offset if offset in seen else 0)] += 0.6
    return weights


def head_on_separators() -> Tensor:
    weights = torch.zeros(N, 2 + 2 * HALF)
    for place in range(N):
        keys = [k for k in range(-HALF, HALF + 1) if 0 <= place + k < N and TOKENS[place + k] == "."] or [0]
        for k in keys:
            weights[place, 1 + HALF + k] = 1 / len(keys)
    return weights


def head_everywhere() -> Tensor:
    weights = torch.zeros(N, 2 + 2 * HALF)
    for place in range(N):
        for k in range(-HALF, HALF + 1):
            weights[place, 1 + HALF + k] = float(0 < place + k < N)
        weights[place] /= weights[place].sum()
    return weights


def head_on_a_global_word() -> Tensor:
    weights = head_everywhere() * 0.4
    weights[:, 0] = 0.6
    return weights


def named(*heads: Tensor, global_place: int = 0) -> list[tuple[str, float]]:
    is_global = torch.zeros(N, dtype=torch.bool)
    is_global[global_place] = True
    local = torch.stack(heads)
    local[:, global_place] = 0
    rows = torch.full((len(heads), N, 1), 1 / N)
    layout = Layout.build(torch.ones(N, dtype=torch.bool), is_global)
    layer = LayerMaps.build(local, rows, layout, [1] * len(heads), 32)
    return [(one.name, one.share) for one in head_behaviour(AttentionMaps([layer]), TOKENS)[0]]


def test_heads_are_named_by_their_largest_share() -> None:
    found = named(head_at(-1), head_at(0), head_at(1), head_on_separators(), head_everywhere())
    assert [name for name, _ in found] == ["previous token", "itself", "next token", "separators", "broad"]
    assert all(0.55 < share < 0.75 for _, share in found[:3])
    assert found[4][1] > 0.8


def test_a_global_word_is_no_separator() -> None:
    assert named(head_on_a_global_word(), global_place=7)[0] == ("global tokens", pytest.approx(0.6, abs=0.02))


def test_a_head_without_a_preference_is_mixed() -> None:
    weights = torch.zeros(N, 2 + 2 * HALF)
    for place in range(N):
        keys = [k for k in (-4, -3, 3, 4) if 0 <= place + k < N]
        for k in keys:
            weights[place, 1 + HALF + k] = 1 / len(keys)
    name, share = named(weights)[0]
    assert name == "mixed"
    assert 0 < share < 0.3


def test_tokens_of_another_document_are_refused() -> None:
    layer = LayerMaps.build(
        head_everywhere()[None],
        torch.full((1, N, 1), 1 / N),
        Layout.build(torch.ones(N) > 0, torch.arange(N) == 0),
        [1],
        8,
    )
    with pytest.raises(ValueError, match="2 tokens are given; the maps have 40"):
        head_behaviour(AttentionMaps([layer]), ["a", "b"])
