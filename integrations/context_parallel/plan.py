"""Who sends which tokens to whom. Every process computes it from the masks of the whole batch, without asking.

It is computed on the host, from one copy of the masks, and moved to their device.

A process attends on a subsequence of the document, [foreign global tokens | halo | own tokens | halo | foreign global
tokens]. Its order, and its distances around the own tokens, are those of the document; and global tokens are no keys of
a window. So the ordinary pattern of that subsequence is the right one, for every backend.

Shapes: B batch, N tokens of the whole row, n tokens of a slice, M tokens of the subsequence, P processes, T global
tokens of the whole batch, S rows sent, R rows received.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from longformer_plus.attention import AttentionPattern
from longformer_plus.attention.documents import GlobalDocuments
from longformer_plus.attention.pattern import MASKED

T = TypeVar("T")


def on_host(whole: AttentionPattern) -> AttentionPattern:
    """A pattern on the host, without its global columns; in one transfer from its device, where one is needed."""
    segments, is_global = whole.segments, whole.is_global
    if segments.device.type == "cpu":
        return whole
    if is_global is not None:
        segments, global_numbers = torch.stack([segments, is_global.long()]).cpu()
        is_global = global_numbers > 0
    elif whole.is_uniform:
        segments = torch.arange(len(segments))[:, None].expand(segments.shape)
    return replace(
        whole, segments=segments.cpu(), is_global=is_global, global_index=None, global_segments=None, _shared={}
    )


def _moved(plan: T, device: torch.device) -> T:
    """A plan with its tensors and patterns on a device."""
    parts: dict[str, Any] = {each.name: getattr(plan, each.name) for each in fields(plan)}  # type: ignore[arg-type]
    moved = {name: part.to(device) for name, part in parts.items() if isinstance(part, (Tensor, AttentionPattern))}
    return replace(plan, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class Slices:
    """The slices of a row: one for each process, of nearly the same size.

    Attributes:
        spans: the places of each process's tokens, in the order of ranks.
        rank: of this process.
    """

    spans: tuple[range, ...]
    rank: int

    @classmethod
    def of(cls, num_tokens: int, size: int, rank: int) -> Slices:
        """The slices of N tokens between `size` processes; some are empty where there are fewer tokens."""
        cuts = [num_tokens * number // size for number in range(size + 1)]
        return cls(tuple(map(range, cuts, cuts[1:])), rank)

    @property
    def own(self) -> range:
        """The places of this process's tokens."""
        return self.spans[self.rank]

    @property
    def others(self) -> list[int]:
        """The ranks of the other processes."""
        return [rank for rank in range(len(self.spans)) if rank != self.rank]


@dataclass(frozen=True)
class GlobalTokens:
    """The global tokens of the whole batch, row after row: (T) int64 each.

    Attributes:
        row, place: where they stand.
        first, last: the places of the first and the last token of their segment.
    """

    row: Tensor
    place: Tensor
    first: Tensor
    last: Tensor

    @classmethod
    def of(cls, whole: AttentionPattern) -> GlobalTokens:
        """Those of a pattern on the host."""
        if whole.is_global is None:
            return cls(*torch.empty(4, 0, dtype=torch.int64))
        segments = whole.segments
        row, place = whole.is_global.nonzero(as_tuple=True)
        places = torch.arange(segments.shape[1]).expand(segments.shape).flatten()
        number = torch.where(segments == MASKED, segments.numel(), segments).flatten()
        bounds = places.new_full((segments.numel() + 1,), segments.shape[1])
        first = bounds.scatter_reduce(0, number, places, "amin")
        last = torch.zeros_like(bounds).scatter_reduce(0, number, places, "amax")
        segment = segments[row, place]
        return cls(row, place, first[segment], last[segment])

    def within(self, spans: tuple[range, ...]) -> Tensor:
        """(P, T) bool, whether each span holds each of them."""
        start, stop = _bounds(spans)
        return (start <= self.place) & (self.place < stop)

    def share_document(self, spans: tuple[range, ...]) -> Tensor:
        """(P, T) bool, whether each span has tokens between the first and the last of their document."""
        start, stop = _bounds(spans)
        return (start < stop) & (self.first < stop) & (start <= self.last)


def _bounds(spans: tuple[range, ...]) -> Tensor:
    """(2, P, 1), the starts and the stops."""
    return torch.tensor([[span.start for span in spans], [span.stop for span in spans]])[:, :, None]


@dataclass(frozen=True)
class HaloPlan:
    """How a process comes to the keys and values that the windows of its tokens reach.

    Attributes:
        sends, receives: numbers of rows, by rank.
        send_index: (S) int64, places among the B * n own tokens, by receiver.
        left, right: (B, tokens on that side) int64, which of the R rows received stand left and right of the own ones.
        pattern: of the (B, M) subsequence; `pattern.wanted` are the own tokens.
    """

    sends: list[int]
    receives: list[int]
    send_index: Tensor
    left: Tensor
    right: Tensor
    pattern: AttentionPattern

    @classmethod
    def of(cls, whole: AttentionPattern, slices: Slices, tokens: GlobalTokens, reach: int) -> HaloPlan:
        """The plan for windows that reach so many tokens to each side.

        Args:
            whole: the pattern of the whole batch, on the host.
            slices: who holds which tokens.
            tokens: the global tokens of `whole`.
            reach: the largest distance between a query and a key of its window, in tokens.
        """
        num_rows, num_tokens = whole.segments.shape
        own = slices.own
        reached = tuple(_reached(span, reach, num_tokens, whole.is_causal) for span in slices.spans)
        wanted = tokens.share_document(slices.spans) & ~tokens.within(reached)  # (P, T)
        if whole.is_causal:
            wanted &= tokens.place < _bounds(slices.spans)[1]
        held = tokens.within(slices.spans)

        index, sends, receives = [tokens.row[:0]], [0] * len(reached), [0] * len(reached)
        halves: tuple[list[Tensor], list[Tensor]] = ([], [])
        slot = torch.zeros_like(tokens.place)
        for other in slices.others:
            lent = _common(own, reached[other])
            extras = (wanted[other] & held[slices.rank]).nonzero()[:, 0]
            rows = torch.arange(num_rows)[:, None] * len(own) + torch.arange(lent.start, lent.stop) - own.start
            index += [rows.flatten(), tokens.row[extras] * len(own) + tokens.place[extras] - own.start]
            sends[other] = num_rows * len(lent) + len(extras)

            borrowed, offset = _common(slices.spans[other], reached[slices.rank]), sum(receives)
            extras = (wanted[slices.rank] & held[other]).nonzero()[:, 0]
            count = num_rows * len(borrowed)
            halves[other > slices.rank].append(offset + torch.arange(count).view(num_rows, len(borrowed)))
            slot[extras] = offset + count + torch.arange(len(extras))
            receives[other] = count + len(extras)

        middle = reached[slices.rank]
        before = _in_rows(tokens, wanted[slices.rank] & (tokens.place < middle.start), num_rows, at_end=True)
        after = _in_rows(tokens, wanted[slices.rank] & (tokens.place >= middle.stop), num_rows, at_end=False)
        left = torch.cat([torch.where(before < 0, 0, slot[before]), *halves[0]], dim=1)
        right = torch.cat([*halves[1], torch.where(after < 0, 0, slot[after])], dim=1)
        places = torch.cat(
            [
                torch.where(before < 0, MASKED, tokens.place[before]),
                torch.arange(middle.start, middle.stop).expand(num_rows, -1),
                torch.where(after < 0, MASKED, tokens.place[after]),
            ],
            dim=1,
        )
        pattern = _subsequence(whole, places)
        pattern.wanted = range(left.shape[1], left.shape[1] + len(own))
        return cls(sends, receives, torch.cat(index), left, right, pattern)

    def to(self, device: torch.device) -> HaloPlan:
        """The plan on a device."""
        if device.type != "cpu" and self.pattern.is_packed and self.pattern.num_global:
            # Their sizes go along with the pattern; else they would be read from the device.
            GlobalDocuments.of(self.pattern)
        return _moved(self, device)


def _reached(span: range, reach: int, num_tokens: int, is_causal: bool) -> range:
    """The places that the windows of a span reach."""
    if not span:
        return span
    return range(max(span.start - reach, 0), span.stop if is_causal else min(span.stop + reach, num_tokens))


def _common(one: range, other: range) -> range:
    return range(max(one.start, other.start), max(min(one.stop, other.stop), max(one.start, other.start)))


def _in_rows(tokens: GlobalTokens, chosen: Tensor, num_rows: int, at_end: bool) -> Tensor:
    """(B, the most of a row), the indices of the chosen ones of T global tokens; -1 before or after a row's own."""
    index = chosen.nonzero()[:, 0]
    row = tokens.row[index]
    count = torch.bincount(row, minlength=num_rows)
    most = int(count.max()) if num_rows else 0
    column = torch.arange(len(index)) - (count.cumsum(0) - count)[row]
    if at_end:
        column = column + most - count[row]
    return torch.full((num_rows, most), -1).index_put((row, column), index)


def _subsequence(whole: AttentionPattern, places: Tensor) -> AttentionPattern:
    """The pattern of the (B, M) places of each row, those below 0 masked."""
    known = places.clamp(min=0)
    segments = torch.where(places < 0, MASKED, whole.segments.gather(1, known))
    is_global = None if whole.is_global is None else whole.is_global.gather(1, known) & (places >= 0)
    options = {"keep_empty": False, "is_causal": whole.is_causal, "dilations": whole.dilations}
    if whole.is_uniform and not bool((places < 0).any()):
        return AttentionPattern.build(None, is_global, places, **options)  # type: ignore[arg-type]
    # Numbered from 0 again.
    present, number = segments.unique(return_inverse=True)
    segments = number - (present[:1] == MASKED).long() if len(present) else segments
    valid = segments != MASKED
    return AttentionPattern.build(valid, is_global, places, segments=segments, is_packed=whole.is_packed, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class QuestionPlan:
    """Whom a process asks about its global tokens, whose rows look at the whole document, and who asks it.

    Attributes:
        own: (2, own global tokens) int64, their rows, and their places in the slice.
        send_index: (S) int64, which of the own global tokens each question is about, by the rank that is asked.
        sends, receives: numbers of questions, by rank.
        asked: (2, R) int64, the row of each question received and its number among those of the row.
        allowed: (B, G, n) bool, whether the token of a question attends to each own token; G is the most questions of
            a row, at least one.
    """

    own: Tensor
    send_index: Tensor
    sends: list[int]
    receives: list[int]
    asked: Tensor
    allowed: Tensor

    @classmethod
    def of(cls, whole: AttentionPattern, slices: Slices, tokens: GlobalTokens) -> QuestionPlan:
        """The plan for the global tokens of a whole batch on the host, with `slices` of its rows."""
        num_rows = len(whole.segments)
        answers = tokens.share_document(slices.spans)  # (P, T)
        if whole.is_causal:
            answers &= _bounds(slices.spans)[0] <= tokens.place
        held = tokens.within(slices.spans)
        mine = held[slices.rank].nonzero()[:, 0]
        to_ask = [about.nonzero()[:, 0] for about in answers[:, mine]]
        asked = [(is_held & answers[slices.rank]).nonzero()[:, 0] for is_held in held]
        token = torch.cat(asked)
        row = tokens.row[token]
        count = torch.bincount(row, minlength=num_rows)
        order = row.argsort(stable=True)
        column = torch.empty_like(row)
        column[order] = torch.arange(len(row)) - (count.cumsum(0) - count)[row[order]]

        own = torch.stack([tokens.row[mine], tokens.place[mine] - slices.own.start])
        place = torch.full((num_rows, max(int(count.max()), 1) if num_rows else 1), -1)
        place = place.index_put((row, column), tokens.place[token])
        segments = torch.where(place < 0, MASKED - 1, whole.segments.gather(1, place.clamp(min=0)))
        here = slice(slices.own.start, slices.own.stop)
        allowed = segments[:, :, None] == whole.segments[:, None, here]
        if whole.is_causal:
            allowed &= torch.arange(here.start, here.stop) <= place[:, :, None]
        sends, receives = list(map(len, to_ask)), list(map(len, asked))
        return cls(own, torch.cat(to_ask), sends, receives, torch.stack([row, column]), allowed)

    def to(self, device: torch.device) -> QuestionPlan:
        """The plan on a device."""
        return _moved(self, device)
