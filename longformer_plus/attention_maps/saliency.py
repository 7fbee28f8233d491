"""Gradient x input: how much each token's embedding counts for one number that the model computes.

Attention says where a layer looks; this says what the result depends on. Where the two differ, trust this one.

Shapes: N tokens, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


def gradient_times_input(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], target: Callable[[Any], Tensor]
) -> Tensor:
    """Gradient x input (Shrikumar et al., 2016) of one document, without dropout.

    Args:
        model: any transformers model with word embeddings.
        inputs: what its forward takes, with `input_ids` (1, N); with a `global_attention_mask` where the tokens that
            attend globally are chosen by their ids.
        target: the model's outputs -> the scalar that is explained, such as the logit of a class.

    Returns:
        (N), positive where a token speaks for the scalar, negative where it speaks against it: to first order, the
        change that taking the token's embedding away would undo.

    Raises:
        ValueError: there are several documents, or the target is no scalar.
    """
    rest = dict(inputs)
    ids = rest.pop("input_ids")
    if ids.shape[0] != 1:
        raise ValueError(f"input_ids of shape {tuple(ids.shape)} are not allowed: give one document, (1, N).")
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
            value = target(model(inputs_embeds=embeddings, **rest))
            if value.numel() != 1:
                raise ValueError(f"A target of shape {tuple(value.shape)} is not allowed: give one number.")
            (gradient,) = torch.autograd.grad(value.sum(), embeddings)
    finally:
        model.train(was_training)
    return (gradient * embeddings.detach()).sum(-1)[0].cpu()
