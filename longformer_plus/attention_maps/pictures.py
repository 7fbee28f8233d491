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
    chosen, wanted = [maps.layers[layer] for layer in maps.choose_layers(layers)], maps.choose_heads(heads)
    reach = max(layer.reach(head) for layer in chosen for head in wanted)
    total = torch.zeros(maps.num_tokens, 2 * reach + 1)
    for layer in chosen:
        for step, alike in layer.by_dilation(wanted):
            own = layer.reach(alike[0])
            layer.add_band(alike, total[:, reach - own : reach + own + 1 : step])
    return total.div_(len(chosen) * len(wanted)), reach


def band_picture(
    maps: AttentionMaps,
    layers: Choice = None,
    heads: Choice = None,
    most_columns: int = MOST_COLUMNS,
    most_rows: int = MOST_ROWS,
    with_self: bool = True,
) -> Picture:
    """The band as a picture: a column for each position, from left to right, a row for each offset, from the farthest
    after the token at the top to the farthest before it at the bottom.

    Without `with_self` the weight of each token on itself, often many times the others, is left out.
    """
    weights, reach = band(maps, layers, heads)
    if not with_self:
        weights[:, reach] = 0
    # Beyond the document there is nothing to show.
    cut = max(reach - (maps.num_tokens - 1), 0)
    weights = weights[:, cut : weights.shape[1] - cut]
    return _paint(weights, reach - cut, most_columns, most_rows, last_on_top=True)


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
    chosen, wanted = [maps.layers[layer] for layer in maps.choose_layers(layers)], maps.choose_heads(heads)
    shape = (len(places), maps.num_tokens)
    weights = torch.zeros(shape if direction == "from" else shape[::-1])
    # As they lie: looking each pair up, as `mean` does, takes five to twelve times as long.
    for layer in chosen if len(places) else []:
        weights += layer.from_global(wanted) if direction == "from" else layer.to_global(wanted)
    weights.div_(len(chosen) * len(wanted))
    return _paint(weights.T if direction == "from" else weights, 0, most_columns, most_rows)


def _paint(weights: Tensor, first_row: int, most_columns: int, most_rows: int, last_on_top: bool = False) -> Picture:
    """(N, rows) weights -> their picture, by the largest weight of the places that share a pixel."""
    by_column, by_row = _shared(weights.shape[0], most_columns), _shared(weights.shape[1], most_rows)
    pixels = _largest_of_blocks(weights, by_column, by_row, last_on_top)
    largest = float(pixels.max()) if pixels.numel() else 0.0
    shades = (pixels / (largest or 1.0)).sqrt_().mul_(255).round_().to(torch.uint8)
    return Picture(shades.contiguous(), largest, by_column, by_row, first_row)


def _shared(count: int, most: int) -> int:
    """How many share a pixel."""
    return max(math.ceil(count / most), 1)


def _largest_of_blocks(values: Tensor, by_column: int, by_row: int, last_on_top: bool = False) -> Tensor:
    """(N, rows) values not below 0 -> (h, w), the largest of those that share a pixel, counted from the picture's top.

    It is made small before it is turned: turning all of a band costs several times as much as the rest.
    """
    whole = values.shape[0] // by_column * by_column
    columns = values[:whole].unflatten(0, (-1, by_column)).amax(1)
    if whole < values.shape[0]:
        columns = torch.cat([columns, values[whole:].amax(0, keepdim=True)])
    missing = -values.shape[1] % by_row
    padded = F.pad(columns, (missing, 0) if last_on_top else (0, missing))
    pixels = padded.unflatten(1, (-1, by_row)).amax(2) if columns.shape[1] else columns
    return (pixels.flip(1) if last_on_top else pixels).T
