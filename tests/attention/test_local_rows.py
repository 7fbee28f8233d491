"""One self-attention layer against the dense float64 oracle: outputs, probabilities, every gradient, low precision."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longformer_plus import LongformerPlusConfig
from longformer_plus.attention import AttentionPattern, eager
from longformer_plus.model.layers import LongformerPlusSelfAttention

from ..cases import LOCAL_ROWS, Case, cases, spread
from ..oracle import self_attention, windowed

HEADS, WIDTH = 3, 24
PROFILE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def build(case: Case, backend: str) -> tuple[LongformerPlusSelfAttention, torch.Tensor, AttentionPattern]:
    config = LongformerPlusConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_hidden_layers=1,
        intermediate_size=8,
        attention_window=case.window,
        attention_dilation=[case.dilation],
        is_causal=case.is_causal,
        attention_probs_dropout_prob=0.0,
        attn_implementation=backend,
    )
    layer = spread(LongformerPlusSelfAttention(config, 0), seed=case.seed)
    hidden = torch.randn(*case.shape, WIDTH, generator=torch.Generator().manual_seed(case.seed))
    return (
        layer,
        hidden,
        AttentionPattern.build(case.valid, case.is_global, hidden, keep_empty=False, is_causal=case.is_causal),
    )


def beyond(case: Case) -> dict[str, Any]:
    """What transformers' Longformer lacks."""
    return {"dilation": case.dilation, "causal": case.is_causal}


def weights_of(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().double().requires_grad_() for name, p in layer.named_parameters()}


@PROFILE
@given(case=cases(), backend=st.sampled_from(LOCAL_ROWS))
def test_outputs_and_every_gradient_match_the_oracle(case: Case, backend: str) -> None:
    layer, hidden, pattern = build(case, backend)
    hidden.requires_grad_()
    weights = weights_of(layer)
    exact_hidden = hidden.detach().double().requires_grad_()
    expected = self_attention(
        exact_hidden, weights, HEADS, case.valid, case.is_global, case.window, **beyond(case)
    ).context

    context = layer(hidden, pattern)[0]
    torch.testing.assert_close(context.double(), expected, atol=2e-5, rtol=0)
    assert not context[~case.valid].any()

    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected.backward(grad)
    context.backward(grad.float())
    torch.testing.assert_close(hidden.grad.double(), exact_hidden.grad, atol=5e-4, rtol=1e-4)
    for name, parameter in layer.named_parameters():
        exact = weights[name].grad
        if parameter.grad is None:
            # Without a global token the global projections take no part.
            assert name.split(".")[0].endswith("_global")
            assert not exact.any()
            continue
        scale = max(exact.square().mean().sqrt().item(), 1.0)
        error = (parameter.grad.double() - exact).square().mean().sqrt().item()
        assert error <= 1e-4 * scale, f"{name}: error {error:.2e}, gradient {scale:.2e}"


@PROFILE
@given(case=cases(most_windows=2))
def test_probabilities_have_the_layout_of_the_oracle(case: Case) -> None:
    layer, hidden, pattern = build(case, "eager")
    is_global = case.is_global & case.valid
    result = self_attention(
        hidden.double(), weights_of(layer), HEADS, case.valid, is_global, case.window, **beyond(case)
    )
    local, global_ = windowed(result, is_global, case.window, case.dilation)
    _, probabilities, global_probabilities = layer(hidden, pattern, output_attentions=True)
    assert probabilities.shape == local.shape
    torch.testing.assert_close(probabilities.double(), local, atol=1e-5, rtol=0)
    if is_global.any():
        torch.testing.assert_close(global_probabilities.double(), global_, atol=1e-5, rtol=0)
    else:
        assert global_probabilities is None


@PROFILE
@given(case=cases(), backend=st.sampled_from(LOCAL_ROWS))
def test_head_mask_scales_each_head(case: Case, backend: str) -> None:
    layer, hidden, pattern = build(case, backend)
    head_mask = torch.tensor([0.0, 1.0, 2.5])
    expected = self_attention(
        hidden.double(),
        weights_of(layer),
        HEADS,
        case.valid,
        case.is_global,
        case.window,
        head_mask.double(),
        **beyond(case),
    )
    context = layer(hidden, pattern, head_mask=head_mask)[0]
    torch.testing.assert_close(context.double(), expected.context, atol=4e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@PROFILE
@given(case=cases())
def test_low_precision_error_is_at_most_twice_that_of_eager(dtype: torch.dtype, case: Case) -> None:
    errors = {}
    for backend in LOCAL_ROWS:
        layer, hidden, pattern = build(case, backend)
        layer, hidden = layer.to(dtype), hidden.to(dtype)
        exact = self_attention(
            hidden.double(), weights_of(layer), HEADS, case.valid, case.is_global, case.window, **beyond(case)
        ).context
        errors[backend] = (layer(hidden, pattern)[0].double() - exact).square().mean().sqrt().item()
    # One rounding of the output is the least that any backend makes; with a handful of tokens eager may be luckier.
    rounding = torch.finfo(dtype).eps * exact.square().mean().sqrt().item()
    assert errors["sdpa"] <= 2 * max(errors["eager"], rounding), errors


@pytest.mark.parametrize("backend", LOCAL_ROWS)
@pytest.mark.parametrize("num_global", [3, 200])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("dilation", [1, 2, [1, 4, 1]])
def test_a_long_document_with_few_and_with_many_global_tokens(
    backend: str, num_global: int, is_causal: bool, dilation: int | list[int]
) -> None:
    valid = torch.ones(2, 700, dtype=torch.bool)
    valid[1, 500:] = False
    is_global = torch.zeros_like(valid)
    is_global[:, torch.randperm(700, generator=torch.Generator().manual_seed(0))[:num_global]] = True
    case = Case(valid, is_global, 300, 3, dilation, is_causal)
    layer, hidden, pattern = build(case, backend)
    expected = self_attention(hidden.double(), weights_of(layer), HEADS, valid, is_global, 300, **beyond(case)).context
    torch.testing.assert_close(layer(hidden, pattern)[0].double(), expected, atol=2e-5, rtol=0)


def test_memory_of_a_long_document_is_linear() -> None:
    """Nothing of size N x N is built: at 60,000 tokens one such mask of single bytes would be 3.6 GB."""
    tokens = 60_000
    case = Case(torch.ones(1, tokens, dtype=torch.bool), torch.zeros(1, tokens, dtype=torch.bool), window=32, seed=0)
    case.is_global[0, 0] = True
    for backend in sorted({*LOCAL_ROWS} - {"sdpa dense"}):
        layer, hidden, pattern = build(case, backend)
        with torch.no_grad():
            largest = _largest_tensor(lambda: layer(hidden, pattern))  # noqa: B023
        assert largest <= tokens * HEADS * 300, backend


def _largest_tensor(call: object) -> int:
    """The number of elements of the largest tensor that any operation in `call` gives, views left out."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    Largest.elements = max(Largest.elements, tensor.untyped_storage().size() // tensor.element_size())
            return out

    with Largest():
        call()  # type: ignore[operator]
    return Largest.elements


@PROFILE
@given(case=cases())
def test_heads_one_by_one_are_all_heads_at_once(case: Case) -> None:
    """Of a long document without gradients, each head's weights are gone through while they are in the cache."""
    layer, hidden, pattern = build(case, "eager")
    calls = []

    def counted(query: torch.Tensor, *inputs: Any, **options: Any) -> Any:
        calls.append(query.shape[2])
        return at_once(query, *inputs, **options)

    at_once = eager.eager_local_rows
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        expected = layer(hidden, pattern, output_attentions=True)
        patch.setattr(eager, "_MANY_WEIGHTS", 0)
        patch.setattr(eager, "eager_local_rows", counted)
        found = layer(hidden, pattern, output_attentions=True)
        # A backend is called for the heads of each dilation.
        together = [size for size in Counter(layer.dilations).values() if size > 1]
        assert calls == [1] * sum(together)
        with torch.enable_grad():
            layer(hidden, pattern, output_attentions=True)
        assert len(calls) == sum(together), "gradients flow"
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_dropout_is_drawn_for_all_heads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where gradients flow, so that a recomputed forward draws the same."""
    monkeypatch.setattr(eager, "_MANY_WEIGHTS", 0)
    valid = torch.ones(1, 40, dtype=torch.bool)
    query, key, value = torch.randn(3, 1, 40, HEADS, 8, generator=torch.Generator().manual_seed(0)).unbind()
    pattern = AttentionPattern.build(valid, None, query.flatten(2), keep_empty=False)
    found = []
    for with_gradients in (True, False):
        torch.manual_seed(0)
        with torch.set_grad_enabled(with_gradients):
            found.append(eager.eager_local_rows(query, key, value, pattern, 16, dropout=0.5)[1])
    torch.testing.assert_close(*found)
    assert (found[0] == 0).float().mean() > 0.4
