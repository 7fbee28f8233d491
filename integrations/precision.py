"""The number format that a device computes in."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch

from longformer_plus.model.pretrained import LongformerPlusPreTrainedModel
from longformer_plus.ops.int8 import onednn_is_exact
from longformer_plus.ops.processor import multiplies_bfloat16, processor_features

from .quantization import is_quantized, quantize

# Of inference; training has no int8.
PRECISIONS = ("auto", "float32", "bfloat16", "int8")

_Model = TypeVar("_Model", bound=LongformerPlusPreTrainedModel)


class Precision(NamedTuple):
    """What to compute in: "float32", "bfloat16" or "int8"; and why, in a few words."""

    name: str
    reason: str


def choose_precision(precision: str) -> Precision:
    """What "auto" is for inference on this machine: the fastest whose loss of quality was measured to be small.

    Args:
        precision: one of `PRECISIONS`; what is not "auto" stays.

    Raises:
        ValueError: it is another.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision={precision!r} is not allowed: it must be one of {', '.join(map(repr, PRECISIONS))}."
        )
    if precision != "auto":
        return Precision(precision, "as asked for")
    if torch.accelerator.is_available():
        if is_bfloat16("auto"):
            return Precision("bfloat16", "the GPU multiplies it in hardware")
        return Precision("float32", "the GPU does not multiply bfloat16 in hardware")
    features = processor_features()
    # Where there are both, bfloat16 was a little faster, and it is nearer to float32.
    if features["AMX-BF16"]:
        return Precision("bfloat16", "the processor multiplies it in hardware (AMX-BF16)")
    for feature in ("AMX-INT8", "VNNI"):
        if features[feature] and onednn_is_exact():
            return Precision("int8", f"the processor multiplies it in hardware ({feature})")
    if features["AVX512-BF16"]:
        return Precision("bfloat16", "the processor multiplies it in hardware (AVX512-BF16)")
    return Precision("float32", "the processor has neither VNNI, AVX512-BF16 nor AMX")


def is_bfloat16(precision: str) -> bool:
    """Whether "float32", "bfloat16" or "auto" (bfloat16 where the device is faster with it) is bfloat16 in training."""
    if precision != "auto":
        return precision == "bfloat16"
    if torch.accelerator.is_available():
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return multiplies_bfloat16()


def in_precision(model: _Model, precision: str) -> _Model:
    """A model for inference in a precision, on the accelerator if there is one; int8 is for CPUs, and stays there.

    Args:
        model: it is changed. One that is in int8 stays so.
        precision: one of `PRECISIONS`.

    Raises:
        TypeError, ValueError: the model cannot be in int8; see `quantize`.
    """
    chosen = choose_precision(precision).name
    if chosen == "int8":
        return model if is_quantized(model) else quantize(model)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    model.to(device or "cpu", torch.bfloat16 if chosen == "bfloat16" else torch.float32)  # type: ignore[arg-type]
    return model.eval()
