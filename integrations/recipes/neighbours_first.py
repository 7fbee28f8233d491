"""First weights for masked models of small budgets: heads that look at the tokens beside each token."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from longformer_plus import LongformerPlusPreTrainedModel

# Of the neighbour that a head attends to at first: most of the weight among some hundred tokens.
_LOGIT = 11.2


@torch.no_grad()
def attend_to_neighbours(model: LongformerPlusPreTrainedModel) -> None:
    """Start a model that has not learned to fill masks with heads that look at the tokens beside each token.

    A masked model sees nothing at the place of a mask, and one with random weights takes millions of tokens to find
    that positions matter, during which it learns how frequent tokens are and nothing else. Here positions start as
    waves in as many features as a head has, and the queries and keys of the first layer read these alone: its heads
    attend to the tokens at -1, 1, -2, 2 and so on. All of it is trained on. Global projections stay as they are.

    Weights that start like trained ones: Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers", 2023;
    waves as positions: Vaswani et al., "Attention Is All You Need", 2017.
    """
    body: Any = model.base_model
    config, embeddings, attention = model.config, body.embeddings, body.encoder.layer[0].attention.self
    size = config.hidden_size // config.num_attention_heads
    # Spaced unevenly, so that no two distances look alike.
    frequencies = math.pi * ((torch.arange(size // 2) + 0.5) / (size // 2)) ** 1.5
    # Twice as strong as the words in these features.
    amplitude = 2 * 2**0.5 * float(embeddings.word_embeddings.weight.std())
    table = embeddings.position_embeddings.weight
    angles = torch.arange(config.max_tokens)[:, None] * frequencies
    table.zero_()
    waves = table[-config.max_tokens :, : 2 * (size // 2)]
    waves[:, ::2], waves[:, 1::2] = amplitude * angles.cos(), amplitude * angles.sin()

    # After the layer norm of the embeddings; then the logit of the wanted distance is _LOGIT, of others near 0.
    squared_amplitude = 8 / (1 + 4 * size / config.hidden_size)
    scale = (_LOGIT * size**0.5 / (size // 2 * squared_amplitude)) ** 0.5
    for head in range(config.num_attention_heads):
        distance = (head // 2 + 1) * (-1) ** (head + 1)
        rows = slice(head * size, (head + 1) * size)
        for projection, steps in ((attention.query, distance), (attention.key, 0)):
            projection.weight[rows] = 0
            projection.bias[rows] = 0
            turned = torch.block_diag(*(_rotation(float(angle)) for angle in frequencies * steps))
            projection.weight[rows, : len(turned)][: len(turned)] = scale * turned


def _rotation(angle: float) -> Tensor:
    cosine, sine = math.cos(angle), math.sin(angle)
    return torch.tensor([[cosine, -sine], [sine, cosine]])
