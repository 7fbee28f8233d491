"""Longformer's attention: local rows by backend, global rows by their own projections.

One legend of shapes for all of this package: B batch, N tokens, H heads, D head size, E hidden size, G global tokens
(the most that any row has), W attention window (total width).
"""

from __future__ import annotations

from transformers import AttentionInterface

from .auto import AUTO, auto_local_rows, default_backend
from .continued import continued_local_rows
from .eager import eager_local_rows
from .flex import flex_local_rows
from .global_rows import attend_globally
from .pattern import AttentionPattern, places_in, segments_of
from .sdpa import sdpa_local_rows


class LocalAttentionInterface(AttentionInterface):
    """The backends of the local rows, by `attn_implementation`. Private to this package: transformers' own registry is
    for functions of another signature.

    Each takes `(query, key, value, pattern, window, dilation, dropout)` and returns the context and, if it has them,
    the probabilities; see `eager.eager_local_rows`.
    """

    _global_mapping = {
        "eager": eager_local_rows,
        "sdpa": sdpa_local_rows,
        "flex_attention": flex_local_rows,
        AUTO: auto_local_rows,
    }


ALL_ATTENTION_FUNCTIONS = LocalAttentionInterface()

__all__ = [
    "ALL_ATTENTION_FUNCTIONS",
    "AUTO",
    "AttentionPattern",
    "attend_globally",
    "auto_local_rows",
    "continued_local_rows",
    "default_backend",
    "eager_local_rows",
    "flex_local_rows",
    "places_in",
    "sdpa_local_rows",
    "segments_of",
]
