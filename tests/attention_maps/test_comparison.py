"""Two documents side by side, against the dense oracle."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longformer_plus.attention_maps import align, head_changes

from ..cases import Case, cases
from .test_maps import PROFILE, maps_of, small_case


def test_tokens_are_aligned_around_an_edit() -> None:
    assert align(list("abcdef"), list("abXYef")).tolist() == [0, 1, -1, -1, 4, 5]
    assert align(list("ab"), list("ab" * 300)).tolist() == [0, 1]
    assert align(["a"], ["b"]).tolist() == [-1]


@PROFILE
@given(case=cases(), other=cases(), data=st.data())
def test_changes_of_heads_are_those_of_the_dense_weights(case: Case, other: Case, data: st.DataObject) -> None:
    (maps, weights), (others, other_weights) = maps_of(case, layers=2), maps_of(other, layers=2)
    count = other.shape[1]
    found = sorted(data.draw(st.sets(st.integers(0, case.shape[1] - 1), max_size=count)))
    partners = torch.full((case.shape[1],), -1)
    partners[found] = torch.arange(len(found))
    is_row = (partners >= 0) & maps.layout.valid & (maps.layout.global_rank < 0)
    is_row &= others.layout.valid[partners] & (others.layout.global_rank[partners] < 0)
    # The second document's weights in the first one's places, and all the rest beside them.
    mirrored = torch.zeros_like(weights)
    at = (partners >= 0).nonzero()[:, 0]
    mirrored[:, :, at[:, None], at] = other_weights[:, :, partners[at][:, None], partners[at]]
    rest = other_weights.sum(-1)[:, :, partners] - mirrored.sum(-1)
    distance = ((weights - mirrored).abs().sum(-1) + rest) / 2
    expected = distance[:, :, is_row].mean(-1)
    torch.testing.assert_close(head_changes(maps, others, partners), expected, atol=1e-5, rtol=1e-4, equal_nan=True)


def test_the_same_document_does_not_differ_and_other_shapes_are_refused() -> None:
    maps, _ = maps_of(small_case(dilation=[1, 3, 1]), layers=2)
    assert float(head_changes(maps, maps, torch.arange(40)).abs().max()) < 1e-6
    with pytest.raises(ValueError, match="2 layers with 3 heads and of 1 with 3"):
        head_changes(maps, maps_of(small_case())[0], torch.arange(40))
    with pytest.raises(ValueError, match="for 40 tokens"):
        head_changes(maps, maps, torch.arange(39))
