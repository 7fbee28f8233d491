"""What each head does with its attention, measured on a document.

Heads that look at the token before or after, or at separators, are known since Clark et al. (2019, "What Does BERT Look
At?") and Voita et al. (2019); here each is named by the largest part of its attention.

Shapes: N tokens, L layers, H heads, G global tokens, W window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .layer import LayerMaps
from .maps import AttentionMaps

# A head is named by what gets at least this part of its attention.
LEAST_SHARE = 0.3
# It is broad where it looks at as many tokens as this part of those it could look at.
LEAST_BREADTH = 0.4


@dataclass(frozen=True)
class Behaviour:
    """What a head does.

    Attributes:
        name: "itself", "previous token", "next token", "separators", "global tokens", "broad" or "mixed".
        share: the part of the head's attention that goes there. Of a broad head, the part of the tokens it can see that
            it looks at (e to the power of its entropy, by their number); of a mixed head, the largest of all parts.
    """

    name: str
    share: float


def head_behaviour(maps: AttentionMaps, tokens: Sequence[str]) -> list[list[Behaviour]]:
    """Name every head by what it does.

    Args:
        maps: the attention over a document.
        tokens: its N tokens, as in `DocumentMaps.tokens`.

    Returns:
        A list for each of the L layers, with the behaviour of each of its H heads.

    Raises:
        ValueError: there are more or fewer tokens than the maps have.
    """
    if len(tokens) != maps.num_tokens:
        raise ValueError(
            f"{len(tokens)} tokens are given; the maps have {maps.num_tokens}. Pass those of the document."
        )
    is_separator = torch.tensor([_is_separator(token) for token in tokens])
    return [[_behaviour(layer, head, is_separator) for head in range(layer.num_heads)] for layer in maps.layers]


def _behaviour(layer: LayerMaps, head: int, is_separator: Tensor) -> Behaviour:
    rows = layer.layout.valid & (layer.layout.global_rank < 0)
    if not bool(rows.any()):
        return Behaviour("global tokens", 1.0)
    received = layer.statistics.received[head]
    shares = {
        "itself": _share_at(layer, head, 0, rows),
        "previous token": _share_at(layer, head, -1, rows),
        "next token": _share_at(layer, head, 1, rows),
        "separators": float(received[is_separator].sum() / received.sum()),
        "global tokens": float(layer.statistics.to_global[head, rows].mean()),
    }
    name = max(shares, key=lambda one: shares[one])
    if shares[name] >= LEAST_SHARE:
        return Behaviour(name, shares[name])
    breadth = float((layer.statistics.entropy[head].exp() / _num_visible(layer, head))[rows].mean())
    return Behaviour("broad", breadth) if breadth >= LEAST_BREADTH else Behaviour("mixed", shares[name])


def _share_at(layer: LayerMaps, head: int, offset: int, rows: Tensor) -> float:
    """The mean weight of the tokens on those `offset` after them, by the window."""
    step = layer.dilations[head]
    if offset % step or abs(offset) > layer.reach(head):
        return 0.0
    column = len(layer.layout.global_positions) + layer.window // 2 + offset // step
    return float(layer.local[head, :, column][rows].mean())


def _num_visible(layer: LayerMaps, head: int) -> Tensor:
    """(N) how many tokens each token can attend to by its window, and the global ones."""
    positions = torch.arange(layer.layout.num_tokens)
    reach, step = layer.reach(head), layer.dilations[head]
    before = positions.clamp(max=reach) // step
    after = positions.flip(0).clamp(max=reach) // step
    return before + after + 1 + len(layer.layout.global_positions)


def _is_separator(token: str) -> bool:
    """Whether a token is a special one, such as <s>, or holds punctuation and white space alone."""
    text = token.strip()
    return (text.startswith("<") and text.endswith(">")) or not any(letter.isalnum() for letter in text)
