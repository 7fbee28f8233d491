"""The design of docs/developers/varlen_attention.md: outputs and gradients against dense attention in float64.

`torch.nn.attention.varlen` has kernels for GPUs only, so a stand-in of the same signature takes its place.

Shapes: T tokens of all documents, one after another; K keys, H heads, D head size, G global tokens, W window, R runs of
queries.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ..oracle import who_attends

HEADS, HEAD_SIZE = 2, 4


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> tuple[Tensor, Tensor]:
    """(T, H, D), (K, H, D) twice -> the context (T, H, D) and the log-sum-exp (H, T)."""
    scores = masked_scores(query, key, cu_seq_q, cu_seq_k, window_size)
    log_sum = scores.logsumexp(-1)
    context = torch.einsum("hqk,khd->qhd", (scores - log_sum[..., None]).exp().nan_to_num(0.0), value)
    # FlashAttention writes plus infinity where there is no key.
    return context, log_sum.masked_fill(log_sum == -torch.inf, torch.inf)


def varlen_attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context: Tensor,
    log_sum: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    window_size: tuple[int, int] = (-1, -1),
) -> tuple[Tensor, Tensor, Tensor]:
    """What FlashAttention's backward pass computes from the context and log-sum-exp that it is handed."""
    probabilities = (masked_scores(query, key, cu_seq_q, cu_seq_k, window_size) - log_sum[..., None]).exp()
    delta = (grad * context).sum(-1).T[..., None]  # (H, T, 1)
    grad_scores = probabilities * (torch.einsum("qhd,khd->hqk", grad, value) - delta) * query.shape[-1] ** -0.5
    return (
        torch.einsum("hqk,khd->qhd", grad_scores, key),
        torch.einsum("hqk,qhd->khd", grad_scores, query),
        torch.einsum("hqk,qhd->khd", probabilities, grad),
    )


def masked_scores(
    query: Tensor, key: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, window_size: tuple[int, int]
) -> Tensor:
    """(H, T, K), minus infinity where a query does not see a key."""
    of_query, of_key = (
        torch.searchsorted(bounds, torch.arange(len(rows)), right=True)
        for bounds, rows in ((cu_seq_q, query), (cu_seq_k, key))
    )
    seen = of_query[:, None] == of_key
    if window_size != (-1, -1):
        assert torch.equal(cu_seq_q, cu_seq_k)
        distance = torch.arange(len(key)) - torch.arange(len(query))[:, None]
        seen &= (-window_size[0] <= distance) & (distance <= window_size[1])
    scores = torch.einsum("qhd,khd->hqk", query, key) * query.shape[-1] ** -0.5
    return scores.masked_fill(~seen, -torch.inf)


def global_runs(bounds: Tensor, global_index: Tensor, window: int, is_causal: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The runs of queries between which the set of global keys outside of the window does not change.

    Args:
        bounds: (documents + 1), where they start and stop.
        global_index: (documents, G), places of their global tokens in rising order; -1 for fillers, behind them.
        window: W, the total width.
        is_causal: whether tokens attend only to themselves and to earlier ones.

    Returns:
        Where the runs start and stop, (R + 1); where their keys do, (R + 1); and which tokens the keys are, (R * G), of
        which those behind the last key are fillers. All sizes depend on those of the arguments alone.
    """
    half, is_key = window // 2, global_index >= 0
    starts, stops = bounds[:-1, None], bounds[1:, None]
    changes = [global_index + half + 1] if is_causal else [global_index - half, global_index + half + 1]
    places = torch.where(is_key.repeat(1, len(changes)), torch.cat(changes, dim=1), stops).clamp(starts, stops)
    run_starts = torch.cat([starts, places.sort(dim=1).values], dim=1)  # (documents, runs of each)
    index = global_index[:, None, :]
    outside = is_key[:, None, :] & (index < run_starts[..., None] - half)
    if not is_causal:
        outside = outside | (is_key[:, None, :] & (index > run_starts[..., None] + half))
    # Keys to the front, in the order of their runs, without knowing how many there are.
    target = outside.flatten().cumsum(0) - 1
    tokens = index.expand_as(outside).flatten()
    keys = torch.zeros(outside.numel() + 1, dtype=torch.int64)
    keys = keys.scatter(0, torch.where(outside.flatten(), target, outside.numel()), tokens.clamp(min=0))[:-1]
    of_queries = torch.cat([run_starts.flatten(), bounds[-1:]])
    return of_queries, F.pad(outside.sum(-1).flatten().cumsum(0), (1, 0)), keys


class Merged(torch.autograd.Function):
    """Query, key and value (T, H, D) -> context (T, H, D): two passes, merged."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, runs: Any, window_size: tuple[int, int]
    ) -> Tensor:
        of_queries, of_keys, index = runs
        longest, most = len(query), len(index)
        near, near_sum = varlen_attention(query, key, value, bounds, bounds, longest, longest, window_size=window_size)
        far, far_sum = varlen_attention(query, key[index], value[index], of_queries, of_keys, longest, most)
        far_sum = far_sum.masked_fill(far_sum == torch.inf, -torch.inf)  # every query sees itself, so near is finite
        log_sum = torch.logaddexp(near_sum, far_sum)  # (H, T)
        context = sum(
            part * (part_sum - log_sum).exp().T[..., None] for part, part_sum in ((near, near_sum), (far, far_sum))
        )
        ctx.save_for_backward(query, key, value, context, log_sum, bounds, *runs)
        ctx.window_size = window_size
        return context

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, context, log_sum, bounds, of_queries, of_keys, index = ctx.saved_tensors
        merged = (context, log_sum)
        grads = varlen_attention_backward(grad, query, key, value, *merged, bounds, bounds, ctx.window_size)
        far = varlen_attention_backward(grad, query, key[index], value[index], *merged, of_queries, of_keys)
        grad_query = grads[0] + far[0]
        grad_key, grad_value = (near.index_add(0, index, each) for near, each in zip(grads[1:], far[1:], strict=True))
        return grad_query, grad_key, grad_value, None, None, None


def dense(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """(T, H, D) three times, (T, T) bool -> (T, H, D)."""
    scores = torch.einsum("qhd,khd->hqk", query, key) * query.shape[-1] ** -0.5
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~allowed, -torch.inf).softmax(-1), value)


@pytest.mark.parametrize("is_causal", [False, True], ids=["both ways", "causal"])
@pytest.mark.parametrize("window", [2, 8, 40])
@pytest.mark.parametrize("num_global", [0, 1, 5])
@pytest.mark.parametrize("lengths", [(30,), (1, 17, 40, 6)], ids=str)
def test_two_passes_are_one_attention(lengths: tuple[int, ...], num_global: int, window: int, is_causal: bool) -> None:
    generator = torch.Generator().manual_seed(window)
    rows = torch.randn(3, sum(lengths), HEADS, HEAD_SIZE, dtype=torch.float64, generator=generator)
    grad = torch.randn(rows.shape[1:], dtype=torch.float64, generator=generator)
    bounds = F.pad(torch.tensor(lengths).cumsum(0), (1, 0))
    is_global = torch.zeros(1, sum(lengths), dtype=torch.bool)
    global_index = torch.full((len(lengths), num_global), -1)
    for document, length in enumerate(lengths):
        chosen = torch.randperm(length, generator=generator)[:num_global].sort().values + bounds[document]
        global_index[document, : len(chosen)] = chosen
        is_global[0, chosen] = True

    documents = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    valid = torch.ones_like(is_global)
    allowed = who_attends(valid, is_global, window, causal=is_causal, segments=documents)[0][0]
    is_local = ~is_global[0]
    allowed[~is_local] = torch.eye(sum(lengths), dtype=torch.bool)[~is_local]  # rows that are computed elsewhere
    grad[~is_local] = 0

    expected_rows, found_rows = ([each.clone().requires_grad_() for each in rows] for _ in range(2))
    expected = dense(*expected_rows, allowed)
    expected.backward(grad)
    runs = global_runs(bounds, global_index, window, is_causal)
    found = Merged.apply(*found_rows, bounds, runs, (window // 2, 0 if is_causal else window // 2))
    found.backward(grad)
    torch.testing.assert_close(found[is_local], expected[is_local], atol=1e-12, rtol=0)
    for ours, theirs in zip(found_rows, expected_rows, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=0)


def test_runs_are_found_without_reading_from_the_device() -> None:
    with torch.device("meta"):
        bounds, index = torch.zeros(4, dtype=torch.int64), torch.zeros(3, 5, dtype=torch.int64)
        of_queries, of_keys, keys = global_runs(bounds, index, 8, is_causal=False)
    assert of_queries.shape == of_keys.shape == (3 * 11 + 1,)
    assert keys.shape == (3 * 11 * 5,)


def test_the_stand_in_has_the_signature_of_torch() -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    theirs = inspect.signature(varlen.varlen_attn).parameters
    for name, ours in inspect.signature(varlen_attention).parameters.items():
        assert (theirs[name].kind, theirs[name].default) == (ours.kind, ours.default), name
    assert list(theirs)[:7] == list(inspect.signature(varlen_attention).parameters)[:7]
    assert varlen.AuxRequest._fields[0] == "lse"
