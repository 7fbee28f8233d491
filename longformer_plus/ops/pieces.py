"""Work on a few tokens at a time, so that a CPU's allocator can use the same memory again.

Shapes: B batch, N tokens, E hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

# glibc maps each block of over 32 MiB afresh, and touching new pages takes longer than reading them: at 16384 tokens a
# quarter of a forward was spent so.
LARGEST_BYTES = 12 * 2**20


def is_bare(*modules: nn.Module) -> bool:
    """Whether nothing is put around any part of these modules: no hook, no `forward` of its own in the instance."""
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
    """Whether hooks are set around all modules. torch has no public way to ask: without its own, there may be some."""
    ask = getattr(torch_module, "_has_any_global_hook", None)
    return ask is None or ask()


def piece_size(rows: Tensor, width: int, *modules: nn.Module) -> int:
    """How many tokens of a row to compute at a time where nobody chose, 0 for all of them.

    Pieces pay without gradients, where what is computed in between is soon free again. In training there are none:
    random numbers are drawn in one order, with gradients and without.

    Args:
        rows: (B, N, E).
        width: features of the widest activation in between.
        modules: those that do the work. Where anything is put around one of them, such as a hook or an offloaded
            weight, it is called once, as its module says.
    """
    if torch.is_grad_enabled() or rows.device.type != "cpu" or torch.compiler.is_compiling() or not len(rows):
        return 0
    if any(module.training for module in modules) or not is_bare(*modules):
        return 0
    return max(LARGEST_BYTES // (width * rows.element_size() * len(rows)), 1)
