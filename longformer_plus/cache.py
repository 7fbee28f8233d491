"""The rolling cache of causal generation: its size depends on window, dilation and global tokens, not on the length.

Shapes: B batch, N tokens of a forward, R tokens kept, H heads, D head size, G global tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from .attention import AttentionPattern
from .configuration import LongformerPlusConfig


class RollingLayer(CacheLayerMixin):
    """What one layer keeps: keys and values of the global tokens and of the last R others.

    Args:
        reach: R, how many tokens back its windows reach.
    """

    supports_early_init = False

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.num_tokens = 0
        self.num_global = 0
        self.keys, self.values = None, None
        self._is_key: Tensor | None = None

    def update(  # type: ignore[override]
        self, key_states: Tensor, value_states: Tensor, pattern: AttentionPattern
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keep of the new tokens what later ones can attend to, and forget what they cannot.

        Args:
            key_states, value_states: (B, N, H, D), of the local projections.
            pattern: that of the forward. Only the first one may have global tokens.

        Returns:
            Keys and values (B, G + R + N, H, D) of the global tokens, of those kept before and of the new ones, and
            which of them may be attended to, (B, G + R + N) bool; see `attention.continued_local_rows`.
        """
        is_key = pattern.local_key_segments() >= 0
        if self.keys is None or self.values is None or self._is_key is None:
            before = self._start(key_states, value_states, is_key, pattern)
        else:
            before = (self.keys, self.values, self._is_key)
        new = (key_states, value_states, is_key)
        reached = tuple(torch.cat(pair, dim=1) for pair in zip(before, new, strict=True))
        recent = slice(reached[0].shape[1] - self.reach, None)
        # Copies: a part of a tensor holds all of its memory.
        self.keys, self.values, self._is_key = (
            torch.cat([rows[:, : self.num_global], rows[:, recent]], dim=1) for rows in reached
        )
        self.num_tokens += key_states.shape[1]
        return reached  # type: ignore[return-value]

    def _start(
        self, keys: Tensor, values: Tensor, is_key: Tensor, pattern: AttentionPattern
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What stands before the first tokens: the global ones among them, then R that nothing attends to."""
        self.num_global = pattern.num_global
        nothing = (keys.new_zeros(keys.shape[0], self.reach, *keys.shape[2:]), is_key.new_zeros(len(keys), self.reach))
        if pattern.global_segments is None:
            return nothing[0], nothing[0], nothing[1]
        global_keys, global_values = (
            pattern.take_global(rows.flatten(2)).unflatten(2, rows.shape[2:]) for rows in (keys, values)
        )
        return (
            torch.cat([global_keys, nothing[0]], dim=1),
            torch.cat([global_values, nothing[0]], dim=1),
            torch.cat([pattern.global_segments >= 0, nothing[1]], dim=1),
        )

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the first `update` makes the tensors."""

    def get_seq_length(self) -> int:
        """How many tokens there were, also those forgotten."""
        return self.num_tokens

    def get_max_length(self) -> int:
        """-1, no maximum."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The length of an attention mask with `query_length` more tokens, and 0, its first token."""
        return self.num_tokens + query_length, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the rows of (B,) `beam_idx` in place of those there are."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows of these indices."""
        self._each(lambda tensor: tensor.index_select(0, indices.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times."""
        self._each(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.keys is not None and self.values is not None and self._is_key is not None:
            self.keys, self.values, self._is_key = change(self.keys), change(self.values), change(self._is_key)


class LongformerPlusCache(Cache):
    """The rolling cache of a causal LongformerPlus model: pass it as `past_key_values`.

    Args:
        config: the model's.

    Raises:
        ValueError: the model is not causal.
    """

    layers: list[RollingLayer]  # type: ignore[assignment]

    def __init__(self, config: LongformerPlusConfig) -> None:
        if not config.is_causal:
            raise ValueError(
                "is_causal=False goes with no cache: later tokens would change what earlier ones see. Set "
                "config.is_causal=True, or load a LongformerPlusForCausalLM."
            )
        reaches = [window // 2 * max(steps) for window, steps in zip(config.windows, config.dilations, strict=True)]
        super().__init__(layers=[RollingLayer(reach) for reach in reaches])
        self._positions: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """B of the forwards before, 0 if there were none."""
        return 0 if self.layers[0].keys is None else self.layers[0].keys.shape[0]

    def positions(self, counted: Tensor, first: int) -> Tensor:
        """(B, N) or (1, N) position ids that continue those of the tokens before.

        Args:
            counted: (B, N) or (1, N), as if the new tokens were a document of their own.
            first: the position id of a document's first token; those of padding are lower.
        """
        if self._positions is None:
            return counted
        return torch.where(counted < first, counted, counted + self._positions + 1 - first)

    def advance(self, position_ids: Tensor) -> None:
        """Note the (B, N) or (1, N) position ids of a forward."""
        last = position_ids.amax(dim=1, keepdim=True)
        # A row may have got nothing but padding.
        self._positions = last if self._positions is None else torch.maximum(self._positions, last)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._positions = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the rows of (B,) `beam_idx` in place of those there are."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows of these indices."""
        super().batch_select_indices(indices)
        self._change_positions(lambda rows: rows.index_select(0, indices.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times."""
        super().batch_repeat_interleave(repeats)
        self._change_positions(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def _change_positions(self, change: Callable[[Tensor], Tensor]) -> None:
        if self._positions is not None and self._positions.shape[0] > 1:
            self._positions = change(self._positions)

    def crop(self, tokens_to_remove: int) -> None:
        """
        Raises:
            ValueError: always. Assisted generation, which takes tokens back, needs a cache that forgets nothing.
        """
        raise ValueError(
            "A rolling cache cannot be shortened: what the window no longer reaches is forgotten. Generate without an "
            "assistant model, or with use_cache=False."
        )
