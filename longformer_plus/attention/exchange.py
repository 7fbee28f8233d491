"""What attention asks of whoever holds the rest of a batch whose tokens are spread over processes.

Shapes: B batch, n tokens of this process, H heads, D head size, E hidden size.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from .interface import LocalRows


class AttentionExchange(Protocol):
    """The way to the tokens of other processes; see `AttentionPattern.exchange`."""

    def extend(self, local_rows: LocalRows) -> LocalRows:
        """The same backend, by which the own tokens attend to those of others too: (B, n, H, D) -> (B, n, H, D)."""

    def put_global(
        self,
        context: Tensor,
        hidden_states: Tensor,
        query_global: nn.Module,
        key_global: nn.Module,
        value_global: nn.Module,
        num_heads: int,
        dropout: float = 0.0,
    ) -> Tensor:
        """(B, n, E) with the rows of the own global tokens replaced; see `global_rows.attend_globally`."""
