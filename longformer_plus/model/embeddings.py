"""Word, position and token type embeddings.

Shapes: B batch, N tokens, E hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..attention import places_in
from ..configuration import LongformerPlusConfig
from ..ops.int8_weights import Int8Embedding


def tile_positions(table: Tensor, num_reserved: int, num_rows: int) -> Tensor:
    """Change the length of a position table: repeat its rows for tokens (the paper's section 5), or cut them.

    Args:
        table: (positions, E).
        num_reserved: how many of its first rows are not for tokens: those up to and including the padding index.
        num_rows: the number of rows of the result, including the reserved ones.

    Returns:
        (num_rows, E).

    Raises:
        ValueError: either table has no rows for tokens.
    """
    num_copied = table.shape[0] - num_reserved
    if num_copied < 1 or num_rows <= num_reserved:
        raise ValueError(
            f"A position table of {table.shape[0]} rows cannot be made one of {num_rows}: the first {num_reserved} are "
            "for no token, and both need more than these."
        )
    places = torch.arange(num_rows - num_reserved, device=table.device) % num_copied
    return torch.cat([table[:num_reserved], table[num_reserved:][places]])


class LongformerPlusEmbeddings(nn.Module):
    """Word, position and token type embeddings, summed and normalised. Parameter names and positions are RoBERTa's."""

    def __init__(self, config: LongformerPlusConfig) -> None:
        super().__init__()
        self.padding_idx: int = config.pad_token_id  # type: ignore[assignment]
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=self.padding_idx)
        self.position_embeddings = nn.Embedding(
            config.max_position_embeddings, config.hidden_size, padding_idx=self.padding_idx
        )
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def positions(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, segments: Tensor | None = None
    ) -> Tensor:
        """(B, N) or (1, N) position ids, counted from the padding index + 1; padding has the padding index.

        They start again in each segment of the (B, N) `segments`.
        """
        start = self.padding_idx + 1
        if input_ids is None:
            if segments is not None:
                return places_in(segments) + start
            return torch.arange(start, start + inputs_embeds.shape[1], device=inputs_embeds.device)[None]  # type: ignore[union-attr]
        is_token = input_ids != self.padding_idx
        count = is_token.long().cumsum(dim=1)
        if segments is not None:
            first = torch.arange(count.shape[1], device=count.device) - places_in(segments)
            count = count - (count - is_token.long()).gather(1, first)
        return count * is_token + self.padding_idx

    def resize_positions(self, num_rows: int) -> None:
        """Change the number of rows of the position table by `tile_positions`."""
        old = self.position_embeddings
        table = tile_positions(old.weight.detach(), self.padding_idx + 1, num_rows)
        if isinstance(old, Int8Embedding):  # each row holds its scale
            self.position_embeddings = old.with_weight(table)
            return
        self.position_embeddings = nn.Embedding.from_pretrained(table, freeze=False, padding_idx=self.padding_idx)
        self.position_embeddings.weight.requires_grad_(old.weight.requires_grad)

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor,
        inputs_embeds: Tensor | None,
    ) -> Tensor:
        """(B, N) ids, or (B, N, E) word embeddings -> (B, N, E)."""
        embeddings = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if token_type_ids is None:
            token_types = self.token_type_embeddings(torch.zeros_like(position_ids[:, :1]))
        else:
            token_types = self.token_type_embeddings(token_type_ids)
        embeddings = embeddings + self.position_embeddings(position_ids) + token_types
        return self.dropout(self.LayerNorm(embeddings))
