"""Attention for other tools: numpy, pandas, bertviz, and a page that needs nothing but a browser.

Shapes: N tokens, L layers, H heads, R rows (queries), C columns (keys), n tokens of a slice, k links of a token.
"""

from __future__ import annotations

import base64
import html
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .maps import AttentionMaps, Choice, Places
from .pictures import Picture, band, band_picture, global_picture
from .recording import DocumentMaps

if TYPE_CHECKING:
    import numpy
    import pandas

_ROWS_AT_ONCE = 256


def to_numpy(
    maps: AttentionMaps, layers: Choice = None, heads: Choice = None, rows: Places = None, columns: Places = None
) -> numpy.ndarray:
    """A dense slice (layers, heads, R, C) as a float32 array; arguments and errors as of `AttentionMaps.dense`."""
    return maps.dense(layers, heads, rows, columns).numpy()


def to_pandas(
    document: DocumentMaps, layers: Choice = None, heads: Choice = None, rows: Places = None, minimum: float = 0.01
) -> pandas.DataFrame:
    """The links of some tokens as a table: one line for each weight that is not too small.

    Args:
        document: a text and its attention.
        layers, heads, rows: whose links; see `AttentionMaps.dense`.
        minimum: the least weight.

    Returns:
        A frame with the columns layer, head, query, key (positions), offset, weight, is_global, query_token, key_token.

    Raises:
        ModuleNotFoundError: pandas is not installed.
    """
    import pandas

    maps, tokens = document.maps, document.tokens
    chosen_layers, chosen_heads = maps.choose_layers(layers), maps.choose_heads(heads)
    places = maps.positions(rows, "rows")
    is_global = maps.layout.global_rank >= 0
    every = torch.arange(maps.num_tokens)
    found: list[Tensor] = []
    values: list[Tensor] = []
    for layer in chosen_layers:
        for head in chosen_heads:
            for some in places.split(_ROWS_AT_ONCE):
                weights = maps.layers[layer].dense([head], some, every)[0]
                row, key = (weights >= max(minimum, torch.finfo(torch.float32).tiny)).nonzero(as_tuple=True)
                values.append(weights[row, key])
                where = torch.tensor([[layer], [head]]).expand(2, len(row))
                found.append(torch.cat([where, some[row][None], key[None]]))
    index = torch.cat(found, dim=1) if found else torch.zeros(4, 0, dtype=torch.long)
    query, key = index[2], index[3]
    return pandas.DataFrame(
        {
            "layer": index[0].numpy(),
            "head": index[1].numpy(),
            "query": query.numpy(),
            "key": key.numpy(),
            "offset": (key - query).numpy(),
            "weight": (torch.cat(values) if values else torch.zeros(0)).numpy(),
            "is_global": (is_global[query] | is_global[key]).numpy(),
            "query_token": [tokens[place] for place in query.tolist()],
            "key_token": [tokens[place] for place in key.tolist()],
        }
    )


def for_bertviz(
    document: DocumentMaps, start: int = 0, stop: int | None = None, layers: Choice = None, heads: Choice = None
) -> dict[str, Any]:
    """A short stretch of a document as bertviz takes it: `bertviz.head_view(**for_bertviz(document, 0, 60))`.

    Args:
        document: a text and its attention.
        start, stop: the stretch, in token positions; bertviz grows slow beyond some hundred tokens.
        layers, heads: which.

    Returns:
        "attention", a list with a tensor (1, heads, n, n) for each layer, and "tokens", n texts. What the tokens attend
        to outside of the stretch is left out, so that rows need not sum to 1.
    """
    stretch = slice(start, stop)
    weights = document.maps.dense(layers, heads, stretch, stretch)
    return {"attention": list(weights[:, None]), "tokens": document.tokens[stretch]}


def strongest_links(
    maps: AttentionMaps, layers: Choice = None, heads: Choice = None, top_k: int = 12
) -> tuple[Tensor, Tensor]:
    """For every token the keys that it attends to most, averaged over the layers and heads.

    Returns:
        (N, k) positions and (N, k) weights, strongest first; k is `top_k`, or N if that is less.
    """
    top_k = min(top_k, maps.num_tokens)
    windows, reach = band(maps, layers, heads)
    global_positions = maps.layout.global_positions
    every = torch.arange(maps.num_tokens)[:, None]
    keys = torch.cat([every + torch.arange(-reach, reach + 1), global_positions.expand(len(every), -1)], dim=1)
    weights = torch.cat([windows, maps.mean(layers, heads, columns=global_positions)], dim=1)
    # A short document may have fewer columns than links are asked for.
    weights, keys = (F.pad(part, (0, max(top_k - part.shape[1], 0))) for part in (weights, keys))
    best = weights.topk(top_k)
    places, values = keys.gather(1, best.indices).clamp(0, maps.num_tokens - 1), best.values
    for place in global_positions.tolist():
        values[place], places[place] = maps.mean(layers, heads, rows=place)[0].topk(top_k)
    return places, values


def to_html(
    document: DocumentMaps, layers: Choice = None, heads: Choice = None, top_k: int = 12, title: str = "Attention"
) -> str:
    """A page that shows the attention, without network or server: the text, whose tokens can be clicked, and pictures.

    Args:
        document: a text and its attention.
        layers, heads: which are averaged.
        top_k: links of each token that the page holds.
        title: the page's.
    """
    maps = document.maps
    places, weights = strongest_links(maps, layers, heads, top_k)
    data = {
        "text": document.text,
        "tokens": document.tokens,
        "offsets": document.offsets,
        "links": places.tolist(),
        "weights": [[round(weight, 5) for weight in row] for row in weights.tolist()],
        "global": maps.layout.global_positions.tolist(),
    }
    windows, global_ = band_picture(maps, layers, heads), global_picture(maps, "from", layers, heads)
    page = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    for name, value in (
        ("title", html.escape(title)),
        ("layers", _names(maps.choose_layers(layers), maps.num_layers, "layer")),
        ("heads", _names(maps.choose_heads(heads), maps.num_heads, "head")),
        ("band", _data_uri(windows)),
        ("band_largest", f"{windows.largest:.3g}"),
        ("reach", str(windows.first_row)),
        ("global", _data_uri(global_) if len(global_.shades) else ""),
        ("global_largest", f"{global_.largest:.3g}"),
        # Inside a script element nothing but "<" can end it.
        ("data", json.dumps(data).replace("<", "\\u003c")),
    ):
        page = page.replace(f"{{{{ {name} }}}}", value)
    return page


def _names(chosen: list[int], count: int, name: str) -> str:
    """ "mean of all 12 layers", "layer 3", "mean of layers 3, 5"; counted from 1, as people do."""
    if len(chosen) == 1:
        return f"{name} {chosen[0] + 1}"
    if len(chosen) == count:
        return f"mean of all {count} {name}s"
    return f"mean of {name}s {', '.join(str(index + 1) for index in chosen)}"


def _data_uri(picture: Picture) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.png()).decode()
