"""The rolling cache of causal generation: its size depends on window, dilation and global tokens, not on the length.

Shapes: B batch, N tokens of a forward, R tokens kept, H heads, D head size, G global tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from ..attention import AttentionPattern, LocalRows, continued_local_rows
from ..configuration import LongformerPlusConfig


class RollingLayer(CacheLayerMixin):
    """The cache of one layer: keys and values of the global tokens and of the last R tokens.

    While it records the past, as transformers' `DynamicSlidingWindowLayer` does, it keeps one row more for each token
    since the last `crop`, at most `max_crop`, so that `crop` can remove these tokens again.

    Args:
        reach: R, how many tokens back the layer's windows reach.
        max_crop: the most tokens that `crop` can remove.
    """

    supports_early_init = False
    is_croppable = True

    def __init__(self, reach: int, max_crop: int) -> None:
        super().__init__()
        self.reach = reach
        self.max_crop = max_crop
        self.record_past = False
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.num_tokens = 0
        self.num_global = 0
        self.num_recorded = 0
        self.keys, self.values = None, None  # (B, R + recorded, H, D)
        self._is_key: Tensor | None = None  # (B, R + recorded)
        # Keys and values of the global tokens (B, G, H, D), which of them are no fillers and their places (B, G).
        self._global: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def activate_past_recording(self) -> None:
        """From now on keep the rows that `crop` needs."""
        self.record_past = True

    def recorded_after(self, num_new: int) -> int:
        """How many tokens `crop` can remove after `num_new` more tokens."""
        return min(self.num_recorded + num_new, self.max_crop) if self.record_past else 0

    def update(  # type: ignore[override]
        self, key_states: Tensor, value_states: Tensor, pattern: AttentionPattern
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add the new tokens, and drop the tokens that later ones cannot attend to.

        Args:
            key_states, value_states: (B, N, H, D), from the local projections.
            pattern: the pattern of the forward. Only the first forward may have global tokens.

        Returns:
            Keys and values (B, G + R + N, H, D) of the global, the cached (R or more) and the new tokens, and which of
            them may be attended to, (B, G + R + N) bool; see `attention.continued_local_rows`. In the first forward the
            new tokens only.
        """
        new = (key_states, value_states, pattern.local_key_segments() >= 0)
        num_new = key_states.shape[1]
        recorded = self.recorded_after(num_new)
        if self.keys is None or self.values is None or self._is_key is None:
            self._keep_global(key_states, value_states, pattern)
            reached = new
            self.keys, self.values, self._is_key = (_last_rows(rows, self.reach + recorded) for rows in new)
        else:
            parts = [(self.keys, self.values, self._is_key), new]
            if self._global is not None:
                parts.insert(0, self._global[:3])
            reached = tuple(torch.cat(rows, dim=1) for rows in zip(*parts, strict=True))  # type: ignore[assignment]
            # A view is free, but keeps the memory of all rows alive: use it only if few rows are dropped.
            others = reached[0].shape[1] - self.reach - recorded
            last = (rows[:, others:] if others <= self.num_global + 1 else rows[:, others:].clone() for rows in reached)
            self.keys, self.values, self._is_key = last
        self.num_recorded = recorded
        self.num_tokens += num_new
        return reached

    def continue_with(
        self, key: Tensor, value: Tensor, pattern: AttentionPattern, local_rows: LocalRows, need_probabilities: bool
    ) -> tuple[Tensor, Tensor, LocalRows]:
        """Add the new tokens, and choose the keys, values and backend of the forward.

        Args:
            key, value: (B, N, H, D), from the local projections.
            pattern: the pattern of the forward.
            local_rows: the backend.
            need_probabilities: whether the probabilities are to be returned.

        Returns:
            In the first forward `key`, `value` and `local_rows` as they are. After that the keys and values
            (B, G + R + N, H, D) of the cached and the new tokens, and a backend that runs `continued_local_rows`.
        """
        continues, num_global = self.num_tokens > 0, self.num_global
        keys, values, is_key = self.update(key, value, pattern)
        if not continues:
            return key, value, local_rows

        def continued(
            query: Tensor,
            key: Tensor,
            value: Tensor,
            pattern: AttentionPattern,
            window: int,
            dilation: int = 1,
            dropout: float = 0.0,
        ) -> tuple[Tensor, Tensor | None]:
            return continued_local_rows(
                query, key, value, is_key, num_global, window, dilation, dropout, need_probabilities
            )

        return keys, values, continued

    def _keep_global(self, keys: Tensor, values: Tensor, pattern: AttentionPattern) -> None:
        """Keep the global tokens of the first forward."""
        self.num_global = pattern.num_global
        if pattern.global_segments is not None and pattern.global_index is not None:
            columns = (pattern.take_global(rows.flatten(2)).unflatten(2, rows.shape[2:]) for rows in (keys, values))
            self._global = (*columns, pattern.global_segments >= 0, pattern.global_index)

    def crop(self, tokens_to_remove: int) -> None:
        """Take the last tokens back, and forget what was recorded of those before.

        Args:
            tokens_to_remove: minus their number, or 0.

        Raises:
            ValueError: it is above 0, or there are more of them than were recorded.
        """
        removed = -int(tokens_to_remove)
        if removed < 0:
            raise ValueError(
                f"crop({-removed}) is not allowed: give minus the number of tokens that are to be taken back, such as "
                "crop(-1)."
            )
        if removed > self.num_recorded:
            raise ValueError(
                f"The last {removed} tokens cannot be taken back, only {self.num_recorded}: a rolling cache forgets "
                "what its windows no longer reach. Call activate_past_recording() before the forwards that are to be "
                f"taken back: then those since the last crop can, up to max_crop={self.max_crop} of "
                "LongformerPlusCache. In assisted generation, let the assistant guess fewer tokens at once."
            )
        if self.keys is None or self.values is None or self._is_key is None:
            return
        if removed == self.num_tokens:
            self.reset()
            return
        stop = self.keys.shape[1] - removed
        self.keys, self.values, self._is_key = (
            rows[:, stop - self.reach : stop] for rows in (self.keys, self.values, self._is_key)
        )
        self.num_tokens -= removed
        self.num_recorded = 0
        if removed and self._global is not None:
            keys, values, is_key, places = self._global
            self._global = (keys, values, is_key & (places < self.num_tokens), places)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the first `update` makes the tensors."""

    def get_seq_length(self) -> int:
        """How many tokens the layer has seen, dropped ones included."""
        return self.num_tokens

    def get_max_length(self) -> int:
        """Return -1: there is no maximum."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The length of an attention mask after `query_length` more tokens, and its offset, 0."""
        return self.num_tokens + query_length, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the rows of (B,) `beam_idx` in place of those there are."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows of these indices."""
        self._each(lambda tensor: tensor.index_select(0, indices.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row `repeats` times."""
        self._each(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.keys is not None and self.values is not None and self._is_key is not None:
            self.keys, self.values, self._is_key = change(self.keys), change(self.values), change(self._is_key)
        if self._global is not None:
            keys, values, is_key, places = self._global
            self._global = (change(keys), change(values), change(is_key), change(places))


def _last_rows(rows: Tensor, num_rows: int) -> Tensor:
    """(B, N, ...) -> (B, num_rows, ...), a copy of the last rows, padded on the left with zeros."""
    last = rows[:, -num_rows:]
    # `pad` makes a copy even if it adds no rows.
    return F.pad(last, (0, 0) * (rows.dim() - 2) + (num_rows - last.shape[1], 0))


class LongformerPlusCache(Cache):
    """The rolling cache of a causal LongformerPlus model: pass it as `past_key_values`.

    Args:
        config: the model's.
        max_crop: the most tokens that `crop` can remove, after `activate_past_recording`; assisted generation calls
            both.

    Raises:
        ValueError: the model is not causal.
    """

    layers: list[RollingLayer]  # type: ignore[assignment]

    def __init__(self, config: LongformerPlusConfig, max_crop: int = 256) -> None:
        if not config.is_causal:
            raise ValueError(
                "is_causal=False goes with no cache: later tokens would change what earlier ones see. Set "
                "config.is_causal=True, or load a LongformerPlusForCausalLM."
            )
        reaches = [window // 2 * max(steps) for window, steps in zip(config.windows, config.dilations, strict=True)]
        super().__init__(layers=[RollingLayer(reach, max_crop) for reach in reaches])
        # (B, 1 + recorded) or (1, ...), the highest position id up to each of the last tokens.
        self._positions: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """B of the cached rows, 0 before the first forward."""
        return 0 if self.layers[0].keys is None else self.layers[0].keys.shape[0]

    def positions(self, counted: Tensor, first: int) -> Tensor:
        """(B, N) or (1, N) position ids that continue those of the cached tokens.

        Args:
            counted: (B, N) or (1, N), position ids as if the new tokens were a document of their own.
            first: the position id of a document's first token; the position ids of padding are lower.
        """
        if self._positions is None:
            return counted
        return torch.where(counted < first, counted, counted + self._positions[:, -1:] + 1 - first)

    def advance(self, position_ids: Tensor) -> None:
        """Record the (B, N) or (1, N) position ids of a forward."""
        # A running maximum, since a row of the forward may be all padding.
        if recorded := self.layers[0].recorded_after(position_ids.shape[1]):
            if self._positions is not None:
                num_rows = max(len(position_ids), len(self._positions))
                both = (rows.expand(num_rows, -1) for rows in (self._positions, position_ids))
                position_ids = torch.cat(list(both), dim=1)
            self._positions = position_ids.cummax(dim=1).values[:, -1 - recorded :].clone()
            return
        last = position_ids.amax(dim=1, keepdim=True)
        self._positions = last if self._positions is None else torch.maximum(self._positions[:, -1:], last)

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
        """Repeat each row `repeats` times."""
        super().batch_repeat_interleave(repeats)
        self._change_positions(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def _change_positions(self, change: Callable[[Tensor], Tensor]) -> None:
        if self._positions is not None and self._positions.shape[0] > 1:
            self._positions = change(self._positions)

    def crop(self, tokens_to_remove: int) -> None:
        """Take the last tokens back, and forget what was recorded of those before.

        Args:
            tokens_to_remove: minus their number, or 0.

        Raises:
            ValueError: it is above 0, or there are more of them than were recorded.
        """
        super().crop(tokens_to_remove)
        if self._positions is not None:
            kept = self._positions[:, : self._positions.shape[1] + int(tokens_to_remove)]
            self._positions = kept[:, -1:].clone() if kept.shape[1] else None
