"""One document over several devices: each computes a slice of its tokens, and they exchange what the windows reach."""

from .exchange import average_gradients
from .split import neighbours, split_sequence

__all__ = ["average_gradients", "neighbours", "split_sequence"]
