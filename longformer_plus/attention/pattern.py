"""AttentionPattern: who may attend to whom in a batch. Built once per forward, shared by all layers.

Shapes: B batch, N tokens, G global tokens (the most that any row has), W window.

Rows of a batch, documents packed in one row and rows whose padding was taken out are the same thing here: tokens with a
segment. A token sees only tokens of its own segment. Who is global within it is a second, separate fact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

MASKED = -1
# Queries of a block on accelerators.
QUERY_BLOCK = 128
# The key of `AttentionPattern.shared` for what `documents` makes.
DOCUMENTS = "documents"

T = TypeVar("T")


@dataclass(frozen=True)
class Document:
    """The tokens of one segment, among those of all rows, one row after another.

    Attributes:
        start, stop: from its first token to the one after its last.
        global_index: (G,) int64, the places of its global tokens.
        is_whole: whether none of its tokens is masked.
    """

    start: int
    stop: int
    global_index: Tensor
    is_whole: bool


@dataclass(eq=False)
class AttentionPattern:
    """The tokens of a batch, as attention sees them.

    Attributes:
        segments: (B, N) int64, the segment of each token, unique over the whole batch; MASKED for padding.
        is_global: (B, N) bool, or None when no token of the batch is known to be global.
        global_index: (B, G) int64, the positions of the global tokens of each row in rising order; rows with fewer
            than G are filled up with the positions of other tokens. None with `is_global`.
        global_segments: (B, G) int64, the segment of each of them; MASKED for the fillers. None with `is_global`.
        is_uniform: whether each row is known to be one segment without padding.
        is_packed: whether the batch is one row of several segments, each of whose global rows are computed from the
            tokens of its segment alone.
        is_causal: whether tokens attend only to themselves and to earlier ones.
        dilations: those of all layers and heads, each once.
        wanted: the places whose local rows are read, where not all are: those of others need not be computed.
        exchange: an `exchange.AttentionExchange`, the way to the other tokens of the batch, where these are spread over
            processes.
    """

    segments: Tensor
    is_global: Tensor | None
    global_index: Tensor | None
    global_segments: Tensor | None
    is_uniform: bool
    is_packed: bool
    is_causal: bool
    dilations: tuple[int, ...] = (1,)
    wanted: range | None = None
    exchange: Any = None
    _shared: dict[object, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def build(
        cls,
        valid: Tensor | None,
        is_global: Tensor | None,
        batch: Tensor,
        keep_empty: bool,
        segments: Tensor | None = None,
        is_packed: bool = False,
        is_causal: bool = False,
        max_global_tokens: int | None = None,
        dilations: tuple[int, ...] = (1,),
    ) -> AttentionPattern:
        """The pattern of a batch.

        Args:
            valid: (B, N) bool, False on padding; None when every token is valid.
            is_global: (B, N) bool, the tokens that are to attend globally, perhaps with padding; None if none do.
            batch: (B, N, ...) any tensor of the batch, for shape and device.
            keep_empty: keep one (filler) global column even when no token is global, so that the global projections
                stay in the graph and receive a gradient of zero. DistributedDataParallel and tracing need that.
            segments: (B, N) int64, the segment of each token where rows hold several documents: see `segments_of`. None
                where each row is one document.
            is_packed: compute the global rows of each document from its own tokens alone; for a batch of one row, whose
                `segments` are numbered from 0 in rising order.
            is_causal: whether tokens attend only to themselves and to earlier ones.
            max_global_tokens: an upper bound of the global tokens of a row, if known. It becomes G, and nothing is read
                from the device.
            dilations: those of all layers and heads, each once.
        """
        num_rows, num_tokens = batch.shape[:2]
        is_uniform = valid is None and segments is None
        if segments is None:
            segments = torch.arange(num_rows, device=batch.device)[:, None].expand(num_rows, num_tokens)
        if valid is not None:
            segments = torch.where(valid, segments, MASKED)
        if is_global is None:
            if not keep_empty:
                return cls(segments, None, None, None, is_uniform, is_packed, is_causal, dilations)
            is_global = torch.zeros((num_rows, num_tokens), dtype=torch.bool, device=batch.device)
        elif valid is not None:
            is_global = is_global & valid
        if max_global_tokens is None:
            most = _columns(is_global, keep_empty)
        else:
            most = max(min(max_global_tokens, num_tokens), int(keep_empty))
        if not torch.compiler.is_compiling() and most == 0:
            return cls(segments, None, None, None, is_uniform, is_packed, is_causal, dilations)
        # Global tokens first, in order of position; then fillers, each another token of the row.
        rank = is_global * torch.arange(num_tokens, 0, -1, device=batch.device)
        global_index = rank.topk(most, dim=1).indices
        global_segments = torch.where(is_global.gather(1, global_index), segments.gather(1, global_index), MASKED)
        return cls(segments, is_global, global_index, global_segments, is_uniform, is_packed, is_causal, dilations)

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> AttentionPattern:
        """The pattern on another device, the same object at each call: accelerate asks for it before each layer."""
        if self.segments.device == torch.empty(0, device=device).device:
            return self

        def moved() -> AttentionPattern:
            tensors: dict[str, Any] = {
                name: value.to(device, non_blocking=non_blocking)
                for name, value in ((each.name, getattr(self, each.name)) for each in fields(self))
                if isinstance(value, Tensor)
            }
            # The sizes that were read from this device need not be read again from the other.
            read: dict[object, Any] = {
                key: self._shared[key].to(device, non_blocking) for key in (DOCUMENTS,) if key in self._shared
            }
            return replace(self, **tensors, _shared=read)

        return self.shared(("on", torch.device(device)), moved)

    @property
    def num_global(self) -> int:
        """G, the number of global columns, fillers included."""
        return 0 if self.global_index is None else self.global_index.shape[1]

    @property
    def valid(self) -> Tensor:
        """(B, N) bool, False on padding."""
        return self.segments != MASKED

    @cached_property
    def documents(self) -> list[Document]:
        """The documents of the batch, on a CPU: the segments are read back."""
        segments = self.segments.flatten()
        tokens = (segments != MASKED).nonzero()[:, 0]
        _, lengths = torch.unique_consecutive(segments[tokens], return_counts=True)
        after = lengths.cumsum(0)
        starts, stops = tokens[after - lengths], tokens[after - 1] + 1
        global_tokens = tokens[:0] if self.is_global is None else self.is_global.flatten().nonzero()[:, 0]
        bounds = torch.stack([torch.searchsorted(global_tokens, places) for places in (starts, stops)], dim=1)
        return [
            Document(start, stop, global_tokens[first:last], stop - start == length)
            for start, stop, length, (first, last) in zip(
                starts.tolist(), stops.tolist(), lengths.tolist(), bounds.tolist(), strict=True
            )
        ]

    def shared(self, key: object, build: Callable[[], T]) -> T:
        """What `build` gives, built at the first call with this key and kept for the other layers."""
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting() and torch.is_grad_enabled():
            # Compiled activation checkpointing allows no side effects. The compiler merges equal computations.
            return build()
        if key not in self._shared:
            self._shared[key] = build()
        return self._shared[key]

    def query_segments(self) -> Tensor:
        """(B, N) the segment that each token looks for; padding looks for one that no key has."""
        return torch.where(self.valid, self.segments, MASKED - 1)

    def local_key_segments(self) -> Tensor:
        """(B, N) the segment of each token as a key of the window; MASKED for padding, and for global tokens, which
        are keys of every row through their own columns, so that each key counts once."""
        return self.segments if self.is_global is None else self.segments.masked_fill(self.is_global, MASKED)

    def global_row_mask(self) -> Tensor:
        """(B, G, N) bool, whether a global token attends to a token: all valid ones of its segment; earlier ones and
        itself, if causal."""
        if self.global_segments is None or self.global_index is None:
            raise ValueError("A pattern without global tokens has no global rows.")
        wanted = torch.where(self.global_segments == MASKED, MASKED - 1, self.global_segments)
        mask = wanted[:, :, None] == self.segments[:, None, :]
        if self.is_causal:
            places = torch.arange(self.segments.shape[1], device=mask.device)
            mask = mask & (places <= self.global_index[:, :, None])
        return mask

    def take_global(self, rows: Tensor) -> Tensor:
        """(B, N, E) -> (B, G, E), the rows of the global tokens (and fillers)."""
        return rows.gather(1, self._expanded_index(rows))

    def put_global(self, rows: Tensor, global_rows: Tensor) -> Tensor:
        """(B, N, E) with the rows of the global tokens replaced by `global_rows` (B, G, E); in place without gradients.

        Fillers keep their row, and yet leave `global_rows` in the graph.
        """
        if self.global_segments is None:
            raise ValueError("A pattern without global tokens has no global rows.")
        is_filler = (self.global_segments == MASKED)[:, :, None]
        kept = torch.where(is_filler, self.take_global(rows), global_rows.to(rows.dtype))
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return rows.scatter(1, self._expanded_index(rows), kept)
        return rows.scatter_(1, self._expanded_index(rows), kept)

    def clear_masked(self, rows: Tensor) -> Tensor:
        """(B, N, E) with zeros in the rows of masked tokens."""
        return rows if self.is_uniform else rows.masked_fill(~self.valid[:, :, None], 0.0)

    def _expanded_index(self, rows: Tensor) -> Tensor:
        if self.global_index is None:
            raise ValueError("A pattern without global tokens has no global rows.")
        return self.global_index[:, :, None].expand(-1, -1, rows.shape[-1])


def segments_of(document_ids: Tensor) -> Tensor:
    """(B, N) int64: the runs of equal ids in each row, numbered from 0 through the whole batch."""
    is_first = F.pad(document_ids[:, 1:] != document_ids[:, :-1], (1, 0), value=True)
    return is_first.flatten().long().cumsum(0).view_as(document_ids) - 1


def places_in(segments: Tensor) -> Tensor:
    """(B, N) int64, each token's distance from the first one of its segment."""
    places = torch.arange(segments.shape[1], device=segments.device)
    is_first = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)
    return places - torch.where(is_first, places, 0).cummax(dim=1).values


def _columns(is_global: Tensor, keep_empty: bool) -> int:
    """The most global tokens that any row has: the one number that a forward reads back from the device."""
    count = is_global.sum(1)
    if not torch.compiler.is_compiling():
        return max(int(count.amax()) if len(count) else 0, int(keep_empty))
    # A traced graph has no branch for "none": it always keeps one column, which may be a filler.
    most = count.amax(0).clamp(min=1).item()
    torch._check(most >= 1)
    torch._check(most <= is_global.shape[1])
    return most  # type: ignore[return-value]
