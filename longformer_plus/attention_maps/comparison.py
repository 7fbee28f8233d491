"""Two documents' attention side by side: of two models, or of a text and another version of it.

Shapes: N tokens of the first document, M of the second, L layers, H heads, K keys of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import torch
from torch import Tensor

from .layer import LayerMaps
from .maps import AttentionMaps

_ROWS_AT_ONCE = 1024


def align(tokens: Sequence[str], others: Sequence[str]) -> Tensor:
    """Which token of another version of a text each token became.

    Args:
        tokens: N.
        others: M.

    Returns:
        (N) int64, a position in `others`, or -1 for a token that is not in it.
    """
    partners = torch.full((len(tokens),), -1)
    for block in SequenceMatcher(None, tokens, others, autojunk=False).get_matching_blocks():
        partners[block.a : block.a + block.size] = torch.arange(block.b, block.b + block.size)
    return partners


def head_changes(maps: AttentionMaps, others: AttentionMaps, partners: Tensor) -> Tensor:
    """How differently each head attends in two documents.

    Args:
        maps: the first document's attention.
        others: the second's, of a model with as many layers and heads.
        partners: (N) of `align`.

    Returns:
        (L, H) the mean, over the tokens that are in both and global in neither, of the total variation distance between
        their two rows: 0 where both look at the same tokens, 1 where they have none in common. What a row gives to
        tokens that are in one document alone counts as different. NaN where no such tokens are in both.

    Raises:
        ValueError: the models differ in layers or heads, or there are not N partners.
    """
    sizes = [(one.num_layers, one.num_heads) for one in (maps, others)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "Models of {} layers with {} heads and of {} with {} have no heads in common. Compare two of one "
            "shape.".format(*sizes[0], *sizes[1])
        )
    if partners.shape != (maps.num_tokens,):
        raise ValueError(
            f"{tuple(partners.shape)} partners are given for {maps.num_tokens} tokens. Use those of align."
        )
    rows = (partners >= 0) & (maps.layout.global_rank < 0) & maps.layout.valid
    rows &= (others.layout.global_rank[partners] < 0) & others.layout.valid[partners]
    places = rows.nonzero()[:, 0]
    return torch.stack(
        [_layer_changes(*layers, places, partners) for layers in zip(maps.layers, others.layers, strict=True)]
    )


def _layer_changes(one: LayerMaps, other: LayerMaps, places: Tensor, partners: Tensor) -> Tensor:
    """(H) mean total variation distances of the rows at some places."""
    total = torch.zeros(one.num_heads)
    pairs = list(zip(one.dilations, other.dilations, strict=True))
    for steps in sorted(set(pairs)):
        heads = [head for head, pair in enumerate(pairs) if pair == steps]
        for rows in places.split(_ROWS_AT_ONCE):
            counterparts, columns, is_there = _counterparts(one, other, steps, rows, partners)
            for head in heads:
                own = one.local[head, rows]
                theirs = other.local[torch.tensor(head), counterparts[:, None], columns] * is_there
                # What theirs give elsewhere is missing in `theirs`: a row sums to 1.
                apart = (own - theirs).abs().sum(1) + (1 - theirs.sum(1)).clamp(min=0)
                total[head] += apart.sum() / 2
    return total / (len(places) or float("nan"))


def _counterparts(
    one: LayerMaps, other: LayerMaps, steps: tuple[int, int], rows: Tensor, partners: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """For each weight of some rows where its counterpart in the other document is.

    Returns:
        (rows) their counterparts; (rows, K) the column of each weight's counterpart, and whether there is one.
    """
    layout, half = one.layout, one.window // 2
    window = rows[:, None] + torch.arange(-half, half + 1) * steps[0]
    is_inside = (window >= 0) & (window < layout.num_tokens)
    window = window.clamp(0, layout.num_tokens - 1)
    # A global token in the window has its weight in a global column.
    is_inside &= layout.global_rank[window] < 0
    keys = torch.cat([layout.global_positions.expand(len(rows), -1), window], dim=1)
    is_key = torch.cat([torch.ones(len(rows), len(layout.global_positions), dtype=torch.bool), is_inside], dim=1)
    counterparts, theirs = partners[rows], partners[keys]
    offsets = theirs - counterparts[:, None]
    in_window = (offsets.abs() <= other.window // 2 * steps[1]) & (offsets % steps[1] == 0)
    rank = other.layout.global_rank[theirs]
    column = len(other.layout.global_positions) + other.window // 2 + offsets // steps[1]
    columns = torch.where(rank >= 0, rank, torch.where(in_window, column, 0))
    return counterparts, columns, is_key & (theirs >= 0) & (in_window | (rank >= 0))
