"""Local rows block by block: their own backward pass and their own dropout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from longformer_plus.attention import AttentionPattern, eager_local_rows
from longformer_plus.attention.blockwise import blockwise_local_rows

WINDOW = 6


def batch(num_tokens: int, head_size: int = 4) -> tuple[list[Tensor], AttentionPattern]:
    generator = torch.Generator().manual_seed(num_tokens)
    rows = [
        torch.randn(2, num_tokens, 3, head_size, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(3)
    ]
    valid = torch.ones(2, num_tokens, dtype=torch.bool)
    valid[0, -3:] = False
    valid[1, 4] = False
    is_global = torch.zeros_like(valid)
    is_global[:, 2] = is_global[1, 0] = True
    return rows, AttentionPattern.build(valid, is_global, rows[0], keep_empty=False)


def local_rows(pattern: AttentionPattern) -> Tensor:
    """(B, N, 1, 1), the rows that local attention is defined for."""
    return (pattern.valid & ~pattern.is_global)[:, :, None, None]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize(("num_tokens", "window"), [(9, WINDOW), (70, WINDOW), (9, 12), (9, 40)])
def test_the_gradients_are_those_of_the_function(num_tokens: int, window: int, dropout: float) -> None:
    rows, pattern = batch(num_tokens)

    def attend(*rows: Tensor) -> Tensor:
        torch.manual_seed(0)
        return torch.where(local_rows(pattern), blockwise_local_rows(*rows, pattern, window, dropout=dropout), 0.0)

    assert torch.autograd.gradcheck(attend, tuple(rows), fast_mode=True)
    assert torch.autograd.gradgradcheck(attend, tuple(rows), fast_mode=True)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("window", [6, 10, 12, 40])
def test_short_documents_with_masked_and_global_tokens(window: int, is_causal: bool) -> None:
    """Also where documents of one length lie apart, with padding between them."""
    rows = [torch.randn(4, 9, 3, 4, dtype=torch.float64) for _ in range(3)]
    valid = torch.ones(4, 9, dtype=torch.bool)
    valid[:2, -3:] = False
    valid[2, 4] = False
    is_global = torch.zeros_like(valid)
    is_global[2:, 0] = is_global[3, 8] = True
    for each in (None, is_global):
        pattern = AttentionPattern.build(valid, each, rows[0], keep_empty=False, is_causal=is_causal)
        wanted = pattern.valid if each is None else pattern.valid & ~each
        context, expected = blockwise_local_rows(*rows, pattern, window), eager_local_rows(*rows, pattern, window)[0]
        torch.testing.assert_close(context[wanted], expected[wanted])


@pytest.mark.parametrize(("window", "calls"), [(40, 1), (12, 4), (6, 0)])
def test_documents_that_fit_into_a_window_are_attended_as_a_whole(
    window: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together where all their tokens see one another, one by one where they do not."""
    rows = [torch.randn(4, 9, 3, 4) for _ in range(3)]
    pattern = AttentionPattern.build(None, None, rows[0], keep_empty=False)
    attention, called = F.scaled_dot_product_attention, []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **b: called.append(a) or attention(*a, **b))
    context = blockwise_local_rows(*rows, pattern, window)
    assert len(called) == calls
    torch.testing.assert_close(context, eager_local_rows(*rows, pattern, window)[0])


def test_weights_are_dropped_or_scaled() -> None:
    """With one-hot values the context is the weights themselves."""
    num_tokens, dropout = 150, 0.25
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, num_tokens, 3, num_tokens, generator=generator, dtype=torch.float64).unbind()
    value = torch.eye(num_tokens, dtype=torch.float64)[None, :, None].expand(-1, -1, 3, -1)
    pattern = AttentionPattern.build(None, None, query, keep_empty=False)
    torch.manual_seed(1)
    plain = blockwise_local_rows(query, key, value, pattern, 64)
    dropped = blockwise_local_rows(query, key, value, pattern, 64, dropout=dropout)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], plain[kept] / (1 - dropout))
    assert abs(kept.sum() / (plain != 0).sum() - (1 - dropout)) < 0.01
    again = blockwise_local_rows(query, key, value, pattern, 64, dropout=dropout)
    assert not torch.equal(again, dropped)
    share_of_each_head = (kept & (plain != 0)).sum((0, 1, 3)) / (plain != 0).sum((0, 1, 3))
    assert ((share_of_each_head - (1 - dropout)).abs() < 0.02).all()


def test_dropout_of_almost_everything_gives_numbers() -> None:
    rows, pattern = batch(20)
    assert blockwise_local_rows(*rows, pattern, WINDOW, dropout=0.9999999).isfinite().all()


def test_checkpointing_draws_the_same_weights_again() -> None:
    rows, pattern = batch(40)

    def gradients(checkpointed: bool) -> list[Tensor]:
        torch.manual_seed(0)

        def attend(*rows: Tensor) -> Tensor:
            return blockwise_local_rows(*rows, pattern, WINDOW, dropout=0.3)

        out = checkpoint(attend, *rows, use_reentrant=False) if checkpointed else attend(*rows)
        return list(torch.autograd.grad((out * local_rows(pattern)).square().sum(), rows))

    for one, other in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_in_half_precision_are_as_good_as_those_of_eager(dtype: torch.dtype) -> None:
    rows, pattern = batch(400, head_size=16)
    grad = torch.randn(rows[0].shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grad = torch.where(local_rows(pattern), grad, 0.0)

    def gradients(attend: object, dtype: torch.dtype) -> list[Tensor]:
        leaves = [row.detach().to(dtype).requires_grad_() for row in rows]
        out = attend(*leaves, pattern, 128)  # type: ignore[operator]
        pattern._shared.clear()
        context = out[0] if isinstance(out, tuple) else out
        return list(torch.autograd.grad(context, leaves, grad.to(dtype)))

    exact = gradients(eager_local_rows, torch.float64)
    eager, ours = gradients(eager_local_rows, dtype), gradients(blockwise_local_rows, dtype)
    for want, theirs, have in zip(exact, eager, ours, strict=True):
        assert (have.double() - want).norm() <= 2 * (theirs.double() - want).norm()
