"""What a masked language model would say at a token, layer by layer: the logit lens (nostalgebraist, 2020).

Shapes: N tokens, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..model.heads import LongformerPlusForMaskedLM


@torch.no_grad()
def logit_lens(
    model: LongformerPlusForMaskedLM, inputs: Mapping[str, Tensor], token: int, top_k: int = 5
) -> list[list[tuple[int, float]]]:
    """The likeliest words at a token, read from each layer's output with the head for the last one.

    Args:
        model: a masked language model.
        inputs: what its forward takes: one document.
        token: a position in it.
        top_k: how many words.

    Returns:
        For the embeddings and each of the L layers, `top_k` pairs of a word's id and its probability, likeliest first.

    Raises:
        ValueError: the model has no head for masked words, there are several documents, or no such token.
    """
    if not isinstance(model, LongformerPlusForMaskedLM):
        raise ValueError(
            f"{type(model).__name__} has no head for masked words. Load the checkpoint with LongformerPlusForMaskedLM."
        )
    count, num_tokens = next(iter(inputs.values())).shape
    if count != 1 or not 0 <= token < num_tokens:
        raise ValueError(
            f"token={token} in {count} documents of {num_tokens} tokens is not allowed: give one document, and a "
            f"position from 0 to {num_tokens - 1}."
        )
    was_training = model.training
    model.eval()
    try:
        outputs = model.longformer(**inputs, output_hidden_states=True, return_dict=True)
        states = torch.stack([layer[0, token] for layer in outputs.hidden_states])  # (L + 1, E)
        best = model.lm_head(states).float().softmax(-1).topk(top_k)
    finally:
        model.train(was_training)
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [list(zip(ids, values, strict=True)) for ids, values in rows]
