"""The number format that a device computes in."""

from __future__ import annotations

import torch

from longformer_plus.ops.processor import multiplies_bfloat16


def is_bfloat16(precision: str) -> bool:
    """Whether "float32", "bfloat16" or "auto" (bfloat16 where the device is faster with it) is bfloat16 here."""
    if precision != "auto":
        return precision == "bfloat16"
    if torch.accelerator.is_available():
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return multiplies_bfloat16()
