"""A loss in which rare classes count for more.

Shapes: B batch, N tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from longformer_plus.model.losses import IGNORED_LABEL

from ..data.features import Prepared

Loss = Callable[..., Tensor]


def balanced_weights(prepared: Prepared, num_classes: int) -> Tensor:
    """How much each class counts, so that all of them count alike in training.

    Args:
        prepared: features with `labels`: a class id, one for each token, or zeros and ones of all classes.
        num_classes: C.

    Returns:
        (C,). Of classes that exclude one another n / (C * count), as scikit-learn's "balanced", where n is the number
        of all labels; their mean over these is 1. Where a document has several classes, how many have not a class for
        each that has it. 1 for a class that no label is of.
    """
    labels = [np.asarray(feature["labels"]) for feature in prepared.features]
    if labels[0].dtype.kind == "f":
        counts = np.sum(labels, axis=0)
        weights = (len(labels) - counts) / np.maximum(counts, 1)
    else:
        ids = np.concatenate([each.reshape(-1) for each in labels])
        counts = np.bincount(ids[ids != IGNORED_LABEL], minlength=num_classes)
        weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    # Zero where all documents have a class: those that come with another model's data would not be learned from.
    weights = np.where((counts == 0) | (weights == 0), 1.0, weights)
    return torch.tensor(weights, dtype=torch.float32)


def weighted_loss(weights: Tensor) -> Loss:
    """A `compute_loss_func` of `Trainer`: the loss of the heads for classes, each class times its weight.

    Args:
        weights: (C,), of `balanced_weights`.
    """

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss of (B, C) or (B, N, C) logits, divided by the number of labels, or by `num_items_in_batch`."""
        logits = outputs["logits"].float()
        factors = weights.to(logits.device)
        if labels.is_floating_point():
            total = F.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=factors, reduction="sum")
            count: Tensor | int = labels.numel()
        else:
            flat = labels.reshape(-1)
            total = F.cross_entropy(logits.flatten(0, -2), flat, factors, ignore_index=IGNORED_LABEL, reduction="sum")
            count = (flat != IGNORED_LABEL).sum().clamp(min=1)
        return total / (count if num_items_in_batch is None else num_items_in_batch)

    return loss
