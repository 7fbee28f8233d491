"""Functions that are faster, or need less memory, than torch's own. Each is self-contained and has a plain fallback.

Each gives the same numbers as the modules it replaces, also under hooks, checkpointing, autocast, `torch.func` and
threads. A module that may not be a plain layer is called as it is.
"""

from __future__ import annotations

from .autocast import cast_alike, cast_input
from .feed_forward import feed_forward
from .int8 import quantize_once
from .linear import apply_linear, is_plain_linear, plain_weights
from .recomputation import recompute

__all__ = [
    "apply_linear",
    "cast_alike",
    "cast_input",
    "feed_forward",
    "is_plain_linear",
    "plain_weights",
    "quantize_once",
    "recompute",
]
