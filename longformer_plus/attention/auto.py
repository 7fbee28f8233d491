"""The backend "auto", a model's default on GPUs: local rows by FlexAttention where it is faster, else by "sdpa".

Shapes: B batch, N tokens, H heads, D head size, W window.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from .flex import flex_local_rows
from .pattern import AttentionPattern
from .sdpa import sdpa_local_rows

AUTO = "auto"
_HAS_TRITON = find_spec("triton") is not None


def default_backend() -> str:
    """The default `attn_implementation`: "auto" on a machine with a GPU and Triton, else "sdpa"."""
    return AUTO if torch.cuda.is_available() and _HAS_TRITON else "sdpa"


def fastest_backend(device_type: str, num_tokens: int, head_size: int, window: int, dropout: float) -> str:
    """The faster backend for a call: "flex_attention" where it is certainly faster, else "sdpa".

    A traced graph uses "sdpa", which runs on every device and for every length.

    Args:
        device_type: as in `torch.device.type`.
        num_tokens: N.
        head_size: D.
        window: W, the total width.
        dropout: probability of dropping an attention weight.
    """
    if device_type != "cuda" or not _HAS_TRITON or dropout or torch.compiler.is_compiling():
        return "sdpa"
    is_power_of_two = head_size & (head_size - 1) == 0
    return "flex_attention" if num_tokens > window and head_size >= 16 and is_power_of_two else "sdpa"


def auto_local_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: AttentionPattern,
    window: int,
    dilation: int = 1,
    dropout: float = 0.0,
) -> tuple[Tensor, None]:
    """Each token attends to the window around it and to the global tokens; see `sdpa.sdpa_local_rows`."""
    name = fastest_backend(query.device.type, query.shape[1], query.shape[3], window, dropout)
    local_rows = flex_local_rows if name == "flex_attention" else sdpa_local_rows
    return local_rows(query, key, value, pattern, window, dilation, dropout)
