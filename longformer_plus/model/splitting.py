"""Where a model's tokens are spread over processes: what it asks of whoever spreads them, and what it refuses.

`integrations.context_parallel` does it; nothing here knows of processes.

Shapes: B batch, N tokens, n of them in this process, E hidden size, C features.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..attention import AttentionPattern
from .losses import Count
from .padding import Padding


class SequenceSplit(Protocol):
    """A slice of the tokens for each process, of which this one computes its own."""

    def start(self, shape: tuple[int, int], padding: Padding | None) -> None:
        """Begin a forward of (B, N) tokens, of which `padding` is taken out."""

    def own(self, rows: Tensor) -> Tensor:
        """(B, N, ...) -> (B, n, ...), or from (1, N, ...) the same for all rows; without padding that is taken out."""

    def pattern(self, whole: AttentionPattern) -> AttentionPattern:
        """The pattern of the own tokens, by whose `exchange` the layers attend to the others."""

    def pooled(self, hidden_states: Tensor, attention_mask: Tensor | None, is_causal: bool) -> Tensor:
        """(B, n, E) -> (B, E) on each process, what `pooled_token` takes from the whole batch."""

    def gather(self, rows: Tensor) -> Tensor:
        """(B, n, C) of each process -> (B, N, C) on all of them."""

    def token_loss(self, logits: Tensor, labels: Tensor, num_items_in_batch: Count = None) -> Tensor:
        """The loss of the whole batch on each process, from the own logits (B, n, C) and all labels (B, N)."""


def _is_torch_context_parallel_active() -> bool:
    """Whether torch, or accelerate by torch, has put a function of its own in the place of its attention."""
    module = getattr(F.scaled_dot_product_attention, "__module__", None) or ""
    return module.startswith("torch.distributed.tensor.experimental")


def check_split(split: SequenceSplit | None, output_attentions: bool, has_cache: bool) -> None:
    """Refuse what does not go with tokens that are spread over processes, and another's way to spread them.

    Raises:
        ValueError: attentions or a cache are asked for.
        RuntimeError: torch's context parallelism is active, which would leave out what the windows reach.
    """
    if not torch.compiler.is_compiling() and _is_torch_context_parallel_active():
        raise RuntimeError(
            "torch's context_parallel, which accelerate's cp_size also uses, is not allowed around a LongformerPlus "
            "model: it passes keys around for full attention only, and the windows at the edges of each part would be "
            "cut off. Use longformer_plus.integrations.context_parallel.split_sequence(model, mesh)."
        )
    if split is None:
        return
    if output_attentions:
        raise ValueError(
            "output_attentions=True is not allowed within split_sequence: the rows of a process reach into others. "
            "Leave it out, or ask the model outside of it."
        )
    if has_cache:
        raise ValueError(
            "past_key_values and use_cache=True are not allowed within split_sequence: no process has the whole "
            "document. Leave them out, or generate outside of it."
        )
