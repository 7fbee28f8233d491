"""Checkpoints of TFLongformer..., which transformers no longer reads: `tf_model.h5`, by h5py alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LongformerConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from ..configuration import LongformerPlusConfig
from ..model.encoder import LongformerPlusModel
from ..model.pretrained import LongformerPlusPreTrainedModel
from .assembling import assemble, drop, rename
from .longformer import class_named
from .reading import (
    TENSORFLOW,
    Checkpoint,
    CheckpointError,
    find_checkpoint,
    guarded,
    load_tokenizer,
    read_config,
    weight_files,
)
from .writing import check_output, save

# The parts of TFLongformer models. In a path, the names of the layer's group and of the model come before them.
_PARTS = ("longformer", "lm_head", "classifier", "qa_outputs")
# What TensorFlow calls a layer's variables; a kernel is (inputs, outputs), a weight of torch (outputs, inputs).
_VARIABLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "embeddings": "weight",
    "weight": "weight",
}


def convert_from_tensorflow(
    path: Checkpoint,
    save_to: Checkpoint | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overwrite: bool = False,
) -> LongformerPlusPreTrainedModel:
    """A LongformerPlus model from what a TFLongformer model has saved, every head. Needs the extra `tensorflow`.

    Args:
        path: the folder or name on the hub: config.json, and tf_model.h5 whole or in parts.
        save_to: a new folder for the model and its tokenizer; by default nothing is written.
        tokenizer: to be saved with it; read from the folder if it has one.
        overwrite: replace the checkpoint at `save_to`.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: the files are damaged, unsafe, incomplete, or of another model.
        FileExistsError: `save_to` exists.
        ModuleNotFoundError: h5py is not installed.
    """
    check_output(save_to, overwrite)
    folder = find_checkpoint(path)
    fields = read_config(folder)
    model_class = class_named(fields.get("architectures"), folder)
    weights = read_tensorflow_weights(folder)
    unsaved = {"architectures", "model_type", "transformers_version"}
    native = guarded(
        folder / "config.json",
        lambda: LongformerConfig(**{name: value for name, value in fields.items() if name not in unsaved}),
    )
    config = LongformerPlusConfig.from_longformer(native)
    if model_class is LongformerPlusModel:
        model: Any = assemble(model_class, config, rename(weights, [("longformer.", "")]))
    else:
        # Their heads had a pooler at first, which nothing used.
        unused = [] if "ForMultipleChoice" in model_class.__name__ else ["longformer.pooler."]
        model = assemble(model_class, config, drop(weights, unused))
    if save_to is not None:
        save(model, tokenizer or load_tokenizer(folder), save_to, overwrite)
    return model


def read_tensorflow_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder's tf_model.h5 under torch's names, in torch's layout.

    Raises:
        CheckpointError: a file is damaged, or has what no such model has.
        ModuleNotFoundError: h5py is not installed.
    """
    if importlib.util.find_spec("h5py") is None:
        raise ModuleNotFoundError("Not installed: h5py. Run `pip install longformer-plus[tensorflow]`.")
    weights: dict[str, Tensor] = {}
    for file in logging.tqdm(weight_files(folder, [TENSORFLOW]), desc="Reading", unit="file", leave=False):
        weights.update(guarded(file, lambda file=file: _read_file(file)))  # type: ignore[misc]
    return weights


def _read_file(file: Path) -> dict[str, Tensor]:
    import h5py

    found: dict[str, h5py.Dataset] = {}
    with h5py.File(file, "r") as archive:
        # Links to other files are not followed.
        archive.visititems(lambda path, entry: found.setdefault(path, entry) and None)
        datasets = {path: entry for path, entry in found.items() if isinstance(entry, h5py.Dataset)}
        return dict(_read_variable(path, dataset) for path, dataset in datasets.items())


def _read_variable(path: str, dataset: Any) -> tuple[str, Tensor]:
    """A variable's name and value, for torch."""
    # Keras stores plain data. Other storage could refer to another file, or expand to any size.
    if dataset.external or dataset.is_virtual or dataset.id.get_storage_size() != dataset.nbytes:
        raise CheckpointError(f"{path} is not stored as Keras stores variables, and is not read.")
    tensor = torch.from_numpy(dataset[()])
    parts = path.removesuffix(":0").replace("_._", "/").split("/")
    start = max((index for index, part in enumerate(parts) if part in _PARTS), default=None)
    variable = _VARIABLES.get(parts[-1])
    if start is None or variable is None:
        raise CheckpointError(f"{path} is no variable of TFLongformer")
    name = ".".join([*parts[start:-1], variable])
    return name, tensor.T.contiguous() if parts[-1] == "kernel" else tensor
