"""FlexAttention: its block mask against the oracle, the compiled kernel, and what happens where it cannot run.

The gradients, which it has on GPUs only, are tested in test_gpu.py.
"""

from __future__ import annotations

import time
from functools import partial
from itertools import product
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._dynamo.utils import counters

from longformer_plus import LongformerPlusConfig, LongformerPlusForSequenceClassification, LongformerPlusModel
from longformer_plus.attention import AttentionPattern, eager_local_rows, flex, segments_of

from ..cases import Case, cases, small_config, spread
from ..oracle import who_attends

SMALL_BLOCK = 4


def dense(block_mask: Any) -> tuple[Tensor, Tensor, Tensor]:
    """What the mask allows, and the blocks that it lists in part and wholly, all (M, M) bool."""
    places = torch.arange(block_mask.seq_lengths[0])
    zero = torch.tensor(0)
    allowed = block_mask.mask_mod(zero, zero, places[:, None], places[None, :])

    def listed(counts: Tensor, order: Tensor) -> Tensor:
        blocks = torch.zeros_like(order[0, 0], dtype=torch.bool)
        blocks.scatter_(1, order[0, 0].long(), torch.arange(order.shape[-1]) < counts[0, 0, :, None])
        return blocks.repeat_interleave(SMALL_BLOCK, 0).repeat_interleave(SMALL_BLOCK, 1)

    return (
        allowed,
        listed(block_mask.kv_num_blocks, block_mask.kv_indices),
        listed(block_mask.full_kv_num_blocks, block_mask.full_kv_indices),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases(), documents=st.integers(1, 4))
def test_the_block_mask_is_the_pattern(case: Case, documents: int) -> None:
    dilation = max(case.dilation) if isinstance(case.dilation, list) else case.dilation
    generator = torch.Generator().manual_seed(case.seed)
    ids = torch.randint(0, documents, case.shape, generator=generator).sort(dim=1).values
    segments = segments_of(ids)
    pattern = AttentionPattern.build(
        case.valid, case.is_global, case.valid, keep_empty=False, segments=segments, is_causal=case.is_causal
    )
    with mock.patch.object(flex, "_BLOCK", SMALL_BLOCK):
        allowed, partial, full = dense(flex.build_block_mask(pattern, case.window, dilation))
        tokens = torch.arange(1, case.valid.numel() + 1).view(case.shape)
        order = flex._in_line(tokens, dilation) - 1  # the token at each place, -1 for none
    local, _ = who_attends(case.valid, case.is_global, case.window, dilation, case.is_causal, segments)
    among_all = torch.block_diag(*local).bool()  # of one row with tokens of others: never

    expected = among_all[order][:, order] & (order >= 0) & (order >= 0)[:, None]
    is_query = (order >= 0) & (case.valid & ~case.is_global).flatten()[order]  # (M): rows that are computed here
    assert torch.equal(allowed[is_query], expected[is_query])
    assert not (partial & full).any()
    assert not (expected & ~partial & ~full)[is_query].any()
    assert not (full & ~expected)[is_query].any()


def test_the_block_mask_of_a_long_document_is_small_and_soon_built() -> None:
    tokens, window = 131_072, 512
    is_global = torch.zeros(1, tokens, dtype=torch.bool)
    is_global[0, [0, 70_000]] = True
    pattern = AttentionPattern.build(None, is_global, is_global, keep_empty=False)
    start = time.perf_counter()
    mask = flex.build_block_mask(pattern, window, 1)
    assert time.perf_counter() - start < 20
    visited = mask.kv_num_blocks + mask.full_kv_num_blocks
    # The band of 512 tokens, and two blocks with a global token.
    assert visited.max() <= 2 * (window // 2 // 128) + 1 + 2
    assert mask.full_kv_num_blocks.max() == 3
    assert mask.kv_indices.numel() == (tokens // 128) ** 2


def flex_config(**changes: Any) -> LongformerPlusConfig:
    fields = {"model_type": "longformer_plus", "hidden_size": 48, "max_position_embeddings": 1200, **changes}
    return LongformerPlusConfig(**{**small_config().to_dict(), **fields})


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """The compiled functions, for one test alone."""
    counters.clear()
    torch._dynamo.reset()
    monkeypatch.setattr(flex, "_kernels", {})
    return flex._kernels


@pytest.fixture
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "sdpa_local_rows", lambda *_: pytest.fail("FlexAttention did not run"))


@pytest.mark.usefixtures("no_fallback")
def test_the_compiled_kernel_gives_what_eager_gives(kernels: dict[Any, Any]) -> None:
    """Several lengths, patterns and masks; only a new shape may compile, and few shapes do."""
    for changes in ({"attention_window": [64, 256]}, {"attention_window": 64, "attention_dilation": [1, [1, 2, 2]]}):
        for is_causal in (False, True):
            config = flex_config(is_causal=is_causal, **changes)
            model = spread(LongformerPlusModel(config, add_pooling_layer=False).eval())
            for batch, tokens in ((1, 40), (2, 300), (2, 511), (1, 1000)):
                generator = torch.Generator().manual_seed(tokens)
                ids = torch.randint(3, 60, (batch, tokens), generator=generator)
                valid = torch.ones_like(ids)
                valid[-1, tokens - tokens // 3 :] = 0
                mask = torch.randint(0, 40, ids.shape, generator=generator) == 0
                results = {}
                for backend in ("eager", "flex_attention"):
                    model.set_attn_implementation(backend)
                    with torch.no_grad():
                        results[backend] = model(ids, valid, mask.long()).last_hidden_state[valid > 0]
                torch.testing.assert_close(results["flex_attention"], results["eager"], atol=2e-5, rtol=1e-4)
    # Three numbers of heads, causal and not: each compiled for its first length, then for any.
    assert len(kernels) == 6
    assert 0 < counters["stats"]["unique_graphs"] <= 12, counters["stats"]


def rows(tokens: int = 50, heads: int = 2, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Query, key and value."""
    return list(torch.randn(3, 1, tokens, heads, 16, generator=torch.Generator().manual_seed(0)).to(dtype))


def pattern_of(query: Tensor, is_causal: bool = False) -> AttentionPattern:
    is_global = torch.zeros(query.shape[:2], dtype=torch.bool)
    is_global[:, 3] = True
    return AttentionPattern.build(None, is_global, query, keep_empty=False, is_causal=is_causal)


@pytest.mark.usefixtures("no_fallback")
def test_every_kind_of_call_stays_inside_the_limit_of_recompilations(
    kernels: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dynamo traces and counts as ever; what it traced is run as it is, which needs no compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    lengths = (40, 300, 700, 1100)
    for heads, dtype, is_causal in product((1, 3), (torch.float32, torch.bfloat16), (False, True)):
        for tokens, window, dilation in zip(lengths, (16, 64, 256, 64), (1, 2, 1, 3), strict=True):
            query, key, value = rows(tokens, heads, dtype)
            pattern = pattern_of(query, is_causal)
            context = flex.flex_local_rows(query, key, value, pattern, window, dilation)[0]
            expected = eager_local_rows(query, key, value, pattern, window, dilation)[0]
            local = ~pattern.is_global[0]
            error = (context.double() - expected.double())[:, local].abs().max()
            assert error < (1e-5 if dtype == torch.float32 else 5e-2)
    assert len(kernels) == 8
    assert all(len(kernel.lengths) >= 3 and kernel.failure is None for kernel in kernels.values())
    assert counters["stats"]["unique_graphs"] <= 2 * 8, counters["stats"]


def test_a_batch_of_no_rows_stops_no_other(kernels: dict[Any, Any]) -> None:
    query, key, value = rows()
    none = [each[:0] for each in (query, key, value)]
    context = flex.flex_local_rows(*none, pattern_of(none[0]), window=16)[0]
    assert context.shape == none[0].shape
    assert not [kernel.failure for kernel in kernels.values() if kernel.failure]
    assert flex.reason_unsupported(query, needs_gradient=False) is None


def test_the_block_mask_is_built_without_reading_from_the_device() -> None:
    batch = torch.empty(2, 700, device="meta")
    for is_causal, dilation in product((False, True), (1, 3)):
        pattern = AttentionPattern.build(
            torch.ones_like(batch, dtype=torch.bool),
            torch.zeros_like(batch, dtype=torch.bool),
            batch,
            keep_empty=True,
            is_causal=is_causal,
            max_global_tokens=2,
        )
        mask = flex.build_block_mask(pattern, 64, dilation)
        assert mask.kv_indices.device.type == mask.q_indices.device.type == "meta"


class TestWhereItCannotRun:
    @pytest.fixture(autouse=True)
    def fresh(self, kernels: dict[Any, Any]) -> None:
        """No test sees the failures of another."""

    def test_dropout_in_training(self, warnings_of_transformers: pytest.LogCaptureFixture) -> None:
        losses = {}
        for backend in ("sdpa", "flex_attention"):
            config = flex_config(attention_probs_dropout_prob=0.3, attn_implementation=backend)
            torch.manual_seed(0)
            model = spread(LongformerPlusForSequenceClassification(config)).train()
            losses[backend] = model(torch.full((1, 40), 5), labels=torch.tensor([1])).loss
        assert losses["flex_attention"] == losses["sdpa"]
        warnings = [r.message for r in warnings_of_transformers.records if "flex_attention" in r.message]
        assert len(warnings) == 1
        assert "no dropout of attention weights" in warnings[0]

    def test_gradients_on_a_cpu(self, warnings_of_transformers: pytest.LogCaptureFixture) -> None:
        model = LongformerPlusForSequenceClassification(flex_config(attn_implementation="flex_attention")).train()
        model(torch.full((1, 40), 5), labels=torch.tensor([1])).loss.backward()
        assert model.longformer.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0
        assert "no backward pass on CPUs" in warnings_of_transformers.text

    @pytest.mark.parametrize("learned", [0, 1, 2])
    def test_gradients_of_one_projection_on_a_cpu(self, learned: int, kernels: dict[Any, Any]) -> None:
        """As where an adapter is on the keys alone."""
        query, key, value = rows()
        (query, key, value)[learned].requires_grad_()
        flex.flex_local_rows(query, key, value, pattern_of(query), 16)[0].sum().backward()
        assert (query, key, value)[learned].grad is not None
        assert not kernels, "tried, although there is no backward pass"

    def test_a_kernel_that_does_not_compile(
        self, monkeypatch: pytest.MonkeyPatch, warnings_of_transformers: pytest.LogCaptureFixture
    ) -> None:
        kernel = mock.Mock(side_effect=TorchDynamoException("no compiler here"))
        monkeypatch.setattr(torch, "compile", lambda function, **options: kernel)
        query, key, value = rows()
        expected, _ = flex.sdpa_local_rows(query, key, value, pattern_of(query), 16)
        for _ in range(2):
            context, _ = flex.flex_local_rows(query, key, value, pattern_of(query), 16)
            assert torch.equal(context[:, 4:], expected[:, 4:])
        assert kernel.call_count == 1
        assert warnings_of_transformers.text.count("does not compile here (no compiler here)") == 1

    def test_a_failure_stops_neither_other_kinds_nor_lengths_that_have_run(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ran = []

        def kernel(query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Tensor:
            if query.shape[1] == 2 and query.shape[2] > 512:
                raise FailOnRecompileLimitHit("too long for two heads")
            ran.append(tuple(query.shape[1:3]))
            return torch.zeros_like(query)

        monkeypatch.setattr(torch, "compile", lambda function, **options: kernel)
        for heads, tokens in ((2, 300), (2, 600), (2, 300), (2, 800), (3, 600), (2, 100)):
            query, key, value = rows(tokens, heads)
            flex.flex_local_rows(query, key, value, pattern_of(query), 16)
        # The lengths in blocks: 600 and 800 tokens of two heads were left to sdpa, and then what had not run before.
        assert ran == [(2, 512), (2, 512), (3, 768)]

    def test_other_errors_are_not_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kernel = mock.Mock(side_effect=torch.OutOfMemoryError("out of memory"))
        monkeypatch.setattr(torch, "compile", lambda function, **options: kernel)
        query, key, value = rows()
        with pytest.raises(torch.OutOfMemoryError):
            flex.flex_local_rows(query, key, value, pattern_of(query), 16)
