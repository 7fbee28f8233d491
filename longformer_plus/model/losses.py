"""The heads' losses.

Each is a mean over the labelled items of the batch. Under gradient accumulation the Trainer passes
`num_items_in_batch`, the number of labelled items of the whole accumulated batch; the sum is then divided by it, so
that the accumulated gradient is the gradient of the large batch.

Shapes: B batch, N tokens, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED_LABEL = -100

Count = Tensor | int | None


def token_loss(logits: Tensor, labels: Tensor, num_items_in_batch: Count = None) -> Tensor:
    """Cross-entropy over the labels that are not -100; zero where there is none.

    Args:
        logits: (..., C), or (L, C) of the L labels alone that are not -100.
        labels: (...) class ids, -100 for what is not to be learned.
        num_items_in_batch: what to divide the sum by, in place of the number of labels.
    """
    labels = labels.to(logits.device).reshape(-1)
    flat_logits = logits.reshape(-1, logits.shape[-1])
    is_labelled = labels != IGNORED_LABEL
    count = is_labelled.sum()
    if len(flat_logits) != len(labels):
        labels = labels[is_labelled]
        is_labelled = labels != IGNORED_LABEL
    # If few tokens are labelled, as in masked language modelling, skip the softmax of all others. Not on accelerators,
    # where the number of labels would have to be read from the device.
    can_count = labels.device.type == "cpu" and not torch.compiler.is_compiling()
    if can_count and 2 * int(count) < len(labels):
        flat_logits, labels = flat_logits[is_labelled], labels[is_labelled]
    total = F.cross_entropy(_precise(flat_logits), labels, ignore_index=IGNORED_LABEL, reduction="sum")
    return _mean(total, count, num_items_in_batch)


def sequence_loss(logits: Tensor, labels: Tensor, problem_type: str | None, num_items_in_batch: Count = None) -> Tensor:
    """Loss of a classification or regression head.

    Args:
        logits: (B, C).
        labels: (B,) class ids; (B, C) floats for multi-label; (B,) or (B, C) floats for regression.
        problem_type: "regression" (mean squared error), "single_label_classification" (cross-entropy),
            "multi_label_classification" (binary cross-entropy), or None to infer it from C and the labels' dtype.
        num_items_in_batch: what to divide the sum by, in place of the number of labels.

    Raises:
        ValueError: the labels' shape does not fit the logits.
    """
    labels = labels.to(logits.device)
    problem = problem_type or _problem_type(logits.shape[-1], labels)
    if problem == "single_label_classification":
        return token_loss(logits, labels, num_items_in_batch)
    if labels.numel() != logits.numel():
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} do not fit logits of shape {tuple(logits.shape)} for {problem}: "
            "give one number per logit."
        )
    loss = F.mse_loss if problem == "regression" else F.binary_cross_entropy_with_logits
    logits = _precise(logits)
    total = loss(logits, labels.reshape(logits.shape).to(logits.dtype), reduction="sum")
    return _mean(total, logits.numel(), num_items_in_batch)


def span_loss(
    start_logits: Tensor,
    end_logits: Tensor,
    start_positions: Tensor,
    end_positions: Tensor,
    num_items_in_batch: Count = None,
) -> Tensor:
    """Mean of the cross-entropies of an answer's start and end; positions outside the input are not counted.

    Args:
        start_logits, end_logits: (B, N).
        start_positions, end_positions: (B,) or (B, 1) token indices.
        num_items_in_batch: what to divide the sums by, in place of the number of positions inside the input.
    """

    def one_side(logits: Tensor, positions: Tensor) -> Tensor:
        positions = positions.to(logits.device).reshape(-1)
        inside = (positions >= 0) & (positions < logits.shape[1])
        labels = torch.where(inside, positions, IGNORED_LABEL)
        return token_loss(logits, labels, num_items_in_batch)

    return (one_side(start_logits, start_positions) + one_side(end_logits, end_positions)) / 2


def _problem_type(num_labels: int, labels: Tensor) -> str:
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def _precise(logits: Tensor) -> Tensor:
    """Logits in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _mean(total: Tensor, count: Tensor | int, num_items_in_batch: Count) -> Tensor:
    """Divide the sum by the number of items; zero if there are none."""
    divisor = count if num_items_in_batch is None else num_items_in_batch
    if isinstance(divisor, Tensor):
        return total / divisor.to(total.device).clamp(min=1)
    return total / max(divisor, 1)
