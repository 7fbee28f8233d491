"""The arguments that every head passes on to its encoder unchanged."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor


class EncoderArguments(TypedDict, total=False):
    """Keyword arguments of every head besides the columns of a batch; see `LongformerPlusModel.forward`.

    Shapes: L layers, H heads, N tokens.
    """

    output_attentions: bool | None
    output_hidden_states: bool | int | list[int] | None
    head_mask: Tensor | None  # (H) or (L, H)
    seq_idx: Tensor | None  # (1, N)
    cu_seq_lens_q: Tensor | None  # (documents + 1)
    return_dict: bool | None
