"""Cutting a document into blocks of queries and, for each block, the window of keys that it can reach.

Consecutive windows overlap. They are views on one buffer, not copies: copying the windows costs as much as attending.

Shapes: B batch, N tokens, H heads, D head size, d dilation, b block, n blocks of a row, K keys of a window, W attention
window.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pad_to_blocks(x: Tensor, block: int) -> Tensor:
    """(B, N, ...) -> (B, n, b, ...), padded with zeros."""
    num_tokens = x.shape[1]
    # A graph for any length cannot branch on "no padding needed" or on a single block: it always adds padding.
    is_static = torch.compiler.is_exporting() and isinstance(num_tokens, int)
    traced = torch.compiler.is_compiling() and not is_static
    num_blocks = num_tokens // block + 2 if traced else -(-num_tokens // block)
    missing = num_blocks * block - num_tokens
    if traced or missing:
        x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, missing))
    return x.unflatten(1, (num_blocks, block))


def interleave(rows: Tensor, dilation: int) -> Tensor:
    """(B, N, ...) -> (B * d, N / d, ...): each row as d sequences of every d-th token, padded with zeros.

    Tokens at a distance of d become neighbours, so that a dilated window becomes one without dilation.
    """
    if dilation == 1:
        return rows
    return pad_to_blocks(rows, dilation).transpose(1, 2).flatten(0, 1)


def deinterleave(rows: Tensor, dilation: int, num_tokens: int) -> Tensor:
    """(B * d, N / d, ...) -> (B, N, ...), the inverse of `interleave`."""
    if dilation == 1:
        return rows
    return rows.unflatten(0, (-1, dilation)).transpose(1, 2).flatten(1, 2)[:, :num_tokens]


def sliding_windows(rows: Tensor, before: int, size: int, step: int) -> Tensor:
    """Windows over consecutive rows, as a view on the padded rows; an exported graph copies them.

    Args:
        rows: (R, ...) with R a multiple of `step`.
        before: rows of zeros to add before the first; as many as needed are added after the last.
        size: rows in a window. Window i starts at row `i * step - before`.

    Returns:
        (R / step, size, ...).
    """
    if torch.compiler.is_exporting():
        # Every accelerator has slices, but not every one has strided views. A window is a row of shifted blocks.
        num_windows, num_shifts = rows.shape[0] // step, -(-size // step)
        after = (num_shifts - 1) * step - before
        blocks = F.pad(rows, (0, 0) * (rows.dim() - 1) + (before, after)).unflatten(0, (-1, step))
        return torch.cat([blocks[shift : shift + num_windows] for shift in range(num_shifts)], dim=1)[:, :size]
    after = max(size - step - before, 0)
    padded = F.pad(rows, (0, 0) * (rows.dim() - 1) + (before, after))
    return padded.unfold(0, size, step).movedim(-1, 1)


def skew(scores: Tensor, width: int) -> Tensor:
    """(..., b, b + width - 1) -> (..., b, width): entry (i, o) is scores[i, i + o].

    The input counts keys from the start of the block's window, the result from the first key of each query.
    """
    *lead, block, num_keys = scores.shape
    flat = F.pad(scores.reshape(*lead, block * num_keys), (0, block))
    return flat.reshape(*lead, block, num_keys + 1)[..., :width]


def unskew(band: Tensor) -> Tensor:
    """(..., b, width) -> (..., b, b + width - 1), the inverse of `skew`, zero outside the band."""
    *lead, block, width = band.shape
    flat = F.pad(band, (0, block)).reshape(*lead, block * (width + block))
    return flat[..., : block * (width + block - 1)].reshape(*lead, block, width + block - 1)


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to scores: 0 where allowed, else a number below any score.

    The number is finite, also after a score is added. So a row without any allowed key gives finite numbers (which are
    cleared later), not NaN.
    """
    lowest = torch.finfo(dtype).min / 2
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, lowest)


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dimension, in float32 at least."""
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
