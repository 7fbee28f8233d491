"""Local rows one block of queries at a time: what "sdpa" runs on a CPU, where documents are longer than the window.

The scores of a block fit into the CPU's cache. Its keys are a slice, not a copy, and no probabilities are kept: the
backward pass computes the scores again, which is faster than reading them from memory.

Shapes: B batch, N tokens, T tokens of all rows, one after another; H heads, D head size, G global tokens of a document,
W window, b block, K keys of a block's window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops.recomputation import no_forward_mode
from .blocks import additive, softmax
from .pattern import MASKED, AttentionPattern
from .short_documents import is_short, short_documents

# Chosen from the times of one layer on 2 cores, with 1024 and 4096 tokens and windows of 128 to 512: in float32, 32 and
# 64 queries take as long and 128 a sixth longer; in bfloat16, 128 take a fifth less than 64.
_BLOCK = 64
_BLOCK_IN_HALF_PRECISION = 128


def blockwise_local_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: AttentionPattern,
    window: int,
    dilation: int = 1,
    dropout: float = 0.0,
) -> Tensor:
    """Each token attends to the window around it and to the global tokens.

    Args:
        query, key, value: (B, N, H, D).
        pattern: who may attend to whom.
        window: W, the total width, in steps of the dilation.
        dilation: d, the step between the keys of the window.
        dropout: probability of dropping an attention weight, in steps of 1 / 65536.

    Returns:
        The context (B, N, H, D): zero for padding before or after a document, undefined in the rows of other masked
        tokens and of global tokens.
    """
    flat = [rows.flatten(0, 1) for rows in (query, key, value)]
    context: Tensor = _Blockwise.apply(*flat, pattern, window, dilation, _Dropout(dropout))
    return context.unflatten(0, query.shape[:2])


@dataclass(frozen=True)
class _Block:
    """A block of queries and the keys that they may see.

    Attributes:
        queries, keys: the positions of the queries and of the window's keys among the T tokens, `dilation` apart.
        mask: (b, K), added to the scores of the window.
        global_index: (G,), the positions of the document's global tokens.
        global_mask: (b, G), added to the scores of the global tokens; None if all queries may see all of them.
    """

    queries: slice
    keys: slice
    mask: Tensor
    global_index: Tensor
    global_mask: Tensor | None

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(T, H, D) -> the rows of the global tokens (H, G, D) and of the window (H, K, D)."""
        return rows[self.global_index].transpose(0, 1), rows[self.keys].transpose(0, 1)

    def products(self, rows: Tensor, keys: Tensor) -> Tensor:
        """(H, b, D), (T, H, D) -> the products with the global tokens and with the window (H, b, G + K)."""
        columns, window = self.gather(keys)
        products = rows @ window.mT
        return torch.cat([rows @ columns.mT, products], dim=-1) if len(self.global_index) else products

    def scores(self, queries: Tensor, key: Tensor) -> Tensor:
        """(H, b, D), (T, H, D) -> (H, b, G + K), masked."""
        columns, window = self.gather(key)
        scores = torch.baddbmm(self.mask, queries, window.mT)
        if not len(self.global_index):
            return scores
        global_scores = queries @ columns.mT
        if self.global_mask is not None:
            global_scores = global_scores + self.global_mask
        return torch.cat([global_scores, scores], dim=-1)

    def mix(self, weights: Tensor, rows: Tensor) -> Tensor:
        """(H, b, G + K), (T, H, D) -> (b, H, D), the rows of the global tokens and of the window, weighted."""
        columns, window = self.gather(rows)
        mixed = weights[..., columns.shape[1] :] @ window
        if len(self.global_index):
            mixed = torch.baddbmm(mixed, weights[..., : columns.shape[1]], columns)
        return mixed.transpose(0, 1)

    def spread(self, weights: Tensor, rows: Tensor, onto: Tensor) -> None:
        """The transpose of `mix`: add (H, b, G + K)^T @ (H, b, D) to the rows of the block's keys in (T, H, D)."""
        num_columns = len(self.global_index)
        onto[self.keys] += (weights[..., num_columns:].mT @ rows).transpose(0, 1)
        if num_columns:
            onto.index_add_(0, self.global_index, (weights[..., :num_columns].mT @ rows).transpose(0, 1).to(onto.dtype))


class _Blockwise(torch.autograd.Function):
    """Query, key and value (T, H, D) -> context (T, H, D)."""

    @staticmethod
    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pattern: AttentionPattern,
        window: int,
        dilation: int,
        dropout: _Dropout,
    ) -> Tensor:
        return _attend(query, key, value, pattern, window, dilation, dropout)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *rows, ctx.pattern, ctx.window, ctx.dilation, ctx.dropout = inputs
        ctx.save_for_backward(*rows)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        raise no_forward_mode()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        if torch.is_grad_enabled():
            # For a second derivative. Views, so that a tensor passed twice gets two gradients.
            query, key, value = (rows.view_as(rows) for rows in (query, key, value))
            context = _attend(query, key, value, ctx.pattern, ctx.window, ctx.dilation, ctx.dropout)
            gradients = torch.autograd.grad(context, (query, key, value), grad, create_graph=True)
            return *gradients, None, None, None, None
        draw = ctx.dropout.start()
        # Several blocks add to the gradient of a key: in half precision the sum would lose digits.
        precise = torch.promote_types(query.dtype, torch.float32)
        grad_query = torch.zeros_like(query)
        grad_key, grad_value = (torch.zeros_like(rows, dtype=precise) for rows in (key, value))
        for documents in [] if draw is not None else short_documents(ctx.pattern, ctx.window, ctx.dilation, query):
            rows = documents.rows
            gradients = documents.gradients(query[rows], key[rows], value[rows], grad[rows])
            grad_query[rows], grad_key[rows], grad_value[rows] = gradients
        for block in _blocks(ctx.pattern, ctx.window, ctx.dilation, query, with_short=draw is not None):
            queries = _queries(query, block)
            probabilities = _probabilities(queries, key, block)
            grad_context = grad[block.queries].transpose(0, 1) * ctx.dropout.scale  # (H, b, D)
            grad_weights = block.products(grad_context, value).to(precise)  # (H, b, G + K)
            weights = probabilities
            if draw is not None:
                kept = draw(probabilities)
                weights = probabilities * kept.to(precise)
                grad_weights *= kept
            block.spread(weights.to(value.dtype), grad_context, grad_value)
            # Through the softmax: p * (g - sum p g).
            grad_scores = grad_weights.mul_(probabilities)
            grad_scores.addcmul_(probabilities, grad_scores.sum(-1, keepdim=True), value=-1)
            grad_scores = grad_scores.to(query.dtype)
            block.spread(grad_scores, queries, grad_key)
            grad_query[block.queries] = block.mix(grad_scores, key) * _scale(query)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None, None, None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: AttentionPattern,
    window: int,
    dilation: int,
    dropout: _Dropout,
) -> Tensor:
    """(T, H, D) three times -> (T, H, D). Differentiable, twice too: only the result is changed in place."""
    draw = dropout.start()
    # torch's attention has no dropout of its own on a CPU, and no second derivative.
    by_blocks = draw is not None or torch.is_grad_enabled()
    # Rows outside of all documents must be zero.
    covered = sum(document.stop - document.start for document in pattern.documents)
    context = torch.empty_like(query) if covered == len(query) else torch.zeros_like(query)
    for documents in [] if by_blocks else short_documents(pattern, window, dilation, query):
        rows = documents.rows
        context[rows] = documents.attend(query[rows], key[rows], value[rows])
    for block in _blocks(pattern, window, dilation, query, with_short=by_blocks):
        probabilities = _probabilities(_queries(query, block), key, block)
        if draw is not None:
            probabilities = probabilities * draw(probabilities)
        mixed = block.mix(probabilities.to(value.dtype), value)
        context[block.queries] = mixed if draw is None else mixed * dropout.scale
    return context


def _scale(query: Tensor) -> float:
    return query.shape[-1] ** -0.5


def _queries(query: Tensor, block: _Block) -> Tensor:
    """(T, H, D) -> (H, b, D), scaled."""
    return query[block.queries].transpose(0, 1) * _scale(query)


def _probabilities(queries: Tensor, key: Tensor, block: _Block) -> Tensor:
    """(H, b, D), (T, H, D) -> (H, b, G + K), in float32 at least."""
    return softmax(block.scores(queries, key))


def _blocks(pattern: AttentionPattern, window: int, dilation: int, like: Tensor, with_short: bool) -> Iterator[_Block]:
    """The blocks of all documents, with or without the short ones, with masks in the dtype of `like`.

    Every d-th token of a document forms one sequence, a slice with a step. Within it a dilated window has no gaps.
    """
    before, after, dtype = window // 2, 0 if pattern.is_causal else window // 2, like.dtype
    size = _BLOCK if like.element_size() >= 4 else _BLOCK_IN_HALF_PRECISION
    band = pattern.shared(("band", window, size, dtype), lambda: additive(_in_band(before + after, size), dtype))
    seen = pattern.shared(("seen", dtype), lambda: additive(pattern.local_key_segments().flatten() != MASKED, dtype))
    num_tokens = pattern.segments.shape[1]
    for document in pattern.documents:
        if not with_short and is_short(document, pattern, window, dilation):
            continue
        for sequence in range(document.start, min(document.start + dilation, document.stop)):
            places = range(sequence, document.stop, dilation)
            for start in range(0, len(places), size):
                stop = min(start + size, len(places))
                first, last = max(start - before, 0), min(stop + after, len(places))
                if not _is_wanted(places[start:stop], num_tokens, pattern.wanted):
                    continue
                queries, keys = _slice(places[start:stop]), _slice(places[first:last])
                offset = first - (start - before)
                mask, global_mask = band[: stop - start, offset : offset + last - first], None
                if len(document.global_index) or not document.is_whole:
                    mask = torch.minimum(mask, seen[keys])
                if len(document.global_index) and pattern.is_causal:
                    query_places = torch.arange(queries.start, queries.stop, dilation)
                    global_mask = additive(document.global_index <= query_places[:, None], dtype)
                yield _Block(queries, keys, mask, document.global_index, global_mask)


def _is_wanted(places: range, num_tokens: int, wanted: range | None) -> bool:
    """Whether a row of a block is read, whose places are counted through all rows of N tokens."""
    if wanted is None:
        return True
    start = places[0] // num_tokens * num_tokens
    return places[0] < start + wanted.stop and places[-1] >= start + wanted.start


def _slice(places: range) -> slice:
    return slice(places.start, places.stop, places.step)


def _in_band(width: int, size: int) -> Tensor:
    """(b, b + width) bool, whether each query sees each key; key 0 is the first that the first query sees."""
    offset = torch.arange(size + width)[None, :] - torch.arange(size)[:, None]
    return (offset >= 0) & (offset <= width)


class _Dropout:
    """Dropout that drops the same weights each time it is started, so that no mask has to be kept.

    The constructor draws its seed from torch's random number generator. Each weight takes sixteen random bits: torch's
    own dropout takes ten times as long to draw.
    """

    def __init__(self, probability: float) -> None:
        self._dropped = min(round(probability * 2**16), 2**16 - 1)
        self._seed = int(torch.randint(2**62, ())) if self._dropped else 0
        self.scale = 1 / (1 - self._dropped / 2**16)

    def start(self) -> Callable[[Tensor], Tensor] | None:
        """A function from each next tensor of weights to a bool mask of the kept ones; None if nothing is dropped."""
        if not self._dropped:
            return None
        generator = torch.Generator().manual_seed(self._seed)

        def draw(weights: Tensor) -> Tensor:
            words = torch.empty(-(-weights.numel() // 4), dtype=torch.int64)
            bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)
            return (bits[: weights.numel()] >= self._dropped - 2**15).view(weights.shape)

        return draw
