"""Attention between units of text, and of stretches, against the dense oracle."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longformer_plus.attention_maps import Units, average, band, unit_attention

from ..cases import Case, cases
from .test_maps import PROFILE, maps_of, small_case

TEXT = (
    "THE KEEPER\n\nDr. Dunn came at 3 p.m. on Sunday. He said: “Is it gone?” Nobody knew... not even J. Smith!\n"
    "A line that goes on.\n\n2. What followed\n\nIt rained, e.g. on Monday. 船長は来た。海を見た。"
)


def units_of(text: str, name: str) -> list[str]:
    """The units of a text in which every character is a token."""
    units = Units.find(text, [(place, place + 1) for place in range(len(text))], name)  # type: ignore[arg-type]
    return [text[start:stop].strip() for start, stop in units.spans]


def test_texts_have_sentences_paragraphs_and_sections() -> None:
    assert units_of(TEXT, "sentence") == [
        "THE KEEPER",
        "Dr. Dunn came at 3 p.m. on Sunday.",
        "He said: “Is it gone?”",
        "Nobody knew... not even J. Smith!",
        "A line that goes on.",
        "2. What followed",
        "It rained, e.g. on Monday.",
        "船長は来た。",
        "海を見た。",
    ]
    assert [len(one.split()) for one in units_of(TEXT, "paragraph")] == [2, 24, 3, 6]
    assert [one.split("\n")[0] for one in units_of(TEXT, "section")] == ["THE KEEPER", "2. What followed"]
    assert units_of("One.\nTwo.\n  Three", "paragraph") == ["One.", "Two.", "Three"]
    assert units_of("no mark at all", "sentence") == ["no mark at all"]
    with pytest.raises(ValueError, match=r"'page' is not allowed: .* sentence, paragraph, section"):
        units_of(TEXT, "page")


def test_special_tokens_are_units_by_themselves() -> None:
    # <s> " He" " ran." " She" </s>
    units = Units.find("He ran. She", [(0, 0), (0, 2), (2, 7), (7, 11), (0, 0)], "sentence")
    assert units.spans == [(0, 1), (1, 3), (3, 4), (4, 5)]
    assert units.unit_of_token.tolist() == [0, 1, 1, 2, 3]
    assert Units.of([-1, 0, 0, -1, -1, 1, -1]).spans == [(0, 1), (1, 3), (3, 4), (4, 5), (5, 6), (6, 7)]


@PROFILE
@given(case=cases(), data=st.data())
def test_attention_between_units_is_that_of_the_dense_weights(case: Case, data: st.DataObject) -> None:
    maps, weights = maps_of(case, layers=2)
    tokens = case.shape[1]
    units = Units.of(data.draw(st.lists(st.integers(-1, 2), min_size=tokens, max_size=tokens)))
    heads = data.draw(st.sampled_from([None, 1, [0, 2]]))
    belongs = torch.nn.functional.one_hot(units.unit_of_token, len(units)).double()  # (N, U)
    dense = weights[:, maps.choose_heads(heads)].double().mean((0, 1))
    expected = (belongs / belongs.sum(0)).T @ dense @ belongs
    torch.testing.assert_close(unit_attention(maps, units, None, heads).double(), expected, atol=1e-5, rtol=1e-5)


@PROFILE
@given(case=cases(), data=st.data())
def test_stretches_give_and_get_what_their_dense_rows_and_columns_do(case: Case, data: st.DataObject) -> None:
    maps, weights = maps_of(case, layers=2)
    first = data.draw(st.integers(0, case.shape[1] - 1))
    last = data.draw(st.integers(first, case.shape[1] - 1))
    heads = data.draw(st.sampled_from([None, 1, [0, 2]]))
    places = list(range(first, last + 1))
    dense = weights[:, maps.choose_heads(heads)].mean((0, 1))
    torch.testing.assert_close(maps.given_by(places, None, heads), dense[places].mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(maps.given_to(places, None, heads), dense[:, places].sum(1), atol=1e-5, rtol=1e-4)
    compact, _ = maps_of(case, layers=2, bits=8)
    largest = float(weights.max()) / 255 * len(places)
    torch.testing.assert_close(compact.given_to(places, None, heads), dense[:, places].sum(1), atol=largest, rtol=0)
    torch.testing.assert_close(compact.given_by(places, None, heads), dense[places].mean(0), atol=largest, rtol=0)


@PROFILE
@given(case=cases())
def test_the_average_attends_as_all_do_on_average(case: Case) -> None:
    maps, weights = maps_of(case, layers=2)
    one = average(maps, None, [0, 2], bits=32)
    torch.testing.assert_close(one.dense()[0, 0], weights[:, [0, 2]].mean((0, 1)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(one.received(), maps.received(None, [0, 2]), atol=1e-5, rtol=1e-4)
    assert band(one)[1] == min(band(maps, None, [0, 2])[1], case.shape[1] - 1)


def test_units_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, _ = maps_of(small_case())
    with pytest.raises(ValueError, match="units are of 39 tokens, the maps of 40"):
        unit_attention(maps, Units.of(range(39)))
    with pytest.raises(ValueError, match="Give at least one"):
        maps.given_by(slice(0, 0))
    monkeypatch.setattr("longformer_plus.attention_maps.units.MOST_ENTRIES", 1599)
    with pytest.raises(ValueError, match="40 units has 1,600 entries"):
        unit_attention(maps, Units.of(range(40)))
