"""Local rows of documents that are no longer than the window, on a CPU: torch's attention over the whole document.

A block of queries would see most of the document anyway: one call for all of it takes a half to three quarters of the
time.

Shapes: T tokens of all rows, one after another; H heads, D head size, L tokens of a document, W window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .blocks import additive
from .pattern import MASKED, AttentionPattern, Document


@dataclass(frozen=True)
class ShortDocuments:
    """Documents of one length that follow one another.

    Attributes:
        rows: their positions among the T tokens.
        count: how many they are.
        mask: (L, L), added to the scores; None where every token may see every other, or, if causal, every earlier one.
        is_causal: whether tokens attend only to themselves and to earlier ones.
    """

    rows: slice
    count: int
    mask: Tensor | None
    is_causal: bool

    def goes_on_with(self, rows: slice) -> bool:
        """Whether a document comes next and has the same length."""
        length = (self.rows.stop - self.rows.start) // self.count
        return self.rows.stop == rows.start and rows.stop - rows.start == length

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The rows (count * L, H, D) of the documents three times -> their context, of the same shape."""
        query, key, value = (rows.unflatten(0, (self.count, -1)).transpose(1, 2) for rows in (query, key, value))
        is_causal = self.is_causal and self.mask is None
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask, is_causal=is_causal)
        return context.transpose(1, 2).flatten(0, 1)

    def gradients(self, query: Tensor, key: Tensor, value: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        """Those of `attend`, which is computed again."""
        with torch.enable_grad():
            leaves = [rows.detach().requires_grad_() for rows in (query, key, value)]
            return torch.autograd.grad(self.attend(*leaves), leaves, grad)


def is_short(document: Document, pattern: AttentionPattern, window: int, dilation: int) -> bool:
    """Whether a document is attended to as a whole."""
    return dilation == 1 and pattern.wanted is None and document.stop - document.start <= window


def short_documents(pattern: AttentionPattern, window: int, dilation: int, like: Tensor) -> list[ShortDocuments]:
    """The short documents of a batch, with masks in the dtype of `like`."""
    found: list[ShortDocuments] = []
    for document in pattern.documents:
        if not is_short(document, pattern, window, dilation):
            continue
        rows, mask = slice(document.start, document.stop), None
        if not document.is_whole or rows.stop - rows.start > window // 2 + 1:
            mask = additive(_allowed(document, pattern, window), like.dtype)
        last = found[-1] if found else None
        if last is not None and last.mask is None and mask is None and last.goes_on_with(rows):
            found[-1] = replace(last, rows=slice(last.rows.start, rows.stop), count=last.count + 1)
        else:
            found.append(ShortDocuments(rows, 1, mask, pattern.is_causal))
    return found


def _allowed(document: Document, pattern: AttentionPattern, window: int) -> Tensor:
    """(L, L) bool, whether each token of a document attends to each other by its window or because it is global."""
    places = torch.arange(document.stop - document.start)
    distance = places - places[:, None]
    near = distance.abs() <= window // 2
    near[:, document.global_index - document.start] = True
    if pattern.is_causal:
        near &= distance <= 0
    if not document.is_whole:
        near &= pattern.segments.flatten()[document.start : document.stop] != MASKED
    return near
