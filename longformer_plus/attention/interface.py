"""The local rows of a layer: which backend computes them, and one call of it for the heads of each dilation.

Shapes: B batch, N tokens, H heads, D head size, G global tokens, W window.
"""

from __future__ import annotations

from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

from .auto import AUTO, auto_local_rows
from .eager import eager_local_rows
from .flex import flex_local_rows
from .pattern import AttentionPattern
from .sdpa import sdpa_local_rows


class LocalRows(Protocol):
    """What a backend is: a function by which each token attends to the window around it and to the global tokens.

    The oracle in the tests holds every backend to the same meaning, and to the gradients of query, key and value.
    """

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pattern: AttentionPattern,
        window: int,
        dilation: int = 1,
        dropout: float = 0.0,
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            query, key, value: (B, N, H, D); the scale 1 / sqrt(D) is the backend's to apply.
            pattern: who may attend to whom.
            window: W, the total width, in steps of the dilation.
            dilation: the step between the keys of the window, the same for all heads of a call.
            dropout: probability of dropping an attention weight.

        Returns:
            The context (B, N, H, D), whose rows of masked and of global tokens nobody reads; and the probabilities
            (B, H, N, G + W + 1) in the layout of `eager.eager_local_rows`, or None of a backend that has none.
        """


class LocalAttentionInterface(AttentionInterface):
    """The backends of the local rows, by `attn_implementation`; each is a `LocalRows`.

    Private to this package: the functions in transformers' own registry have another signature.
    """

    _global_mapping = {
        "eager": eager_local_rows,
        "sdpa": sdpa_local_rows,
        "flex_attention": flex_local_rows,
        AUTO: auto_local_rows,
    }


ALL_ATTENTION_FUNCTIONS = LocalAttentionInterface()


def attend_locally(
    local_rows: LocalRows,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: AttentionPattern,
    window: int,
    dilations: list[int],
    dropout: float,
) -> tuple[Tensor, Tensor | None]:
    """The local rows of all heads, by one call of the backend for the heads of each dilation.

    Args:
        local_rows: the backend.
        query, key, value, pattern, window, dropout: as of `LocalRows`.
        dilations: (H) the dilation of each head.

    Returns:
        As `LocalRows`.
    """
    steps = sorted(set(dilations))
    if len(steps) == 1:
        return local_rows(query, key, value, pattern, window, steps[0], dropout)
    # Slices alone: a list of indices would be copied to the device in every layer.
    runs = [(step, len(list(heads))) for step, heads in groupby(dilations)]
    parts = [rows.split([size for _, size in runs], dim=2) for rows in (query, key, value)]
    contexts: dict[int, Tensor] = {}
    probabilities: dict[int, Tensor] = {}
    for wanted in steps:
        places = [place for place, (step, _) in enumerate(runs) if step == wanted]
        queries, keys, values = (torch.cat([part[place] for place in places], dim=2) for part in parts)
        context, weights = local_rows(queries, keys, values, pattern, window, wanted, dropout)
        sizes = [runs[place][1] for place in places]
        contexts.update(zip(places, context.split(sizes, dim=2), strict=True))
        if weights is not None:
            probabilities.update(zip(places, weights.split(sizes, dim=1), strict=True))
    in_order = range(len(runs))
    joined = torch.cat([contexts[place] for place in in_order], dim=2)
    return joined, torch.cat([probabilities[place] for place in in_order], dim=1) if probabilities else None
