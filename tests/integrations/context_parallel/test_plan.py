"""Who sends what to whom, without any process: the plans of all ranks, and what they would send."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from longformer_plus.attention import AttentionPattern, segments_of
from longformer_plus.integrations.context_parallel.plan import GlobalTokens, HaloPlan, QuestionPlan, Slices

from ...cases import Case, cases


def whole_pattern(case: Case, documents: Tensor | None) -> AttentionPattern:
    segments = None if documents is None else segments_of(documents)
    return AttentionPattern.build(
        case.valid, case.is_global, case.valid, keep_empty=True, segments=segments, is_causal=case.is_causal
    )


def exchanged(rows: list[Tensor], sends: list[list[int]]) -> list[Tensor]:
    """What each rank receives: the rows of each, cut by receiver, put together by sender."""
    parts = [each.split(counts) for each, counts in zip(rows, sends, strict=True)]
    return [torch.cat([part[rank] for part in parts]) for rank in range(len(rows))]


def subsequences(whole: AttentionPattern, size: int, reach: int) -> list[tuple[HaloPlan, range, Tensor]]:
    """The plan of each rank, its slice, and the (B, M) places of the tokens that it comes to."""
    num_rows, num_tokens = whole.segments.shape
    tokens = GlobalTokens.of(whole)
    slices = [Slices.of(num_tokens, size, rank) for rank in range(size)]
    plans = [HaloPlan.of(whole, each, tokens, reach) for each in slices]
    places = torch.arange(num_rows * num_tokens).view(num_rows, num_tokens)
    own = [places[:, each.own.start : each.own.stop] for each in slices]
    sent = [rows.flatten()[plan.send_index] for rows, plan in zip(own, plans, strict=True)]
    received = exchanged(sent, [plan.sends for plan in plans])
    for plan, rows in zip(plans, received, strict=True):
        assert len(rows) == sum(plan.receives)
    return [
        (plan, each.own, torch.cat([got[plan.left], rows, got[plan.right]], dim=1) % max(num_tokens, 1))
        for plan, each, got, rows in zip(plans, slices, received, own, strict=True)
    ]


@given(cases(), st.integers(1, 5), st.sampled_from([1, 3, 8, 200]), st.booleans(), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_a_subsequence_holds_what_its_own_tokens_attend_to(
    case: Case, size: int, reach: int, is_packed: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    documents = (torch.rand(case.shape, generator=generator) < 0.1).long().cumsum(1) if is_packed else None
    whole = whole_pattern(case, documents)
    for plan, own, places in subsequences(whole, size, reach):
        known = plan.pattern.valid
        for row in range(case.shape[0]):
            found = places[row][known[row]].tolist()
            assert found == sorted(set(found))
            segments = whole.segments[row]
            here = {int(number) for number in segments[own.start : own.stop]} - {-1}
            for place in range(case.shape[1]):
                if int(segments[place]) not in here or (case.is_causal and place >= own.stop):
                    continue
                in_window = own.start - reach <= place < own.stop + (0 if case.is_causal else reach)
                is_global = whole.is_global is not None and bool(whole.is_global[row, place])
                assert not (in_window or is_global) or place in found
            # The same tokens are global, and of the same documents.
            numbers = plan.pattern.segments[row][known[row]]
            assert len(set(zip(numbers.tolist(), segments[found].tolist(), strict=True))) == len(numbers.unique())
            if plan.pattern.is_global is not None:
                assert plan.pattern.is_global[row][known[row]].equal(whole.is_global[row][found])  # type: ignore[index]
        if own:
            wanted = plan.pattern.wanted
            assert wanted is not None
            assert places[:, wanted.start : wanted.stop].eq(torch.arange(own.start, own.stop)).all()


@given(cases(), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_each_global_token_is_answered_about_each_token_that_it_attends_to(case: Case, size: int) -> None:
    whole = whole_pattern(case, None)
    tokens = GlobalTokens.of(whole)
    num_rows, num_tokens = case.shape
    slices = [Slices.of(num_tokens, size, rank) for rank in range(size)]
    plans = [QuestionPlan.of(whole, each, tokens) for each in slices]
    names = [plan.own[0] * num_tokens + plan.own[1] + each.own.start for plan, each in zip(plans, slices, strict=True)]
    sent = [name[plan.send_index] for name, plan in zip(names, plans, strict=True)]
    asked = exchanged(sent, [plan.sends for plan in plans])
    found = torch.zeros(num_rows * num_tokens, num_tokens, dtype=torch.long)
    for plan, each, name in zip(plans, slices, asked, strict=True):
        found[name, each.own.start : each.own.stop] += plan.allowed[plan.asked[0], plan.asked[1]].long()
    expected = torch.zeros(num_rows, num_tokens, num_tokens, dtype=torch.bool)
    is_global = case.is_global & case.valid
    expected[:] = is_global[:, :, None] & case.valid[:, None, :]
    if case.is_causal:
        expected &= torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()
    assert found.equal(expected.flatten(0, 1).long())


@pytest.mark.parametrize("size", [1, 3, 7])
def test_slices_cover_a_row(size: int) -> None:
    for num_tokens in (0, 1, 5, 100):
        spans = Slices.of(num_tokens, size, 0).spans
        assert [place for span in spans for place in span] == list(range(num_tokens))
        assert max(map(len, spans)) - min(map(len, spans)) <= 1
