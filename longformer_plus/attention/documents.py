"""Global rows of packed documents, from tables that take a fixed number of operations for any number of documents.

Shapes: T tokens, G global tokens, D groups of global tokens (each of one document), Q global tokens of the largest
group, b block, n blocks of keys, H heads, A groups of heads that share keys, X and Y features of keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops.host_reads import read_together
from .blocks import additive
from .pattern import DOCUMENTS, MASKED, QUERY_BLOCK, AttentionPattern

# The candidates for the keys of a block and for the global tokens of a group: those with the least work are chosen.
_SMALLEST_BLOCK, _BLOCK_SIZES = 8, 5  # 8, 16, ... 128
_SMALLEST_GROUP, _GROUP_SIZES = 16, 6  # 16, 64, ... 16384


@dataclass(frozen=True)
class GlobalDocuments:
    """The global tokens in groups, each of one document, and the keys of each group in blocks.

    All groups are padded to one size. So a document with many more global tokens than the others gets several groups.

    Attributes:
        document: (G) int64, the group of each global token.
        slot: (G) int64, the place of each global token in its group.
        queries: (D, Q) int64, the global tokens of each group, as indices among all G; padded with arbitrary ones.
        most: the most global tokens that any document has.
        key_document: (n) int64, the group of each block of keys.
        key_tokens: (n, b) int64, the tokens of each block; padded with arbitrary ones.
        allowed: (n, Q, b) bool, whether each query of the block's group attends to each key.
        columns: for each dilation, the most global tokens that the documents in a block of queries have together.
    """

    document: Tensor
    slot: Tensor
    queries: Tensor
    most: int
    key_document: Tensor
    key_tokens: Tensor
    allowed: Tensor
    columns: dict[int, int]

    @classmethod
    def of(cls, pattern: AttentionPattern) -> GlobalDocuments:
        """The documents of a packed pattern with global columns, made at the first call and shared by the layers.

        Their sizes are read from the device at once.
        """
        return pattern.shared(DOCUMENTS, lambda: cls._build(pattern))

    @classmethod
    def _build(cls, pattern: AttentionPattern) -> GlobalDocuments:
        tokens, start, stop = global_spans(pattern)
        segments = pattern.segments[0]
        places = torch.arange(len(tokens), device=tokens.device)
        is_first = F.pad(start[1:] != start[:-1], (1, 0), value=True)
        slot = places - torch.where(is_first, places, 0).cummax(0).values
        columns = {step: _most_columns(start, stop, len(segments), QUERY_BLOCK * step) for step in pattern.dilations}
        sizes, most_columns = _Sizes.read(slot, stop - start, list(columns.values()))
        slot = slot % sizes.group
        document = (slot == 0).long().cumsum(0) - 1
        num_queries = min(sizes.most, sizes.group)
        queries = torch.zeros(sizes.num_groups * num_queries, dtype=torch.int64, device=tokens.device)
        queries = queries.scatter(0, document * num_queries + slot, places).unflatten(0, (-1, num_queries))
        num_blocks = torch.where(slot == 0, (stop - start + sizes.block - 1) // sizes.block, 0)

        # Each block belongs to the first global token of its group.
        after = num_blocks.cumsum(0)
        block_index = torch.arange(sizes.num_blocks, device=tokens.device)
        owner = torch.searchsorted(after, block_index, right=True)
        first = start[owner] + (block_index - after[owner] + num_blocks[owner]) * sizes.block
        key_tokens = first[:, None] + torch.arange(sizes.block, device=tokens.device)  # (n, b)
        is_key = key_tokens < stop[owner][:, None]
        key_tokens = key_tokens.clamp(max=len(segments) - 1)
        is_key = is_key & (segments[key_tokens] == segments[start[owner]][:, None])
        allowed = is_key[:, None, :].expand(-1, num_queries, -1)
        if pattern.is_causal:
            query_tokens = tokens[queries][document[owner]]  # (n, Q)
            allowed = allowed & (key_tokens[:, None, :] <= query_tokens[:, :, None])
        return cls(
            document,
            slot,
            queries,
            sizes.most,
            document[owner],
            key_tokens,
            allowed,
            dict(zip(columns, most_columns, strict=True)),
        )

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> GlobalDocuments:
        """The same documents on another device."""
        tensors: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in ((each.name, getattr(self, each.name)) for each in fields(self))
            if isinstance(value, Tensor)
        }
        return replace(self, **tensors)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float, heads: int = 1, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Each global token attends to the tokens of its document.

        Args:
            query: (D, A, heads * Q, X), the scaled queries of each group.
            key, value: (T, A, X) and (T, A, Y).
            dropout: probability of dropping an attention weight.
            heads: the number of heads in each of the A groups, one after another.
            bias: (D, A, heads * Q), added to the scores of each query.

        Returns:
            The context (D, A, heads * Q, Y), and the sum of the weights after dropout (D, A, heads * Q), both in
            float32 at least.
        """
        keys = key[self.key_tokens].transpose(1, 2)  # (n, A, b, X)
        values = keys if value is key else value[self.key_tokens].transpose(1, 2)  # (n, A, b, Y)
        precise = torch.promote_types(query.dtype, torch.float32)
        scores = (query[self.key_document] @ keys.mT).to(precise)  # (n, A, heads * Q, b)
        if bias is not None:
            scores = scores + bias[self.key_document][..., None]
        allowed = self.allowed.repeat(1, heads, 1)[:, None]
        scores = scores + additive(allowed, precise)
        # The softmax of a document over all of its blocks.
        lowest = scores.new_full(query.shape[:3], torch.finfo(precise).min)
        top = scores.detach().amax(-1)
        index = self.key_document[:, None, None].expand_as(top)
        highest = lowest.scatter_reduce(0, index, top, "amax")
        weights = (scores - highest[self.key_document][..., None]).exp()
        total = torch.zeros_like(highest).index_add(0, self.key_document, weights.sum(-1))
        weights = F.dropout(weights / total[self.key_document][..., None], dropout)
        mixed = (weights.to(value.dtype) @ values).to(precise)  # (n, A, heads * Q, Y)
        context = mixed.new_zeros(*query.shape[:3], value.shape[-1]).index_add(0, self.key_document, mixed)
        return context, torch.zeros_like(highest).index_add(0, self.key_document, weights.sum(-1))


class _Sizes(NamedTuple):
    """The sizes of groups and blocks.

    Attributes:
        most: the most global tokens that any document has.
        group: the most global tokens of a group.
        block: keys of a block.
        num_groups, num_blocks: the number of groups and of blocks.
    """

    most: int
    group: int
    block: int
    num_groups: int
    num_blocks: int

    @classmethod
    def read(cls, slot: Tensor, num_keys: Tensor, others: list[Tensor]) -> tuple[_Sizes, list[int]]:
        """Choose the sizes with the least work. They and the values of `others` are read from the device together.

        Args:
            slot: (G), the place of each global token among those of its document.
            num_keys: (G), the tokens of its document.
            others: int tensors without dimensions.
        """
        groups = _SMALLEST_GROUP * 4 ** torch.arange(_GROUP_SIZES, device=slot.device)
        blocks = _SMALLEST_BLOCK * 2 ** torch.arange(_BLOCK_SIZES, device=slot.device)
        is_first = slot[:, None] % groups == 0  # (G, sizes)
        num_blocks = (num_keys[:, None] + blocks - 1) // blocks  # (G, sizes)
        num_blocks = (is_first[:, :, None] * num_blocks[:, None, :]).sum(0).flatten()
        values = read_together([slot.max() + 1, *is_first.sum(0).unbind(), *num_blocks.unbind(), *others])
        most, num_groups, totals = values[0], values[1 : _GROUP_SIZES + 1], values[_GROUP_SIZES + 1 :]

        def work(i: int, j: int) -> int:
            # Gathering a block and its group of queries costs as much as 32 more keys and 16 more queries.
            block, group = _SMALLEST_BLOCK * 2**j, min(_SMALLEST_GROUP * 4**i, most)
            return totals[i * _BLOCK_SIZES + j] * (block + 32) * (group + 16)

        i, j = min(product(range(_GROUP_SIZES), range(_BLOCK_SIZES)), key=lambda sizes: work(*sizes))
        sizes = cls(most, _SMALLEST_GROUP * 4**i, _SMALLEST_BLOCK * 2**j, num_groups[i], totals[i * _BLOCK_SIZES + j])
        return sizes, totals[_GROUP_SIZES * _BLOCK_SIZES :]


def global_spans(pattern: AttentionPattern) -> tuple[Tensor, Tensor, Tensor]:
    """The global tokens of a packed pattern, and the bounds of their documents: start and stop, all of (G).

    A filler counts as a token of its document; a masked filler as a document of its own.
    """
    if pattern.global_index is None:
        raise ValueError("A pattern without global tokens has no global rows.")
    segments = pattern.segments[0]
    places = torch.arange(len(segments), device=segments.device)
    number = torch.where(segments == MASKED, len(segments), segments)
    bounds = torch.full((len(segments) + 1,), len(segments), device=segments.device)
    first = bounds.scatter_reduce(0, number, places, "amin")
    last = torch.zeros_like(bounds).scatter_reduce(0, number, places, "amax")
    tokens = pattern.global_index[0]
    is_masked = segments[tokens] == MASKED
    start = torch.where(is_masked, tokens, first[number[tokens]])
    return tokens, start, torch.where(is_masked, tokens, last[number[tokens]]) + 1


def column_bounds(start: Tensor, stop: Tensor, num_tokens: int, block: int) -> tuple[Tensor, Tensor]:
    """The range of global tokens whose documents overlap each block: from the first number to before the second.

    Args:
        start, stop: (G), the bounds of their documents.
        num_tokens: T.
        block: tokens of a block.

    Returns:
        Two tensors of (T / block).
    """
    begin = torch.arange(0, num_tokens, block, device=start.device)
    low = torch.searchsorted(stop, begin, right=True)
    high = torch.searchsorted(start, (begin + block).clamp(max=num_tokens))
    return low, torch.maximum(low, high)


def _most_columns(start: Tensor, stop: Tensor, num_tokens: int, block: int) -> Tensor:
    low, high = column_bounds(start, stop, num_tokens, block)
    return (high - low).amax().clamp(min=1)
