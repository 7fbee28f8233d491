"""Computation in chunks of tokens, so that a CPU's allocator can reuse memory.

Shapes: B batch, N tokens, E hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

# glibc maps new pages for each block of over 32 MiB, and the first access to a new page is slow: at 16384 tokens this
# took a quarter of a forward.
LARGEST_BYTES = 12 * 2**20


def is_bare(*modules: nn.Module) -> bool:
    """Whether no submodule of these modules has a hook, or a `forward` that replaces the one of its class."""
    return not _has_global_hooks() and not any(
        part._forward_hooks
        or part._forward_pre_hooks
        or part._backward_hooks
        or part._backward_pre_hooks
        or "forward" in vars(part)
        for module in modules
        for part in module.modules()
    )


def _has_global_hooks() -> bool:
    """Whether hooks are set for all modules. The check is not public; a torch without it counts as having some."""
    has_hook = getattr(torch_module, "_has_any_global_hook", None)
    return has_hook is None or has_hook()


def chunk_size(rows: Tensor, width: int, *modules: nn.Module) -> int:
    """The default number of tokens of a row to compute at a time; 0 for all of them.

    Chunks pay off without gradients, where intermediate results are freed at once. In training there are none, so that
    random numbers are drawn in the same order with and without gradients.

    Args:
        rows: (B, N, E).
        width: features of the widest intermediate activation.
        modules: the modules that will be called. If one of them has a hook, or its weight is offloaded, there are no
            chunks and each module is called once.
    """
    if torch.is_grad_enabled() or rows.device.type != "cpu" or torch.compiler.is_compiling() or not len(rows):
        return 0
    if any(module.training for module in modules) or not is_bare(*modules):
        return 0
    return max(LARGEST_BYTES // (width * rows.element_size() * len(rows)), 1)
