"""Attention maps against the dense float64 oracle: slices, links, statistics, rollout, pictures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from longformer_plus import LongformerPlusConfig, LongformerPlusModel
from longformer_plus.attention_maps import (
    AttentionMaps,
    band,
    band_picture,
    compact,
    global_picture,
    strongest_links,
)
from longformer_plus.attention_maps.compact import CompactWeights

from ..cases import Case, cases
from ..oracle import OracleResult, self_attention, windowed

HEADS, WIDTH = 3, 12
PROFILE = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def oracle_of(case: Case, seed: int = 0) -> tuple[OracleResult, Tensor]:
    """Random weights and states, strong enough for attention that is far from uniform; and who is global."""
    generator = torch.Generator().manual_seed(case.seed + seed)
    weights = {}
    for name in ("query", "key", "value", "query_global", "key_global", "value_global"):
        weights[f"{name}.weight"] = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64) / 2
        weights[f"{name}.bias"] = torch.randn(WIDTH, generator=generator, dtype=torch.float64)
    hidden = torch.randn(*case.shape, WIDTH, generator=generator, dtype=torch.float64)
    is_global = case.is_global & case.valid
    result = self_attention(
        hidden,
        weights,
        HEADS,
        case.valid,
        is_global,
        case.window,
        dilation=case.dilation,
        causal=case.is_causal,
    )
    return result, is_global


def maps_of(case: Case, row: int = 0, layers: int = 1, bits: int = 32) -> tuple[AttentionMaps, Tensor]:
    """A document's maps, built from the oracle's weights in the models' layout, and the dense weights (L, H, N, N)."""
    results = [oracle_of(case, seed) for seed in range(layers)]
    is_global = results[0][1]
    laid_out = [windowed(result, is_global, case.window, case.dilation) for result, _ in results]
    outputs = SimpleNamespace(
        attentions=tuple(local.float() for local, _ in laid_out),
        global_attentions=tuple(global_.float() for _, global_ in laid_out) if bool(is_global.any()) else None,
    )
    config = LongformerPlusConfig(
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        hidden_size=WIDTH,
        attention_window=case.window,
        attention_dilation=[case.dilation] * layers,
        is_causal=case.is_causal,
    )
    maps = AttentionMaps.from_outputs(outputs, config, case.valid.long(), is_global.long(), row, bits)
    return maps, torch.stack([result.local[row] + result.global_[row] for result, _ in results]).float()


def small_case(tokens: int = 40, global_positions: tuple[int, ...] = (0, 7), **changes: Any) -> Case:
    is_global = torch.zeros(1, tokens, dtype=torch.bool)
    is_global[0, list(global_positions)] = True
    return Case(
        **{"valid": torch.ones(1, tokens, dtype=torch.bool), "is_global": is_global, "window": 8, **changes, "seed": 3}
    )


@PROFILE
@given(case=cases())
def test_dense_slices_are_the_oracles(case: Case) -> None:
    for row in range(case.shape[0]):
        maps, expected = maps_of(case, row, layers=2)
        torch.testing.assert_close(maps.dense(), expected)
        generator = torch.Generator().manual_seed(case.seed)
        rows, columns = (torch.randint(case.shape[1], (5,), generator=generator) for _ in range(2))
        torch.testing.assert_close(maps.dense(1, [2, 0], rows, columns), expected[1:, [2, 0]][:, :, rows][..., columns])
        torch.testing.assert_close(maps.mean(None, [1, 2], rows), expected[:, [1, 2]].mean((0, 1))[rows])


@PROFILE
@given(case=cases())
def test_statistics_are_those_of_the_dense_weights(case: Case) -> None:
    maps, weights = maps_of(case)
    positions = torch.arange(case.shape[1])
    apart = (positions[:, None] - positions).abs()
    valid, is_global = case.valid[0], (case.is_global & case.valid)[0]
    torch.testing.assert_close(maps.received(0, 1), weights[0, 1].sum(0), atol=1e-5, rtol=1e-5)
    if not bool(valid.any()):
        return
    for got, by_row in (
        (maps.entropy(), torch.special.entr(weights).sum(-1)),
        (maps.mean_distance(), (weights * apart).sum(-1)),
        (maps.global_share(), weights[..., is_global].sum(-1)),
    ):
        torch.testing.assert_close(got, by_row[..., valid].mean(-1), atol=1e-4, rtol=1e-4)


@PROFILE
@given(case=cases(), data=st.data())
def test_links_of_a_token(case: Case, data: st.DataObject) -> None:
    maps, weights = maps_of(case, layers=2)
    token = data.draw(st.integers(0, case.shape[1] - 1))
    is_global = (case.is_global & case.valid)[0]
    mean = weights.mean((0, 1))
    outward, inward = maps.links(token), maps.links(token, "from", top_k=3)
    torch.testing.assert_close(outward.weights, mean[token])
    torch.testing.assert_close(inward.weights, mean[:, token])
    # A global token's own row is global throughout.
    expected = mean[token].sum() if is_global[token] else mean[token][is_global].sum()
    assert outward.global_ == pytest.approx(float(expected), abs=1e-4)
    expected = mean[:, token].sum() if is_global[token] else mean[is_global, token].sum()
    assert inward.global_ == pytest.approx(float(expected), abs=1e-4)
    assert inward.local + inward.global_ == pytest.approx(float(mean[:, token].sum()), abs=1e-4)
    for link in inward.strongest:
        assert link.weight == pytest.approx(float(mean[link.position, token]), abs=1e-5)
        assert link.offset == link.position - token
        assert link.is_global == bool(is_global[token] or is_global[link.position])
    strongest = mean[:, token].sort(descending=True).values[:3]
    assert [link.weight for link in inward.strongest] == pytest.approx(strongest[strongest > 0].tolist(), abs=1e-5)


@PROFILE
@given(case=cases(), data=st.data())
def test_rollout_is_the_product_of_the_dense_layers(case: Case, data: st.DataObject) -> None:
    maps, weights = maps_of(case, layers=3)
    places = [place for place in range(case.shape[1]) if case.valid[0, place]]
    if not places:
        return
    token = data.draw(st.sampled_from(places))
    heads = data.draw(st.sampled_from([None, 1, [0, 2]]))
    product = torch.eye(case.shape[1])
    for layer in weights[:, maps.choose_heads(heads)].mean(1):
        product = (layer + torch.eye(case.shape[1])) / 2 @ product
    torch.testing.assert_close(maps.rollout(token, heads), product[token], atol=1e-5, rtol=1e-4)
    assert float(maps.rollout(token, heads).sum()) == pytest.approx(1, abs=1e-4)


@PROFILE
@given(case=cases())
def test_the_band_holds_the_windows(case: Case) -> None:
    maps, weights = maps_of(case, layers=2)
    is_global = (case.is_global & case.valid)[0]
    mean = weights.mean((0, 1)).masked_fill(is_global[:, None] | is_global[None, :], 0.0)
    expected = torch.zeros(case.shape[1], 0)
    values, reach = band(maps)
    padded = torch.nn.functional.pad(mean, (reach, reach))
    expected = torch.stack([padded[i, i : i + 2 * reach + 1] for i in range(case.shape[1])])
    torch.testing.assert_close(values, expected)


@PROFILE
@given(case=cases(), bits=st.sampled_from([8, 16]))
def test_compact_weights_stay_close(case: Case, bits: int) -> None:
    maps, weights = maps_of(case, bits=bits)
    largest = weights.amax(-1, keepdim=True)
    allowed = largest / 255 if bits == 8 else largest * 2**-10 + 1e-7
    assert bool(((maps.dense() - weights).abs() <= allowed + 1e-7).all())
    exact, _ = maps_of(case, bits=32)
    torch.testing.assert_close(maps.entropy(), exact.entropy(), equal_nan=True)


@PROFILE
@given(case=cases())
def test_strongest_links_of_all_tokens(case: Case) -> None:
    maps, weights = maps_of(case)
    places, values = strongest_links(maps, top_k=4)
    mean = weights.mean((0, 1))
    torch.testing.assert_close(values, mean.sort(descending=True).values[:, :4])
    rows = torch.arange(case.shape[1])[:, None]
    torch.testing.assert_close(torch.where(values > 0, mean[rows, places], 0.0), values)


def test_eight_bits_take_a_quarter() -> None:
    weights = torch.rand(3, 50, 513)
    assert CompactWeights.pack(weights, 8).num_bytes == weights.numel() + 4 * 150
    assert CompactWeights.pack(weights, 16).num_bytes == 2 * weights.numel()


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_heads_added_up_in_pieces_are_the_heads_one_by_one(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "_ENTRIES_AT_ONCE", 300)
    weights = CompactWeights.pack(torch.rand(20, 50, 4).permute(2, 1, 0), bits)
    assert weights.codes.is_contiguous() or bits != 8
    heads, rows, columns = [0, 3, 1], slice(4, 47), slice(3, 18)
    one_by_one = torch.stack([weights[head, rows, columns] for head in heads]).sum(0)
    torch.testing.assert_close(weights.total(heads, rows, columns), one_by_one)
    every_other = torch.ones(43, 30)
    weights.total(heads, rows, columns, into=every_other[:, ::2])
    torch.testing.assert_close(every_other[:, ::2], 1 + one_by_one)
    assert bool((every_other[:, 1::2] == 1).all())
    places = torch.tensor([7, 2])
    torch.testing.assert_close(weights.total(heads, columns=places), weights.total(heads)[:, places])


def test_pictures_show_the_largest_of_what_shares_a_pixel() -> None:
    case = small_case(dilation=[1, 3, 1])
    maps, weights = maps_of(case)
    picture = band_picture(maps, heads=1, most_columns=16, most_rows=10)
    windows, reach = band(maps, heads=1)
    assert reach == 12
    assert picture.first_row == 12
    assert (picture.tokens_per_column, picture.rows_per_pixel) == (3, 3)
    assert picture.shades.shape == (9, 14)
    assert picture.largest == pytest.approx(float(windows.max()))
    expected = windows[9:12, 13:16].max()  # tokens 9 to 11, offsets +1 to +3
    assert float(picture.weights()[3, 3]) == pytest.approx(float(expected), abs=picture.largest / 255)
    given, received = global_picture(maps, "from"), global_picture(maps, "to")
    assert given.shades.shape == received.shades.shape == (2, 40)
    mean = weights.mean((0, 1))
    torch.testing.assert_close(given.weights(), mean[[0, 7]], atol=given.largest / 255, rtol=0)
    torch.testing.assert_close(received.weights(), mean[:, [0, 7]].T, atol=received.largest / 255, rtol=0)


def test_a_picture_is_a_png() -> None:
    image = pytest.importorskip("PIL.Image")
    from io import BytesIO

    import numpy

    maps, _ = maps_of(small_case())
    picture = band_picture(maps)
    read = numpy.asarray(image.open(BytesIO(picture.png())))
    assert (read == picture.shades.numpy()).all()


def test_pictures_of_a_document_without_global_tokens() -> None:
    maps, _ = maps_of(small_case(global_positions=()))
    assert global_picture(maps).shades.shape == (0, 40)
    assert maps.links(4).global_ == 0


def test_windows_differ_by_layer_and_padding_is_left_out() -> None:
    config = LongformerPlusConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=16,
        max_position_embeddings=80,
        attention_window=[4, 10],
        attention_dilation=[[1, 1, 2], 3],
    )
    model = LongformerPlusModel(config).eval()
    ids = torch.randint(3, 50, (2, 30))
    valid, chosen = torch.ones_like(ids), torch.zeros_like(ids)
    valid[1, 20:] = 0
    chosen[0, 0] = chosen[1, [2, 5]] = 1
    with torch.no_grad():
        outputs = model(ids, attention_mask=valid, global_attention_mask=chosen, output_attentions=True)
    maps = AttentionMaps.from_outputs(outputs, config, valid, chosen, row=1)
    dense = maps.dense()
    torch.testing.assert_close(dense[..., :20, :].sum(-1), torch.ones(2, 3, 20), atol=5e-3, rtol=0)
    assert not dense[..., 20:, :].any()
    assert not dense[..., 20:].any()
    reached = (dense[:, 2, 12] > 0).nonzero()
    assert reached[reached[:, 0] == 0, 1].tolist() == [2, 5, 8, 10, 12, 14, 16]
    assert reached[reached[:, 0] == 1, 1].tolist() == [0, 2, 3, 5, 6, 9, 12, 15, 18]


def test_wrong_questions_are_refused() -> None:
    maps, _ = maps_of(small_case())
    with pytest.raises(ValueError, match=r"layers=1 .* from 0 to 0"):
        maps.dense(layers=1)
    with pytest.raises(ValueError, match=r"heads=\[0, 3\] .* from 0 to 2"):
        maps.entropy(heads=[0, 3])
    with pytest.raises(ValueError, match=r"token=40 .* positions 0 to 39"):
        maps.links(40)
    with pytest.raises(ValueError, match="direction='sideways'"):
        maps.links(1, "sideways")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(40,\) is"):
        maps.rollout(torch.ones(3))
    with pytest.raises(ValueError, match="bits=4"):
        CompactWeights.pack(torch.ones(2, 2), 4)


def test_a_slice_too_large_to_look_at_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longformer_plus.attention_maps.maps.MOST_ENTRIES", 40 * 40)
    maps, _ = maps_of(small_case())
    assert maps.mean().shape == (40, 40)
    with pytest.raises(ValueError, match=r"3 heads, 40 rows and 40 columns has 4,800 entries"):
        maps.dense()


def test_outputs_that_do_not_fit_are_refused() -> None:
    config = LongformerPlusConfig(num_hidden_layers=1, num_attention_heads=HEADS, hidden_size=WIDTH)
    with pytest.raises(ValueError, match="output_attentions=True"):
        AttentionMaps.from_outputs(SimpleNamespace(attentions=None, global_attentions=None), config)
    outputs = SimpleNamespace(
        attentions=(torch.rand(1, HEADS, 9, 514),), global_attentions=(torch.rand(1, HEADS, 9, 1),)
    )
    with pytest.raises(ValueError, match="1 global columns"):
        AttentionMaps.from_outputs(outputs, config)
    with pytest.raises(ValueError, match=r"attention_mask of shape \(1, 8\)"):
        AttentionMaps.from_outputs(outputs, config, torch.ones(1, 8))
    with pytest.raises(ValueError, match="row=1"):
        AttentionMaps.from_outputs(outputs, config, row=1)
