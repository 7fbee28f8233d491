"""The size of a model: its number of parameters, and its measured memory at a length."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from ..configuration import LongformerPlusConfig
from ..conversion.longformer import CLASSES
from ..model.heads import LongformerPlusForMultipleChoice
from ..model.pretrained import LongformerPlusPreTrainedModel
from .measuring import peak_beyond

_ADAMW_STATES = 2
_BYTES = 4  # of float32


@dataclass(frozen=True)
class Memory:
    """The memory of a model at a length on this machine, in bytes, for one document in float32.

    Attributes:
        weights: of the parameters.
        forward: of a forward without gradients, beyond the weights.
        training: of a training step with AdamW, beyond the weights: gradients, its two moments, and what the layers
            keep for the backward pass.
    """

    weights: int
    forward: int
    training: int


def memory_at(model_class: type[LongformerPlusPreTrainedModel], config: LongformerPlusConfig, length: int) -> Memory:
    """Measure the memory that a model of this configuration needs. Linux only.

    Runs models with random weights and one or two layers, each in a process of its own. Every further layer adds to a
    training step as much as the second one, and nothing to a forward.

    Args:
        model_class: one of this package.
        config: its configuration.
        length: N, the tokens of the document; positions are made for it where the model has too few.

    Raises:
        ValueError: `length` is below 1, or memory cannot be measured here.
    """
    if length < 1:
        raise ValueError(f"length={length} is not allowed: it must be at least 1.")
    if not Path("/proc/self/clear_refs").exists():
        raise ValueError("Memory can be measured on Linux only.")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])  # so that each process starts with what this one has imported
    runs = [(1, False), (1, True), (2, True)]
    fields = config.to_dict()
    peaks = []
    for layers, training in logging.tqdm(runs, desc="Measuring", leave=False):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            work = partial(_peak, model_class.__name__, fields, length, layers, training)
            peaks.append(pool.submit(work).result())
    forward, one, two = peaks
    num_parameters = count_parameters(model_class, config)
    kept = one + (two - one) * (config.num_hidden_layers - 1)
    states = (1 + _ADAMW_STATES) * num_parameters * _BYTES
    return Memory(num_parameters * _BYTES, forward, kept + states)


def count_parameters(model_class: type[LongformerPlusPreTrainedModel], config: LongformerPlusConfig) -> int:
    """The number of parameters of a model; tied ones count once."""
    with torch.device("meta"):
        return model_class(config).num_parameters()


def _peak(name: str, fields: dict[str, Any], length: int, layers: int, training: bool) -> int:
    """The peak of one run, without the gradients of the parameters, which are counted apart."""
    Path("/proc/self/oom_score_adj").write_text("1000")  # if one must be killed, this process and not its parent
    model_class = CLASSES[name]
    config = LongformerPlusConfig(**_with_layers(fields, layers))
    config.max_position_embeddings = max(config.max_position_embeddings, length + config.pad_token_id + 1)  # type: ignore[operator]
    model = model_class(config).train(training)
    shape = (1, 1, length) if model_class is LongformerPlusForMultipleChoice else (1, length)
    ids = torch.full(shape, config.vocab_size - 1)
    is_global = torch.zeros_like(ids)
    is_global[..., 0] = 1
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def run() -> None:
        with torch.set_grad_enabled(training):
            outputs: Tensor = model(ids, global_attention_mask=is_global)[0]
            if training:
                outputs.float().square().mean().backward()

    return peak_beyond(run)


def _with_layers(fields: dict[str, Any], layers: int) -> dict[str, Any]:
    """A configuration's fields for fewer layers: the first, which mostly are like the others."""
    shortened = {name: fields[name] for name in fields if name not in ("model_type", "transformers_version")}
    for name in ("attention_window", "attention_dilation"):
        if isinstance(fields[name], (list, tuple)):
            shortened[name] = list(fields[name])[:layers]
    return {**shortened, "num_hidden_layers": min(layers, fields["num_hidden_layers"])}
