"""Attention as pictures of bounded size: the band of the windows, and the rows and columns of the global tokens.

Shapes: N tokens, G global tokens, W window; h and w height and width of a picture, in pixels.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .maps import AttentionMaps, Choice

MOST_COLUMNS = 2048
MOST_ROWS = 512


@dataclass(frozen=True)
class Picture:
    """Weights as shades of grey: a pixel of shade s stands for the weight `largest * (s / 255) ** 2`.

    The square keeps small weights, which are most, apart from nothing. A pixel that stands for several positions shows
    the largest of their weights.

    Attributes:
        shades: (h, w) uint8.
        largest: the weight of shade 255.
        tokens_per_column: positions that share a column.
        rows_per_pixel: rows (offsets or global tokens) that share a row of pixels.
        first_row: what the first row is: an offset in tokens, or the index of a global token.
    """

    shades: Tensor
    largest: float
    tokens_per_column: int
    rows_per_pixel: int
    first_row: int

    def weights(self) -> Tensor:
        """(h, w) float32, back from the shades."""
        return (self.shades.float() / 255).square() * self.largest

    def png(self) -> bytes:
        """The picture as a greyscale PNG file."""
        height, width = self.shades.shape
        lines = F.pad(self.shades, (1, 0)).contiguous().numpy().tobytes()  # each line starts with its filter: none
        header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 1)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in parts
        )


def band(maps: AttentionMaps, layers: Choice = None, heads: Choice = None) -> tuple[Tensor, int]:
    """The windows of all tokens, averaged over layers and heads.

    Returns:
        (N, 2 * reach + 1) and reach, the farthest that any of the windows goes, in tokens: column k holds the weights
        that tokens give to the one k - reach tokens after them. Heads with a dilation fill every d-th column. Rows of
        global tokens, and weights given to global tokens, are 0: they are no part of a window.
    """
    chosen = [(maps.layers[layer], head) for layer in maps.choose_layers(layers) for head in maps.choose_heads(heads)]
    reach = max(layer.reach(head) for layer, head in chosen)
    total = torch.zeros(maps.num_tokens, 2 * reach + 1)
    for layer, head in chosen:
        own = layer.reach(head)
        total[:, reach - own : reach + own + 1 : layer.dilations[head]] += layer.band(head)
    return total.div_(len(chosen)), reach


def band_picture(
    maps: AttentionMaps,
    layers: Choice = None,
    heads: Choice = None,
    most_columns: int = MOST_COLUMNS,
    most_rows: int = MOST_ROWS,
) -> Picture:
    """The band as a picture: a column for each position, from left to right, a row for each offset, from the farthest
    after the token at the top to the farthest before it at the bottom."""
    weights, reach = band(maps, layers, heads)
    # Beyond the document there is nothing to show.
    cut = max(reach - (maps.num_tokens - 1), 0)
    weights = weights[:, cut : weights.shape[1] - cut]
    return _paint(weights.T.flip(0), reach - cut, most_columns, most_rows)


def global_picture(
    maps: AttentionMaps,
    direction: Literal["to", "from"] = "from",
    layers: Choice = None,
    heads: Choice = None,
    most_columns: int = MOST_COLUMNS,
    most_rows: int = MOST_ROWS,
) -> Picture:
    """The global part as a picture: a row for each global token, a column for each position.

    With "from" a row shows what the global token attends to, with "to" how much the tokens attend to it. Without global
    tokens the picture has no rows.
    """
    places = maps.layout.global_positions
    if direction == "from":
        weights = maps.mean(layers, heads, rows=places)
    else:
        weights = maps.mean(layers, heads, columns=places).T
    return _paint(weights, 0, most_columns, most_rows)


def _paint(weights: Tensor, first_row: int, most_columns: int, most_rows: int) -> Picture:
    """(rows, N) weights -> their picture, by the largest weight of the places that share a pixel."""
    rows, columns = weights.shape
    if not rows:
        return Picture(torch.zeros(0, columns, dtype=torch.uint8), 0.0, 1, 1, first_row)
    by_column, by_row = math.ceil(columns / most_columns), math.ceil(rows / most_rows)
    if by_column > 1 or by_row > 1:
        size = (by_row, by_column)
        weights = F.max_pool2d(weights[None, None].contiguous(), size, size, ceil_mode=True)[0, 0]
    largest = float(weights.max())
    shades = (weights / (largest or 1.0)).sqrt().mul(255).round().to(torch.uint8)
    return Picture(shades.contiguous(), largest, by_column, by_row, first_row)
