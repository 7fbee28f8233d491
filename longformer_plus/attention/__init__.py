"""Longformer's attention: local rows by a backend, global rows by projections of their own.

One legend of shapes for all of this package: B batch, N tokens, H heads, D head size, E hidden size, G global tokens
(the most that any row has), W attention window (total width).

`pattern` says who may attend to whom. A backend (`eager`, `sdpa` with `blockwise` on a CPU, `flex`) computes the rows
of the tokens that attend to the window around them; `interface` chooses it. `global_rows` computes the rows of the
tokens that attend to everything, and `continued` those of tokens that continue a cached document.
"""

from __future__ import annotations

from .auto import AUTO, auto_local_rows, default_backend
from .continued import continued_local_rows
from .eager import eager_local_rows
from .flex import flex_local_rows
from .global_rows import attend_globally
from .interface import ALL_ATTENTION_FUNCTIONS, LocalRows, attend_locally
from .pattern import AttentionPattern, places_in, segments_of
from .sdpa import sdpa_local_rows

__all__ = [
    "ALL_ATTENTION_FUNCTIONS",
    "AUTO",
    "AttentionPattern",
    "LocalRows",
    "attend_globally",
    "attend_locally",
    "auto_local_rows",
    "continued_local_rows",
    "default_backend",
    "eager_local_rows",
    "flex_local_rows",
    "places_in",
    "sdpa_local_rows",
    "segments_of",
]
