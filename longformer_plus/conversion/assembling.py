"""Building a model from a configuration and copies of weights, with a check of every name and shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from .reading import CheckpointError, check_layers, shortened

_Model = TypeVar("_Model", bound=PreTrainedModel)

_GLOBAL = re.compile(r"\.(query|key|value)_global\.")


def rename(weights: Mapping[str, Tensor], prefixes: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Weights under other names.

    Args:
        weights: by name.
        prefixes: pairs of an old and a new prefix. The first pair that matches a name is applied; other names stay.
    """
    renamed = {}
    for name, tensor in weights.items():
        old, new = next((pair for pair in prefixes if name.startswith(pair[0])), ("", ""))
        renamed[new + name.removeprefix(old)] = tensor
    return renamed


def drop(weights: Mapping[str, Tensor], prefixes: Sequence[str]) -> dict[str, Tensor]:
    """The weights whose names start with none of the prefixes."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(tuple(prefixes))}


def with_global_projections(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with `*_global` projections, copies of the local ones, as the paper starts from."""
    copies = {
        re.sub(r"\.self\.(query|key|value)\.", r".self.\1_global.", name): tensor
        for name, tensor in weights.items()
        if re.search(r"\.self\.(query|key|value)\.", name)
    }
    return {**weights, **copies}


def without_global_projections(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without those of the `*_global` projections."""
    return {name: tensor for name, tensor in weights.items() if not _GLOBAL.search(name)}


def assemble(
    model_class: type[_Model], config: PreTrainedConfig, weights: Mapping[str, Tensor], **options: bool
) -> _Model:
    """A model with copies of the weights, in evaluation mode.

    Args:
        model_class: the class.
        config: its configuration.
        weights: every weight of the model by name; those tied to another may be left out.
        options: further arguments of the class.

    Raises:
        CheckpointError: weights are missing or left over, or have other shapes than the configuration says.
    """
    check_layers(config.num_hidden_layers, weights)
    with torch.device("meta"):
        blank = model_class(config, **options)
    tied = blank.all_tied_weights_keys
    copies = {name: tensor.detach().clone() for name, tensor in weights.items() if name not in tied}
    copies.update({name: copies[source] for name, source in tied.items() if source in copies})
    _check_weights(blank, copies)
    # Not on the meta device: some models have buffers that are not among the weights.
    with no_init_weights():
        model = model_class(config, **options)
    model.load_state_dict(copies, assign=True)
    model.tie_weights()
    model.config.dtype = next(model.parameters()).dtype
    return model.eval()


def _check_weights(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    problems = {
        "missing": sorted(wanted.keys() - shapes.keys()),
        "unknown": sorted(shapes.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {shapes[name]}, not {shape}" for name, shape in wanted.items() if shapes.get(name, shape) != shape
        ],
        "no floating-point numbers": [
            f"{name} of {tensor.dtype}"
            for name, tensor in weights.items()
            if name in wanted and not tensor.is_floating_point()
        ],
    }
    if any(problems.values()):
        found = "; ".join(f"{problem}: {shortened(names)}" for problem, names in problems.items() if names)
        raise CheckpointError(f"The weights do not fit a {type(model).__name__}. {found}.")
