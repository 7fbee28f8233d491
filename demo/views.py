"""What the browser is sent of a document's attention: small dictionaries that JSON can hold.

Weights travel as bytes, one for each token, in base64: byte b stands for `largest * (b / 255) ** 2`.

Shapes: N tokens, L layers, H heads, G global tokens.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from longformer_plus.attention_maps import (
    AttentionMaps,
    DocumentMaps,
    Picture,
    Units,
    band_picture,
    global_picture,
    head_behaviour,
)
from longformer_plus.attention_maps.maps import Choice, Direction
from longformer_plus.attention_maps.pictures import MOST_COLUMNS, MOST_ROWS

STRONGEST = 16
# A line for each global token, as long as lines can be told apart.
_MOST_GLOBAL_ROWS = 64
# Columns and rows of the small picture of a head.
_TILE = (96, 28)


def weights_view(weights: Tensor) -> dict[str, Any]:
    """(N) weights not below 0 -> their bytes and the largest."""
    largest = float(weights.max()) if len(weights) else 0.0
    codes = (weights / (largest or 1.0)).clamp(min=0).sqrt().mul(255).round().to(torch.uint8)
    return {"codes": base64.b64encode(codes.numpy().tobytes()).decode(), "largest": largest}


def picture_view(picture: Picture) -> dict[str, Any]:
    """A picture as a byte for each pixel, in base64, and what its pixels mean.

    A PNG would be a quarter smaller, but the browser would have to decode it apart and read it back.
    """
    height, width = picture.shades.shape
    return {
        "shades": base64.b64encode(picture.shades.numpy().tobytes()).decode(),
        "width": width,
        "height": height,
        "largest": picture.largest,
        "tokensPerColumn": picture.tokens_per_column,
        "rowsPerPixel": picture.rows_per_pixel,
        "firstRow": picture.first_row,
    }


def text_view(text: str, tokens: list[str], offsets: list[tuple[int, int]]) -> dict[str, Any]:
    """A text and where its tokens are, as little-endian int32 in base64; names of tokens that have no characters."""
    stop = max((end for _, end in offsets), default=0)
    return {
        "text": text[:stop],
        "numTokens": len(offsets),
        "starts": packed([start for start, _ in offsets]),
        "stops": packed([end for _, end in offsets]),
        "names": {str(place): tokens[place] for place, (start, end) in enumerate(offsets) if end <= start},
    }


def document_view(document: DocumentMaps, units: Mapping[str, Units]) -> dict[str, Any]:
    """What does not change with the layer, the head or the token."""
    maps = document.maps
    return {
        **text_view(document.text, document.tokens, document.offsets),
        "units": {name: packed([start for start, _ in found.spans]) for name, found in units.items()},
        "globals": maps.layout.global_positions.tolist(),
        "windows": [layer.window for layer in maps.layers],
        "dilations": [layer.dilations for layer in maps.layers],
    }


@dataclass(frozen=True)
class Pictures:
    """The pictures of a layer and a head, or of several, averaged.

    Attributes:
        band: the windows.
        from_global: what the global tokens attend to.
        to_global: who attends to the global tokens.
    """

    band: Picture
    from_global: Picture
    to_global: Picture

    @classmethod
    def of(
        cls,
        maps: AttentionMaps,
        layers: Choice,
        heads: Choice,
        most_columns: int = MOST_COLUMNS,
        most_rows: int = MOST_ROWS,
        with_self: bool = False,
    ) -> Pictures:
        """In at most so many pixels; with or without the weight of each token on itself."""
        choice, size = (layers, heads), (most_columns, min(most_rows, _MOST_GLOBAL_ROWS))
        return cls(
            band_picture(maps, *choice, most_columns, most_rows, with_self),
            global_picture(maps, "from", *choice, *size),
            global_picture(maps, "to", *choice, *size),
        )


def layer_view(maps: AttentionMaps, layers: Choice, heads: Choice, pictures: Pictures) -> dict[str, Any]:
    """A layer and a head, or several, averaged, as their pictures and what each token receives."""
    return {
        "band": picture_view(pictures.band),
        "fromGlobal": picture_view(pictures.from_global),
        "toGlobal": picture_view(pictures.to_global),
        "received": weights_view(maps.received(layers, heads)),
    }


def heads_view(document: DocumentMaps) -> dict[str, Any]:
    """Every head: what it does, in names and numbers, and a small picture of its windows.

    The pictures are on one scale, which ends at the 99th percentile of all weights.
    """
    maps = document.maps
    pictures = [
        [band_picture(maps, layer, head, *_TILE, with_self=False) for head in range(maps.num_heads)]
        for layer in range(maps.num_layers)
    ]
    weights = [[picture.weights() for picture in row] for row in pictures]
    every = torch.cat([one.flatten() for row in weights for one in row])
    seen = every[every > 0]
    largest = float(seen.kthvalue(max(math.ceil(0.99 * len(seen)), 1)).values) if len(seen) else 0.0
    tiles = [
        [picture_view(_on_scale(picture, own, largest)) for picture, own in zip(*rows, strict=True)]
        for rows in zip(pictures, weights, strict=True)
    ]
    return {
        "tiles": tiles,
        "largest": largest,
        "entropy": _rounded(maps.entropy()),
        "distance": _rounded(maps.mean_distance()),
        "globalShare": _rounded(maps.global_share()),
        "behaviour": [
            [[one.name, round(one.share, 3)] for one in row] for row in head_behaviour(maps, document.tokens)
        ],
    }


def _on_scale(picture: Picture, weights: Tensor, largest: float) -> Picture:
    shades = (weights / (largest or 1.0)).clamp(max=1).sqrt().mul(255).round().to(torch.uint8)
    return replace(picture, shades=shades.contiguous(), largest=largest)


def links_view(maps: AttentionMaps, token: int, direction: Direction, layers: Choice, heads: Choice) -> dict[str, Any]:
    """What a token attends to, or who attends to it."""
    links = maps.links(token, direction, layers, heads, top_k=STRONGEST)
    return {
        "token": token,
        "direction": direction,
        "weights": weights_view(links.weights),
        "local": links.local,
        "global": links.global_,
        "strongest": [[link.position, link.position, link.weight, link.is_global] for link in links.strongest],
    }


def packed(values: list[int]) -> str:
    """Positions as little-endian int32 in base64: thousands of numbers are slow to watch for changes in the page."""
    return base64.b64encode(torch.tensor(values, dtype=torch.int32).numpy().astype("<i4").tobytes()).decode()


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in values.tolist()]
