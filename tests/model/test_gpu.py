"""What only a GPU does: each backend there, in each dtype, against the oracle, with every gradient; what runs by
default; what a forward reads from the device, and what it keeps there.

FlexAttention must run where it is asked for: sdpa in its place fails a test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from longformer_plus import LongformerPlusConfig, LongformerPlusForSequenceClassification, LongformerPlusModel
from longformer_plus.attention import AttentionPattern, auto, flex, sdpa_local_rows
from longformer_plus.model.layers import LongformerPlusSelfAttention

from ..cases import small_config, spread
from ..oracle import self_attention

pytestmark = pytest.mark.gpu

HEADS, WIDTH = 4, 128
BACKENDS = ("eager", "sdpa", "flex_attention")


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "sdpa_local_rows", lambda *_: pytest.fail("FlexAttention did not run"))


def model_on_gpu(backend: str | None, model_class: Callable[..., Any] = LongformerPlusModel, **changes: Any) -> Any:
    """A small model with a head size that every backend has kernels for; the default backend for None."""
    fields = {**small_config(hidden_size=96, attention_window=[64, 128]).to_dict(), "model_type": "longformer_plus"}
    config = LongformerPlusConfig(**{**fields, "attn_implementation": backend, **changes})
    return spread(model_class(config), scale=0.1).eval().cuda()


def padded_batch(lengths: tuple[int, ...] = (300, 120, 17), seed: int = 0) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and `global_attention_mask`, (B, N) each: two global tokens in each row."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 60, (len(lengths), max(lengths)), generator=generator)
    valid = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    is_global = torch.zeros_like(ids)
    is_global[:, [0, 5 + seed]] = 1
    batch = {"input_ids": ids.masked_fill(valid == 0, 1), "attention_mask": valid, "global_attention_mask": is_global}
    return {name: tensor.cuda() for name, tensor in batch.items()}


@pytest.mark.parametrize("dilation", [1, 2, [1, 4, 1, 4]], ids=str)
@pytest.mark.parametrize("is_causal", [False, True], ids=["both ways", "causal"])
@pytest.mark.parametrize(("tokens", "window"), [(40, 64), (129, 64), (700, 128), (1000, 512)])
@pytest.mark.parametrize("num_global", [0, 3, 40])
def test_outputs_and_every_gradient_match_the_oracle(
    tokens: int, window: int, num_global: int, is_causal: bool, dilation: int | list[int]
) -> None:
    valid = torch.ones(2, tokens, dtype=torch.bool)
    valid[1, tokens - tokens // 4 :] = False
    generator = torch.Generator().manual_seed(tokens)
    is_global = torch.zeros_like(valid)
    is_global[:, torch.randperm(tokens, generator=generator)[:num_global]] = True
    hidden = torch.randn(2, tokens, WIDTH, generator=generator)
    grad = torch.randn(2, tokens, WIDTH, generator=generator, dtype=torch.float64)
    errors: dict[tuple[str, torch.dtype], dict[str, float]] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for backend in BACKENDS:
            config = LongformerPlusConfig(
                hidden_size=WIDTH,
                num_attention_heads=HEADS,
                num_hidden_layers=1,
                intermediate_size=8,
                attention_window=window,
                attention_dilation=[dilation],
                is_causal=is_causal,
                attention_probs_dropout_prob=0.0,
                attn_implementation=backend,
            )
            layer = spread(LongformerPlusSelfAttention(config, 0), scale=0.1).to("cuda", dtype)
            rows = hidden.to("cuda", dtype, copy=True).requires_grad_()
            pattern = AttentionPattern.build(valid.cuda(), is_global.cuda(), rows, keep_empty=True, is_causal=is_causal)
            context = layer(rows, pattern)[0]
            context.backward(grad.to("cuda", dtype))

            exact = hidden.to(dtype).double().requires_grad_()
            weights = {name: p.detach().cpu().double().requires_grad_() for name, p in layer.named_parameters()}
            expected = self_attention(
                exact, weights, HEADS, valid, is_global, window, dilation=dilation, causal=is_causal
            ).context
            expected.backward(grad)
            pairs = {"context": (context.detach(), expected.detach()), "hidden": (rows.grad, exact.grad)}
            for name, parameter in layer.named_parameters():
                wanted = weights[name].grad
                pairs[name] = (parameter.grad, torch.zeros_like(weights[name]) if wanted is None else wanted)
            errors[backend, dtype] = {
                name: root_mean_square(ours.cpu().double() - theirs) / max(root_mean_square(theirs), 1.0)
                for name, (ours, theirs) in pairs.items()
            }
            assert all(error == error for error in errors[backend, dtype].values()), "NaN"
    for backend in BACKENDS:
        assert max(errors[backend, torch.float32].values()) < 1e-3, (backend, errors[backend, torch.float32])
        for dtype in (torch.bfloat16, torch.float16):
            for name, error in errors[backend, dtype].items():
                least = torch.finfo(dtype).eps
                assert error <= 2 * max(errors["eager", dtype][name], least), (backend, dtype, name)


def root_mean_square(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


@pytest.mark.parametrize("backend", BACKENDS)
def test_unpadded_batches_and_packed_documents(backend: str) -> None:
    model = model_on_gpu(backend)
    batch = padded_batch()
    ids, valid, mask = batch.values()
    lengths = valid.sum(1).tolist()
    with torch.no_grad():
        alone = [
            model(ids[row : row + 1, :n], None, mask[row : row + 1, :n]).last_hidden_state[0]
            for row, n in enumerate(lengths)
        ]
        unpadded = model(**batch).last_hidden_state[valid > 0]
        documents = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).cuda()[None]
        packed = model(ids[valid > 0][None], None, mask[valid > 0][None], document_ids=documents).last_hidden_state[0]
    torch.testing.assert_close(unpadded, torch.cat(alone), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-4, rtol=1e-3)


def test_flex_attention_is_compiled_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(flex, "_kernels", {})
    model = model_on_gpu("flex_attention")
    for tokens in (50, 128, 200, 300, 400, 500, 550):
        with torch.no_grad():
            model(torch.randint(3, 60, (1, tokens), device="cuda"))
    (kernel,) = flex._kernels.values()
    assert kernel.lengths == {256, 512, 768}
    assert 0 < counters["stats"]["unique_graphs"] <= 2


def test_flex_attention_gives_what_sdpa_gives_in_bfloat16() -> None:
    batch = padded_batch((2000, 1500))
    states = {}
    for backend, dtype in (("sdpa", torch.float32), ("sdpa", torch.bfloat16), ("flex_attention", torch.bfloat16)):
        model = model_on_gpu(backend, max_position_embeddings=2048).to(dtype)
        with torch.no_grad():
            states[backend, dtype] = model(**batch).last_hidden_state[batch["attention_mask"] > 0].float()
    exact = states["sdpa", torch.float32]
    error, error_of_sdpa = (
        root_mean_square(states[backend, torch.bfloat16] - exact) for backend in ("flex_attention", "sdpa")
    )
    assert 0 < error <= 1.5 * error_of_sdpa < 0.1 * root_mean_square(exact)


def test_nobodys_choice_is_flex_attention_beyond_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_on_gpu(None, attention_window=64, num_attention_heads=3)
    assert model.config._attn_implementation == "auto"
    ran = []
    for name in ("flex", "sdpa"):
        local_rows = getattr(auto, f"{name}_local_rows")
        monkeypatch.setattr(
            auto, f"{name}_local_rows", lambda *rows, run=local_rows, name=name: ran.append(name) or run(*rows)
        )
    with torch.no_grad():
        model(torch.full((1, 65), 5, device="cuda"))
        model(torch.full((1, 64), 5, device="cuda"))
    assert ran == ["flex", "flex", "sdpa", "sdpa"]


@pytest.mark.parametrize("model_class", [LongformerPlusModel, LongformerPlusForSequenceClassification])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forward_reads_nothing_from_the_device(backend: str, model_class: type) -> None:
    model = model_on_gpu(backend, model_class, unpad_inputs=False)
    batch = padded_batch()
    with torch.no_grad():
        expected = model(**batch, max_global_tokens=2)[0]  # compiles, and loads kernels
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = model(**batch, max_global_tokens=2)[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forward_is_captured_in_a_cuda_graph(backend: str) -> None:
    model = model_on_gpu(backend, unpad_inputs=False)
    static = padded_batch()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad():
        with torch.cuda.stream(stream):
            for _ in range(3):
                model(**static, max_global_tokens=2)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            states = model(**static, max_global_tokens=2).last_hidden_state
        for seed, lengths in ((1, (300, 80, 200)), (2, (12, 300, 299))):
            batch = padded_batch(lengths, seed)
            for name, tensor in batch.items():
                static[name].copy_(tensor)
            graph.replay()
            torch.testing.assert_close(
                states, model(**batch, max_global_tokens=2).last_hidden_state, atol=1e-5, rtol=1e-4
            )


def test_sdpa_keeps_its_inputs_and_its_context_for_the_backward_pass() -> None:
    tokens, heads, head_size, window = 8192, 12, 64, 512
    rows = torch.randn(3, 1, tokens, heads, head_size, device="cuda", dtype=torch.bfloat16)
    query, key, value = (each.clone().requires_grad_() for each in rows)
    is_global = torch.zeros(1, tokens, dtype=torch.bool, device="cuda")
    is_global[:, 0] = True
    pattern = AttentionPattern.build(None, is_global, query, keep_empty=False)
    sdpa_local_rows(query, key, value, pattern, window)  # what the layers share is built, and is not counted
    held = torch.cuda.memory_allocated()
    context, _ = sdpa_local_rows(query, key, value, pattern, window)
    kept = torch.cuda.memory_allocated() - held
    context_bytes = query.numel() * query.element_size()
    assert kept <= context_bytes + 16 * tokens * heads + 2**20, f"{kept / context_bytes:.1f} times the context"
    context.sum().backward()
    assert query.grad is not None
