"""Saving the memory of the widest activation: GELU's output is computed again in the backward pass instead of kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F


def without_gelu_output(activated: Tensor) -> AbstractContextManager[object]:
    """Hooks under which autograd keeps no copy of `activated` for what is computed from it.

    GELU keeps its input anyway, and computing its output from that takes a fortieth of a layer's training step; the
    output is a quarter of what a layer keeps.

    Args:
        activated: any tensor; nothing is done unless GELU made it and a gradient is wanted.
    """
    node = activated.grad_fn
    if type(node).__name__ != "GeluBackward0" or torch.compiler.is_compiling():
        return nullcontext()
    address, size = activated.data_ptr(), activated.numel()

    def pack(kept: Tensor) -> Tensor | Callable[[], Tensor]:
        if kept.data_ptr() != address or kept.numel() != size or kept.dtype != activated.dtype:
            return kept
        shape = kept.shape
        return lambda: F.gelu(node._saved_self, approximate=node._saved_approximate).view(shape)  # type: ignore[union-attr]

    def unpack(kept: Tensor | Callable[[], Tensor]) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept()

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
