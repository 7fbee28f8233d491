"""AttentionMaps: the attention of all layers and heads over one document, ready to be asked.

Shapes: B batch, N tokens, L layers, H heads, G global tokens, W window, R rows (queries), C columns (keys).

Rows are the tokens that attend, columns those that are attended to, by their position in the input. Nothing of size
N x N is built but where someone asks for all rows and all columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ..configuration import LongformerPlusConfig
from .layer import LayerMaps, Layout

Choice = int | Sequence[int] | None
Places = int | Sequence[int] | slice | Tensor | None
Direction = Literal["to", "from"]

# 64 MiB of float32: one head of a document of 4096 tokens. A slice that a person can look at is much smaller.
MOST_ENTRIES = 2**24
# What is averaged is computed in pieces of this size.
_ENTRIES_AT_ONCE = 2**20


@dataclass(frozen=True)
class Link:
    """A token at the other end of an attention weight.

    Attributes:
        position: where it is in the input.
        offset: how many tokens after the one that was asked about; negative before it.
        weight: the attention weight.
        is_global: whether the link is there because one of the two attends globally.
    """

    position: int
    offset: int
    weight: float
    is_global: bool


@dataclass(frozen=True)
class Links:
    """What one token attends to, or who attends to it.

    Attributes:
        token: its position.
        direction: "to", what it attends to, or "from", who attends to it.
        weights: (N) the weight of the link with each token.
        strongest: the largest of them, largest first.
        local, global_: the sums of the weights of local and of global links.
    """

    token: int
    direction: Direction
    weights: Tensor
    strongest: list[Link]
    local: float
    global_: float


class AttentionMaps:
    """The attention weights of one document.

    Made by `AttentionMaps.from_outputs` from what a model returns, or by `attention_maps` from a model and a text.
    Wherever layers or heads are chosen, an int is one of them, a list is several, and None is all.

    Args:
        layers: what each layer holds.

    Attributes:
        layers: as given.
        layout: which tokens are valid, and which global.
    """

    def __init__(self, layers: Sequence[LayerMaps]) -> None:
        if not layers:
            raise ValueError("No layers are given: there is nothing to look at.")
        self.layers = list(layers)
        self.layout: Layout = layers[0].layout

    @classmethod
    def from_outputs(
        cls,
        outputs: Any,
        config: PreTrainedConfig,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        row: int = 0,
        bits: int = 16,
    ) -> AttentionMaps:
        """From the outputs of a LongformerPlus or Longformer model, called with `output_attentions=True`.

        Args:
            outputs: a ModelOutput with `attentions` and `global_attentions`.
            config: the model's.
            attention_mask: (B, N) that the model was given, or None for no padding.
            global_attention_mask: (B, N) that the model was given or chose, or None where no token was global.
            row: which document of the batch.
            bits: 8, 16 or 32 for each weight.

        Raises:
            ValueError: there are no attentions, or the masks are not those that the model was called with.
        """
        config = LongformerPlusConfig.from_longformer(config)
        if outputs.attentions is None or not outputs.attentions:
            raise ValueError("The outputs hold no attentions. Call the model with output_attentions=True.")
        batch, _, tokens, _ = outputs.attentions[0].shape
        if not 0 <= row < batch:
            raise ValueError(f"row={row!r} is not allowed: the batch has the rows 0 to {batch - 1}.")
        valid = _mask_of(attention_mask, "attention_mask", (batch, tokens), row, default=True)
        is_global = _mask_of(global_attention_mask, "global_attention_mask", (batch, tokens), row, default=False)
        global_attentions = outputs.global_attentions or [None] * len(outputs.attentions)
        columns = 0 if global_attentions[0] is None else global_attentions[0].shape[-1]
        if (columns == 0) != (global_attention_mask is None or not bool((global_attention_mask > 0).any())):
            raise ValueError(
                f"The outputs have {columns} global columns, which the global_attention_mask does not explain. Pass the"
                " mask that the model was called with, or that its policy chose."
            )
        layout = Layout.build(valid, is_global)
        return cls(
            [
                LayerMaps.build(local[row], None if global_ is None else global_[row], layout, dilations, bits)
                for local, global_, dilations in zip(
                    outputs.attentions, global_attentions, config.dilations, strict=True
                )
            ]
        )

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.layout.num_tokens

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.layers)

    @property
    def num_heads(self) -> int:
        """H."""
        return self.layers[0].num_heads

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        return sum(layer.num_bytes for layer in self.layers)

    def dense(self, layers: Choice = None, heads: Choice = None, rows: Places = None, columns: Places = None) -> Tensor:
        """A dense slice of the attention.

        Args:
            layers, heads: which.
            rows: positions of the tokens that attend: an int, a list, a slice, or None for all.
            columns: positions of the tokens that are attended to.

        Returns:
            (layers, heads, R, C) float32.

        Raises:
            ValueError: an index is out of range, or the slice has more than `MOST_ENTRIES` entries.
        """
        wanted_layers, wanted_heads = self.choose_layers(layers), self.choose_heads(heads)
        r, c = self.positions(rows, "rows"), self.positions(columns, "columns")
        check_size((len(wanted_layers), len(wanted_heads), len(r), len(c)))
        return torch.stack([self.layers[layer].dense(wanted_heads, r, c) for layer in wanted_layers])

    def mean(self, layers: Choice = None, heads: Choice = None, rows: Places = None, columns: Places = None) -> Tensor:
        """A dense slice (R, C), averaged over the layers and heads; arguments and errors as of `dense`."""
        wanted_layers, wanted_heads = self.choose_layers(layers), self.choose_heads(heads)
        r, c = self.positions(rows, "rows"), self.positions(columns, "columns")
        check_size((1, 1, len(r), len(c)))
        total = torch.zeros(len(r), len(c))
        at_once = max(_ENTRIES_AT_ONCE // max(total.numel(), 1), 1)
        for layer in wanted_layers:
            for start in range(0, len(wanted_heads), at_once):
                total += self.layers[layer].dense(wanted_heads[start : start + at_once], r, c).sum(0)
        return total / (len(wanted_layers) * len(wanted_heads))

    def links(
        self,
        token: int,
        direction: Direction = "to",
        layers: Choice = None,
        heads: Choice = None,
        top_k: int = 10,
    ) -> Links:
        """What a token attends to, or who attends to it, averaged over the layers and heads.

        Args:
            token: its position.
            direction: "to" for what it attends to, "from" for who attends to it.
            layers, heads: which.
            top_k: how many of the strongest links are listed; those of weight 0 never are.

        Raises:
            ValueError: an index is out of range, or the direction is neither.
        """
        if direction not in ("to", "from"):
            raise ValueError(f'direction={direction!r} is not allowed: it must be "to" or "from".')
        (place,) = self.positions(token, "token").tolist()
        ends: dict[str, Places] = {"rows" if direction == "to" else "columns": place}
        weights = self.mean(layers, heads, **ends).flatten()
        is_global = self.layout.global_rank >= 0
        # A token that is global itself has no window: all of its links are global, either way.
        link_is_global = torch.ones_like(is_global) if is_global[place] else is_global
        values, places = weights.topk(min(max(top_k, 0), self.num_tokens))
        strongest = [
            Link(position, position - place, value, bool(link_is_global[position]))
            for value, position in zip(values.tolist(), places.tolist(), strict=True)
            if value > 0
        ]
        share = float(weights[link_is_global].sum())
        return Links(place, direction, weights, strongest, float(weights.sum()) - share, share)

    def given_by(self, tokens: Places, layers: Choice = None, heads: Choice = None) -> Tensor:
        """(N) what some tokens attend to: the mean of their rows, averaged over layers and heads.

        Only the windows of these tokens are read. ValueError where there are no tokens, or an index is out of range.
        """
        amounts = self._amounts(tokens)
        return self._each_layer("push", amounts / amounts.sum(), layers, heads)

    def given_to(self, tokens: Places, layers: Choice = None, heads: Choice = None) -> Tensor:
        """(N) who attends to some tokens: of each token the sum of its weights on them, averaged over layers and heads.

        Only the windows that reach these tokens are read. ValueError as of `given_by`.
        """
        return self._each_layer("pull", self._amounts(tokens), layers, heads)

    def received(self, layers: Choice = None, heads: Choice = None) -> Tensor:
        """(N) the attention that each token receives from all tokens together, averaged over layers and heads.

        A mean token receives about 1: each valid token gives away 1 in total.
        """
        return self._statistic("received", layers, heads).mean((0, 1))

    def entropy(self, layers: Choice = None, heads: Choice = None) -> Tensor:
        """(layers, heads) mean entropy of the rows of valid tokens, in nats: e to this power is how many tokens a head
        looks at."""
        return self._statistic("entropy", layers, heads)[:, :, self.layout.valid].mean(-1)

    def mean_distance(self, layers: Choice = None, heads: Choice = None) -> Tensor:
        """(layers, heads) mean distance between a token and what it attends to, in tokens."""
        return self._statistic("distance", layers, heads)[:, :, self.layout.valid].mean(-1)

    def global_share(self, layers: Choice = None, heads: Choice = None) -> Tensor:
        """(layers, heads) the mean part of a token's attention that goes to global tokens."""
        return self._statistic("to_global", layers, heads)[:, :, self.layout.valid].mean(-1)

    def rollout(self, token: int | Tensor, heads: Choice = None, up_to_layer: int | None = None) -> Tensor:
        """Attention rollout (Abnar and Zuidema, 2020): where a token's state comes from, through all layers.

        Each layer takes half of a state from what its heads, averaged, attend to, and half from the token itself (the
        residual stream). Layer by layer, from above, it costs what one pass over the windows costs.

        Args:
            token: a position, or (N) amounts to start from.
            heads: which are averaged.
            up_to_layer: the layer whose output it starts from; None for the last.

        Returns:
            (N) parts of the tokens of the input, with the sum of the start.
        """
        if isinstance(token, Tensor):
            amounts = token.float()
            if amounts.shape != (self.num_tokens,):
                raise ValueError(f"Amounts of shape {tuple(token.shape)} are not allowed: ({self.num_tokens},) is.")
        else:
            amounts = torch.zeros(self.num_tokens)
            amounts[self.positions(token, "token")] = 1.0
        chosen = self.choose_heads(heads)
        last = self.num_layers - 1 if up_to_layer is None else self.choose_layers(up_to_layer)[0]
        for layer in reversed(self.layers[: last + 1]):
            attended = layer.push(amounts, chosen)
            # Compact weights do not sum to 1 exactly; nothing is to be lost on the way down.
            total = attended.sum()
            if total > 0:
                attended = attended * (amounts.sum() / total)
            amounts = (amounts + attended) / 2
        return amounts

    def choose_layers(self, layers: Choice) -> list[int]:
        """Layer indices from an int, a list, or None for all. ValueError where one is out of range."""
        return _choose(layers, self.num_layers, "layers")

    def choose_heads(self, heads: Choice) -> list[int]:
        """Head indices from an int, a list, or None for all. ValueError where one is out of range."""
        return _choose(heads, self.num_heads, "heads")

    def positions(self, places: Places, name: str) -> Tensor:
        """(R) int64 positions from an int, a list, a slice, or None for all; negative ones count from the end.

        ValueError, which calls them `name`, where one is out of range.
        """
        every = torch.arange(self.num_tokens)
        if places is None:
            return every
        if isinstance(places, slice):
            return every[places]
        chosen = torch.as_tensor(places).flatten()
        if chosen.dtype.is_floating_point or chosen.dtype == torch.bool:
            raise ValueError(f"{name}={places!r} is not allowed: positions are ints.")
        if bool(((chosen < -self.num_tokens) | (chosen >= self.num_tokens)).any()):
            raise ValueError(f"{name}={places!r} is not allowed: the document has the positions 0 to {len(every) - 1}.")
        return every[chosen.long()]

    def _amounts(self, tokens: Places) -> Tensor:
        """(N) 1 at some tokens, 0 elsewhere."""
        places = self.positions(tokens, "tokens")
        if not len(places):
            raise ValueError("No tokens are given. Give at least one position.")
        return torch.zeros(self.num_tokens).index_fill(0, places, 1.0)

    def _each_layer(self, what: Literal["push", "pull"], amounts: Tensor, layers: Choice, heads: Choice) -> Tensor:
        chosen, wanted = self.choose_layers(layers), self.choose_heads(heads)
        return sum((getattr(self.layers[layer], what)(amounts, wanted) for layer in chosen), amounts * 0) / len(chosen)

    def _statistic(self, name: str, layers: Choice, heads: Choice) -> Tensor:
        """(layers, heads, N)."""
        chosen = self.choose_heads(heads)
        return torch.stack(
            [getattr(self.layers[layer].statistics, name)[chosen] for layer in self.choose_layers(layers)]
        )


def _choose(choice: Choice, count: int, name: str) -> list[int]:
    if choice is None:
        return list(range(count))
    chosen = [choice] if isinstance(choice, int) else list(choice)
    if not chosen or not all(isinstance(index, int) and -count <= index < count for index in chosen):
        raise ValueError(
            f"{name}={choice!r} is not allowed: it must be an int from 0 to {count - 1}, a list of them, or None for "
            "all."
        )
    return [index % count for index in chosen]


def check_size(shape: tuple[int, int, int, int]) -> None:
    """ValueError where a slice of so many layers, heads, rows and columns has more than `MOST_ENTRIES` entries."""
    if math.prod(shape) > MOST_ENTRIES:
        raise ValueError(
            "A slice of {} layers, {} heads, {} rows and {} columns has {:,} entries; at most {:,} are allowed. Choose "
            "fewer rows or columns.".format(*shape, math.prod(shape), MOST_ENTRIES)
        )


def _mask_of(mask: Tensor | None, name: str, shape: tuple[int, int], row: int, default: bool) -> Tensor:
    """(N) bool, one row of a mask."""
    if mask is None:
        return torch.full(shape[1:], default)
    if tuple(mask.shape) != shape:
        raise ValueError(f"{name} of shape {tuple(mask.shape)} is not allowed: the attentions are of {shape}.")
    return mask[row] > 0
