"""Linear layers in int8: what rounding costs, that rows stay by themselves, and both ways of the product."""

from __future__ import annotations

import copy
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation

from longformer_plus.ops import feed_forward, int8, processor
from longformer_plus.ops.int8 import CENTRED, ONE_SIDED, Int8Linear, quantize_once, quantize_rows


@pytest.fixture
def on_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply by the operator, which is exact on every processor for the small weights of `small_layer`."""
    if not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        pytest.skip("this torch has no quantised linear")
    monkeypatch.setattr(int8, "onednn_is_exact", lambda: True)


@pytest.fixture
def without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "onednn_is_exact", lambda: False)


def linear(num_in: int = 48, num_out: int = 20) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(num_in, num_out)


def small_layer(num_in: int = 48, num_out: int = 20, zero_point: int = CENTRED) -> Int8Linear:
    layer = Int8Linear.of(linear(num_in, num_out), zero_point)
    layer.weight = layer.weight // 2  # beyond 64, 16 bits overflow on processors without VNNI
    return layer


def dequantised(rows: Tensor, zero_point: int) -> Tensor:
    quantized = quantize_rows(rows, zero_point)
    return (quantized.values.float() - zero_point) * quantized.step


@pytest.mark.parametrize("zero_point", [CENTRED, ONE_SIDED])
def test_rows_are_rounded_to_the_nearest_level(zero_point: int) -> None:
    rows = torch.randn(50, 96) * torch.logspace(-4, 4, 50)[:, None]
    rows[0], rows[1, ::2] = 0.0, 0.0
    quantized = quantize_rows(rows, zero_point)
    error = (dequantised(rows, zero_point) - rows).abs()
    assert bool((error <= quantized.step * 0.5001).all())
    assert bool((dequantised(rows, zero_point)[rows == 0] == 0).all())
    extremes = quantized.values[1:].amin(1).eq(0) | quantized.values[1:].amax(1).eq(255)
    assert bool(extremes.all()), "levels are not used"


def test_a_row_does_not_depend_on_the_others() -> None:
    layer = Int8Linear.of(linear())
    rows = torch.randn(4, 6, 48)
    rows[2] *= 1000
    assert torch.equal(layer(rows)[1, 3:5], layer(rows[1, 3:5]))


@pytest.mark.parametrize("in_bfloat16", [False, True])
def test_rows_do_not_depend_on_the_pieces_that_they_are_in(in_bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "multiplies_bfloat16", lambda: in_bfloat16)
    widen, narrow = Int8Linear.of(linear(), feeds_attention=True), Int8Linear.of(linear(20, 48), ONE_SIDED)
    rows, activation = torch.randn(2, 37, 48), GELUActivation()
    whole = widen(rows), feed_forward(rows, widen, activation, narrow)
    monkeypatch.setattr(int8, "_CACHED_BYTES", 4 * 48 * 5)
    for want, have in zip(whole, (widen(rows), feed_forward(rows, widen, activation, narrow)), strict=True):
        assert torch.equal(have, want)


def test_the_activation_stays_in_int8_unless_it_is_observed() -> None:
    widen, narrow = Int8Linear.of(linear()), Int8Linear.of(linear(20, 48), ONE_SIDED)
    rows, activation = torch.randn(2, 5, 48), GELUActivation()
    want = narrow(activation(widen(rows)))
    assert torch.equal(feed_forward(rows, widen, activation, narrow), want)
    for module, shape in ((activation, (2, 5, 20)), (narrow, (2, 5, 20)), (widen, (2, 5, 48))):
        seen: list[torch.Size] = []
        hook = module.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0].shape))
        assert torch.equal(feed_forward(rows, widen, activation, narrow), want)
        assert seen == [shape]
        hook.remove()


def test_values_that_are_not_finite_stay_in_their_row() -> None:
    layer, rows = Int8Linear.of(linear()), torch.randn(5, 48)
    want = layer(rows)
    rows[1, 3], rows[3, 0] = float("nan"), float("inf")
    have = layer(rows)
    assert not have[[1, 3]].isfinite().any()
    assert torch.equal(have[[0, 2, 4]], want[[0, 2, 4]])


@pytest.mark.parametrize("zero_point", [CENTRED, ONE_SIDED])
def test_it_is_close_to_the_float_layer(zero_point: int) -> None:
    plain, rows = linear(256, 64).requires_grad_(False), torch.randn(3, 20, 256)
    if zero_point == ONE_SIDED:
        rows = torch.nn.functional.gelu(2 * rows)
    want, have = plain(rows), Int8Linear.of(plain, zero_point)(rows)
    assert have.shape == want.shape
    assert float((have - want).norm() / want.norm()) < 0.012


@pytest.mark.parametrize(("num_in", "num_out"), [(3, 2), (48, 20), (130, 257)])
@pytest.mark.parametrize("zero_point", [CENTRED, ONE_SIDED])
def test_both_products_give_the_same_numbers(
    num_in: int, num_out: int, zero_point: int, on_onednn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = small_layer(num_in, num_out, zero_point)
    for shape in ((0, num_in), (1, num_in), (2, 37, num_in)):
        rows = torch.randn(shape)
        by_onednn = layer(rows)
        assert layer._packed is not None
        with monkeypatch.context() as patch:
            patch.setattr(int8, "onednn_is_exact", lambda: False)
            torch.testing.assert_close(layer(rows), by_onednn, rtol=1e-5, atol=1e-5)
            assert layer._packed is None


def test_packed_weights_are_saved_copied_and_moved(on_onednn: None) -> None:
    layer, rows = small_layer(), torch.randn(5, 48)
    weight, want = layer.weight.clone(), layer(rows)
    assert layer._packed is not None
    assert torch.equal(layer.state_dict()["weight"], weight)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.to("cpu")):
        assert torch.equal(other.weight, weight)
        assert torch.equal(other(rows), want)
    other = Int8Linear(48, 20)
    other(rows)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(rows), want)


def test_threads_pack_the_weights_once(on_onednn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, rows, made = small_layer(), torch.randn(5, 48), []
    want = layer(rows)
    layer = small_layer()
    prepack = torch.ops.onednn.qlinear_prepack

    def slowly(weight: Tensor, shape: object) -> Tensor:
        made.append(weight)
        time.sleep(0.1)
        return prepack(weight, shape)

    monkeypatch.setattr(torch.ops.onednn, "qlinear_prepack", slowly)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(layer, [rows] * 3))
    assert len(made) == 1
    assert all(torch.equal(result, want) for result in results)


def test_half_precision_keeps_the_scales() -> None:
    layer = Int8Linear.of(linear())
    scale, rows = layer.weight_scale.clone(), torch.randn(5, 48)
    want = layer(rows)
    layer.to(torch.bfloat16)
    assert torch.equal(layer.weight_scale, scale)
    have = layer(rows.bfloat16())
    assert have.dtype == torch.bfloat16
    torch.testing.assert_close(have.float(), want, rtol=0.02, atol=0.02)


def test_what_feeds_attention_is_bfloat16_where_the_processor_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, rows = Int8Linear.of(linear(), feeds_attention=True), torch.randn(5, 48)
    for has_it, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(int8, "multiplies_bfloat16", lambda has_it=has_it: has_it)
        assert layer(rows).dtype == dtype


def test_an_inexact_or_missing_operator_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(values: Tensor, zero_point: int, packed: Tensor, weight_scale: Tensor) -> Tensor:
        pairs = values.float()[:, None] * weight  # (R, O, I)
        sums = pairs.unflatten(-1, (-1, 2)).sum(-1).clamp(-(2**15), 2**15 - 1)
        return sums.sum(-1) - zero_point * weight.sum(-1)

    def missing(*args: object) -> Tensor:
        raise AttributeError("'_OpNamespace' 'onednn' object has no attribute 'qlinear_pointwise'")

    weight = torch.empty(0)

    def keep(given: Tensor, shape: object) -> Tensor:
        nonlocal weight
        weight = given.float()
        return given

    exact = int8.onednn_is_exact.__wrapped__
    monkeypatch.setattr(torch.ops.onednn, "qlinear_prepack", keep, raising=False)
    monkeypatch.setattr(int8, "_multiply", lambda values, zero, *_: (values.float() - zero) @ weight.T)
    assert exact()
    monkeypatch.setattr(int8, "_multiply", saturating)
    assert not exact()
    monkeypatch.setattr(int8, "_multiply", missing)
    assert not exact()


def test_layers_share_their_quantised_input_unless_one_is_observed(without_onednn: None) -> None:
    first, second = Int8Linear.of(linear()), Int8Linear.of(linear(48, 30))
    rows = torch.randn(2, 5, 48)
    shared = quantize_once(rows, first, second)
    assert not isinstance(shared, Tensor)
    assert torch.equal(first(shared), first(rows))
    assert torch.equal(second(shared), second(rows))
    seen: list[torch.Size] = []
    second.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    assert quantize_once(rows, first, second) is rows
    assert quantize_once(rows, first, linear()) is rows


def test_gradients_are_refused_rather_than_lost() -> None:
    layer, rows = Int8Linear.of(linear()), torch.randn(5, 48, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"torch.no_grad\(\)"):
        layer(rows)
    with torch.no_grad():
        assert layer(rows).shape == (5, 20)


def test_features_of_the_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    features = processor.processor_features.__wrapped__
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True, "amx_bf16": False}, raising=False)
    assert [name for name, has in features().items() if has] == ["VNNI"]
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    assert not any(features().values())
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx_vnni amx_int8 avx512f\nbugs\t: amx_bf16\n")
    assert [name for name, has in features().items() if has] == ["VNNI", "AMX-INT8"]
