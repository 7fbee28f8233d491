"""Casting once what autocast would cast, and keep for the backward pass, before each product.

Shapes: B batch, N tokens, E hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .linear import autocast_dtype, is_plain_linear


def cast_input(rows: Tensor, *layers: nn.Module) -> Tensor:
    """The (B, N, E) input of several linear layers, in the dtype that autocast computes their products in.

    The rows stay as they are without autocast, in a traced graph, and where a layer is not a plain one: an adapter may
    compute in the dtype that it is given.
    """
    dtype = _active_dtype(rows)
    is_cast = dtype is not None and rows.dtype == torch.float32 and all(map(is_plain_linear, layers))
    return rows.to(dtype) if is_cast else rows


def cast_alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors in the dtype of autocast, where it is on; an adapter may have given one another dtype.

    What attends to them computes again in the backward pass, which runs without autocast.
    """
    dtype = _active_dtype(tensors[0])
    return tensors if dtype is None else tuple(tensor.to(dtype) for tensor in tensors)


def _active_dtype(rows: Tensor) -> torch.dtype | None:
    return None if torch.compiler.is_compiling() else autocast_dtype(rows.device)
