"""Token-by-token work in chunks that a CPU's allocator can use again.

Without gradients, what is computed in between is soon free again. glibc maps each block of over 32 MiB afresh, and
touching new pages takes longer than reading them: at 16384 tokens a quarter of a forward was spent so.

Shapes: B batch, N tokens, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .attention import AttentionPattern

_CHUNK_BYTES = 12 * 2**20


def cheapest_chunk(hidden_states: Tensor, width: int, *modules: nn.Module) -> int:
    """Tokens of a row to compute at a time where nobody chose, 0 for all of them.

    Args:
        hidden_states: (B, N, E).
        width: features of the widest activation in between.
        modules: those that do the work. Where anything is put around one of them, such as a hook or an offloaded
            weight, it is called once, as its module says.
    """
    if torch.is_grad_enabled() or hidden_states.device.type != "cpu" or torch.compiler.is_compiling():
        return 0
    if not is_bare(*modules):
        return 0
    return max(_CHUNK_BYTES // (width * hidden_states.element_size() * hidden_states.shape[0]), 1)


def in_chunks(
    function: Callable[..., Tensor],
    size: int,
    *rows: Tensor,
    scratch: tuple[AttentionPattern, str] | None = None,
    overwrite: bool = False,
) -> Tensor:
    """`function` of (B, N, E) tensors, which works token by token, on `size` tokens of a row at a time; 0: on all.

    Args:
        function: (B, n, E), ... -> (B, n, ...).
        size: n.
        rows: (B, N, E) each.
        scratch: a forward's pattern and a name: the result is put where the last one of that name was.
        overwrite: put the result where the first of `rows` was, if it is of that shape and nothing needs a gradient.
    """
    if not size or rows[0].shape[1] <= size:
        return function(*rows)
    chunks = zip(*(tensor.split(size, dim=1) for tensor in rows), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([function(*chunk) for chunk in chunks], dim=1)
    # Not torch.cat, which would hold everything twice.
    first = function(*next(chunks))
    shape = (first.shape[0], rows[0].shape[1], *first.shape[2:])
    if overwrite and rows[0].shape == shape and rows[0].dtype == first.dtype:
        result = rows[0]
    elif scratch is None:
        result = first.new_empty(shape)
    else:
        pattern, name = scratch
        result = pattern.shared(("scratch", name, shape, first.dtype), lambda: first.new_empty(shape))
    result[:, :size] = first
    for chunk, place in zip(chunks, result[:, size:].split(size, dim=1), strict=True):
        place.copy_(function(*chunk))
    return result


def is_bare(*modules: nn.Module) -> bool:
    """Whether nothing is put around any part of these modules: no hook, no `forward` of its own in the instance."""
    return not any(
        part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
        for module in modules
        for part in module.modules()
    )
