"""Linear layers by oneDNN give what torch's own give: values, every gradient, and the cases left to torch."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from longformer_plus.ops import apply_linear, linear

# Without its cache, and before a test says that any processor will do.
_asks_for_the_processor = linear._is_amd_with_avx512.__wrapped__


@pytest.fixture(autouse=True)
def on_any_processor() -> Any:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch is built without oneDNN")
    with mock.patch.object(linear, "_is_amd_with_avx512", return_value=True):
        yield


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 12), min_size=0, max_size=3),
    features=st.tuples(st.sampled_from([64, 200, 768]), st.sampled_from([256, 300, 1000])),
    is_strided=st.booleans(),
    trained=st.sets(st.sampled_from(["rows", "weight", "bias"])),
)
def test_values_and_gradients_are_those_of_torch(
    shape: list[int], features: tuple[int, int], is_strided: bool, trained: set[str]
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(*features)
    layer.weight.requires_grad_("weight" in trained)
    layer.bias.requires_grad_("bias" in trained)
    rows = torch.randn(*shape, features[0])
    if is_strided and len(shape) > 1:
        rows = rows.transpose(0, -2).contiguous().transpose(0, -2)
    grad = torch.randn(*shape, features[1])
    results = []
    for function in (layer, lambda x: apply_linear(layer, x)):
        layer.zero_grad()
        x = rows.detach().requires_grad_("rows" in trained)
        out = function(x)
        assert out.requires_grad == bool(trained)
        if trained:
            out.backward(grad)
        results.append([out, x.grad, layer.weight.grad, layer.bias.grad])
    for expected, ours in zip(*results, strict=True):
        assert (expected is None) == (ours is None)
        if expected is not None:
            torch.testing.assert_close(ours, expected, atol=2e-4, rtol=1e-4)


def test_onednn_is_called() -> None:
    layer, rows = nn.Linear(256, 256), torch.randn(3, 256)
    with mock.patch.object(linear, "multiply", wraps=linear.multiply) as multiply:
        apply_linear(layer, rows).sum().backward()
    # Nothing to pass on to the rows: once forward, once for the weight.
    assert multiply.call_count == 2


def test_a_torch_without_the_private_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(linear.Path, "read_text", lambda path: "AuthenticAMD")
    assert _asks_for_the_processor()
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not _asks_for_the_processor()


def test_a_torch_that_does_not_say_whether_there_are_global_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.nn.modules.module, "_has_any_global_hook")
    assert not linear.is_plain_linear(nn.Linear(256, 256))


def test_error_is_that_of_float32() -> None:
    """No lower precision inside, whose error would be a thousand times that of torch's own."""
    torch.manual_seed(0)
    layer, rows = nn.Linear(3072, 768), torch.randn(500, 3072)
    exact = torch.nn.functional.linear(rows.double(), layer.weight.double(), layer.bias.double())
    with torch.no_grad():
        ours, theirs = (
            (out.double() - exact).square().mean().sqrt() for out in (apply_linear(layer, rows), layer(rows))
        )
    assert ours <= 4 * theirs


def hooked(layer: nn.Linear) -> nn.Linear:
    layer.register_forward_hook(lambda module, inputs, output: output + 1)
    return layer


def with_own_forward(layer: nn.Linear) -> nn.Linear:
    layer.forward = lambda x: nn.Linear.forward(layer, x) + 1  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        hooked(nn.Linear(256, 256)),
        with_own_forward(nn.Linear(256, 256)),
        nn.Sequential(nn.Linear(256, 256)),
        nn.Linear(256, 256, bias=False),
        nn.Linear(256, 256).double(),
        nn.Linear(256, 256).bfloat16(),
        nn.Linear(256, 2),
    ],
    ids=["hook", "own forward", "not linear", "no bias", "float64", "bfloat16", "small"],
)
def test_what_is_left_to_torch(layer: nn.Module) -> None:
    rows = torch.randn(3, 256, dtype=next(layer.parameters()).dtype)
    with mock.patch.object(linear, "multiply", side_effect=AssertionError):
        assert torch.equal(apply_linear(layer, rows), layer(rows))


def test_autocast_and_tracing_are_left_to_torch() -> None:
    layer, rows = nn.Linear(256, 256), torch.randn(3, 256)
    with mock.patch.object(linear, "multiply", side_effect=AssertionError):
        with torch.autocast("cpu", torch.bfloat16):
            assert apply_linear(layer, rows).dtype == torch.bfloat16
        program = torch.export.export(Wrapped(layer), (rows,))
    torch.testing.assert_close(program.module()(rows), layer(rows))


class Wrapped(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return apply_linear(self.layer, rows)
