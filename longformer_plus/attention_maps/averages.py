"""The average of several layers and heads, kept as one.

Shapes: N tokens, G global tokens.
"""

from __future__ import annotations

import torch

from .layer import LayerMaps
from .maps import AttentionMaps, Choice
from .pictures import band


def average(maps: AttentionMaps, layers: Choice = None, heads: Choice = None, bits: int = 16) -> AttentionMaps:
    """One layer with one head that attends as some layers and heads do on average.

    Reading the windows of all layers and heads takes a second for a document of 4096 tokens at base size; who asks for
    their average again and again asks this. Its window is the widest of theirs, and its statistics are those of the
    averaged weights.

    Args:
        maps: the attention of a model.
        layers, heads: which are averaged.
        bits: 8, 16 or 32 for each weight.
    """
    windows, reach = band(maps, layers, heads)
    # A window wider than the document holds nothing there.
    cut = max(reach - (maps.num_tokens - 1), 0)
    windows = windows[:, cut : windows.shape[1] - cut]
    num_global = len(maps.layout.global_positions)
    chosen, wanted = [maps.layers[layer] for layer in maps.choose_layers(layers)], maps.choose_heads(heads)
    to_global = torch.zeros(maps.num_tokens, num_global)
    from_global = torch.zeros(num_global, maps.num_tokens)
    for layer in chosen if num_global else []:
        to_global += layer.local.total(wanted, columns=slice(num_global))
        from_global += layer.from_global(wanted)
    count = len(chosen) * len(wanted)
    local = torch.cat([to_global / count, windows], dim=1)
    one = from_global.T[None] / count if num_global else None
    return AttentionMaps([LayerMaps.build(local[None], one, maps.layout, [1], bits)])
