"""How much tokens contribute: attention weights times the size of what they carry.

A large weight on a token whose value is small moves little (Kobayashi et al., 2020, "Attention is Not Only a Weight").
What head h carries from token j to token i is `weight * f_h(x_j)`, where f_h is the head's value projection followed by
its part of the output projection. Heads are added up before the norm is taken: they may cancel one another.

Shapes: N tokens, H heads, D head size, E hidden size, R rows (queries), C columns (keys).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .maps import AttentionMaps, Choice, Places, check_size

_TOKENS_AT_ONCE = 512


def contributions(
    maps: AttentionMaps, layers: Choice = None, heads: Choice = None, rows: Places = None, columns: Places = None
) -> Tensor:
    """(R, C) the norm of what some heads together carry from each column to each row, averaged over layers.

    Args:
        maps: made with `with_values=True`.
        layers, heads, rows, columns: as of `AttentionMaps.dense`.

    Raises:
        ValueError: the maps hold no values, an index is out of range, or the slice has too many entries.
    """
    chosen, wanted = maps.choose_layers(layers), maps.choose_heads(heads)
    r, c = maps.positions(rows, "rows"), maps.positions(columns, "columns")
    check_size((1, len(wanted), len(r), len(c)))
    is_global = maps.layout.global_rank[r] >= 0
    total = torch.zeros(len(r), len(c))
    for layer in (maps.layers[index] for index in chosen):
        if layer.values is None:
            raise ValueError("The maps hold no values. Make them with attention_maps(..., with_values=True).")
        weights = layer.dense(wanted, r, c)
        for which, products in ((~is_global, layer.values), (is_global, layer.global_values)):
            if products is not None and bool(which.any()):
                part = products[c][:, wanted][:, :, wanted]  # (C, heads, heads)
                own = weights[:, which]
                squared = (torch.einsum("hrc,chk->krc", own, part) * own).sum(0)
                total[which] += squared.clamp_(min=0).sqrt_()
    return total / len(chosen)


def num_value_bytes(maps: AttentionMaps) -> int:
    """What the values of all layers take in memory, whether the maps hold them or not."""
    kinds = 2 if len(maps.layout.global_positions) else 1
    return sum(4 * kinds * maps.num_tokens * layer.num_heads**2 for layer in maps.layers)


def value_products(value: nn.Module, output: nn.Module, hidden_states: Tensor, num_heads: int) -> Tensor:
    """The inner products of what the heads carry from each token: with them the norm of any sum of it is known.

    Args:
        value: a layer's value projection, E -> E.
        output: its output projection, E -> E; any linear map, with an adapter or not.
        hidden_states: (N, E), the layer's input.
        num_heads: H.

    Returns:
        (N, H, H) float32 on the CPU.
    """
    width = hidden_states.shape[-1]
    basis = torch.eye(width, dtype=hidden_states.dtype, device=hidden_states.device)
    matrix = output(basis) - output(torch.zeros_like(basis[:1]))  # (E, E), the bias taken out
    by_head = matrix.float().unflatten(0, (num_heads, -1))  # (H, D, E)
    products = []
    for some in hidden_states.split(_TOKENS_AT_ONCE):
        values = value(some).float().unflatten(-1, (num_heads, -1))  # (n, H, D)
        carried = (values.transpose(0, 1) @ by_head).transpose(0, 1)  # (n, H, E)
        products.append((carried @ carried.transpose(1, 2)).cpu())
    return torch.cat(products)
