"""Reading checkpoints from unknown sources: no code in them is executed, and damaged files are refused.

Before anything is built from the files, these are checked: sizes, the headers of safetensors, the compression of
pickles, and the names in an index. transformers and torch then read the files, pickles with `weights_only`.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..model.silence import silence

logger = logging.get_logger(__name__)

Checkpoint = str | os.PathLike[str]

# In order of preference; of each kind, the whole file before the index of its parts.
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
TENSORFLOW = ("tf_model.h5", "tf_model.h5.index.json")

# Bytes. The largest tokenizers in use have some 35 MB.
_LARGEST_JSON = 16 * 2**20
_LARGEST_TOKENIZER = 128 * 2**20
# transformers makes a name for each label: a damaged number could fill the memory.
_MOST_LABELS = 10**6
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "sentencepiece.bpe.model", "spiece.model")
_BESIDE_VOCABULARIES = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")

_Read = TypeVar("_Read")
_Model = TypeVar("_Model", bound=PreTrainedModel)


class CheckpointError(ValueError):
    """A checkpoint that is damaged, incomplete, not what it says it is, or not safe to read."""


def find_checkpoint(checkpoint: Checkpoint) -> Path:
    """The folder of a checkpoint: itself, or a copy of a repository on the hub.

    Of the hub's repositories only the configuration, the tokenizer and one kind of weights are fetched.

    Raises:
        CheckpointError: there is no such folder or repository, it has no config.json, or is an adapter.
        TypeError: `checkpoint` is neither a path nor a name.
    """
    if not isinstance(checkpoint, (str, os.PathLike)):
        raise TypeError(
            f"A {type(checkpoint).__name__} is neither a model of transformers nor the path or name of a checkpoint. "
            "Merge adapters into their model first."
        )
    folder = Path(checkpoint)
    if not folder.is_dir():
        try:
            folder = _fetch(str(checkpoint))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise CheckpointError(
                f"{checkpoint} is neither a folder here nor a repository that could be fetched from the hub "
                f"({_first_line(error)})."
            ) from error
    if (folder / "adapter_config.json").exists():
        # transformers would load the model that it names, from anywhere.
        raise CheckpointError(
            f"{folder} is an adapter, not a model: it has an adapter_config.json. Merge it into its model first."
        )
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json: give the folder that a model was saved to.")
    return folder


def _fetch(name: str) -> Path:
    folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.model", "model*.safetensors"]))
    for kind, pattern in ((PICKLES, "pytorch_model*.bin"), (TENSORFLOW, "tf_model*.h5")):
        if any((folder / file).is_file() for file in (*SAFETENSORS, *kind)):
            break
        folder = Path(snapshot_download(name, allow_patterns=[pattern, f"{pattern}.index.json"]))
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of a checkpoint's config.json.

    Raises:
        CheckpointError: it is missing, too large, no JSON object, or not safe to build a configuration from.
    """
    file = folder / "config.json"
    fields = _read_json(file)
    architectures = fields.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
    ):
        raise CheckpointError(f"{file} says architectures={architectures!r}: a list of class names is expected.")
    labels = fields.get("num_labels")
    if isinstance(labels, int) and labels > _MOST_LABELS:
        raise CheckpointError(f"{file} says num_labels={labels}: at most {_MOST_LABELS:,} are read.")
    for name in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        # transformers takes a value with a slash for the name of code on the hub.
        if "/" in str(fields.get(name, "")):
            raise CheckpointError(f"{file} is not safe to read: {name}={fields[name]!r} names code to be fetched.")
    return fields


def weight_files(folder: Path, kinds: Sequence[Sequence[str]] = (SAFETENSORS, PICKLES)) -> list[Path]:
    """The files of a folder's weights, of the first of `kinds` that it has.

    Raises:
        CheckpointError: there are none, or the index of their parts names a file that is missing or elsewhere.
    """
    for whole, index in kinds:
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            return _parts(folder / index)
    wanted = ", ".join(whole for whole, _ in kinds)
    raise CheckpointError(f"{folder} has no weights: none of {wanted}, whole or in parts with an index.")


def _parts(index: Path) -> list[Path]:
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index} names no files in its weight_map: it is damaged.")
    beside = {file.name for file in index.parent.iterdir() if file.is_file()}
    for name in names.values():
        if name not in beside:
            raise CheckpointError(f"{index} names {name[:200]!r}, which is not a file beside it.")
    return [index.parent / name for name in sorted(set(names.values()))]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, in the precision that they are kept in.

    Raises:
        CheckpointError: they are missing or damaged, or hold anything that is not a tensor.
    """
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder):
        weights.update(read_file(file))
    return weights


def read_file(file: Path) -> dict[str, Tensor]:
    """The tensors of one file of weights by name; see `read_weights`."""
    check_weight_file(file)
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    return _load_pickle(file, "cpu")


def _load_pickle(file: Path, device: str) -> dict[str, Tensor]:
    weights = guarded(file, lambda: torch.load(file, map_location=device, weights_only=True))
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise CheckpointError(f"{file} holds something else than tensors by name: it is not a model's weights.")
    return weights


def check_weight_file(file: Path) -> None:
    """Check a file of weights without building anything from it.

    Raises:
        CheckpointError: a safetensors file is incomplete, or a pickle would grow when it is unpacked.
    """
    if file.suffix == ".safetensors":
        # The header says where each tensor lies, and must fit the size of the file.
        guarded(file, lambda: safe_open(file, framework="pt").__exit__(None, None, None))
    elif file.suffix == ".bin" and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        # torch stores without compression.
        if unpacked > file.stat().st_size:
            raise CheckpointError(f"{file} would grow to {unpacked:,} bytes when unpacked: torch writes no such files.")


def load_model(model_class: type[_Model], folder: Path, **options: Any) -> _Model:
    """`model_class.from_pretrained(folder)`, whole or not at all, in the precision that the weights are kept in.

    Args:
        model_class: a class of transformers or of this package.
        folder: a checkpoint's folder.
        options: passed on to `from_pretrained`.

    Raises:
        CheckpointError: files are damaged or unsafe, or weights are missing or of other shapes than the configuration
            says.
    """
    _check_sizes(model_class, folder)
    read: Any = partial(model_class.from_pretrained, folder, output_loading_info=True, weights_only=True, dtype="auto")
    # The errors and warnings below replace the long reports of transformers.
    with silence():
        model, loading = guarded(folder, partial(read, **options))
    missing = sorted(loading["missing_keys"])
    if missing and "add_pooling_layer" not in options and all(name.startswith("pooler.") for name in missing):
        return load_model(model_class, folder, add_pooling_layer=False, **options)
    if missing:
        raise CheckpointError(
            f"{folder} has no weights for {shortened(missing)}, of {model_class.__name__}: they would be random."
        )
    if unexpected := sorted(loading["unexpected_keys"]):
        logger.warning(f"{model_class.__name__} has no place for {shortened(unexpected)} of {folder}: left behind.")
    return model


def check_layers(wanted: object, names: Iterable[str]) -> None:
    """Refuse a number of layers that differs from the weights, before a model is built.

    Args:
        wanted: `num_hidden_layers` of the configuration.
        names: of the weights.
    """
    found = {int(layer[1]) for name in names if (layer := re.search(r"\blayer\.(\d+)\.", name))}
    if wanted is not None and found and wanted != len(found):
        raise CheckpointError(f"There are weights of {len(found)} layers, but num_hidden_layers is {wanted!r}.")


def _check_sizes(model_class: type[PreTrainedModel], folder: Path) -> None:
    """Refuse a configuration that the weights do not fit, before a model of its size is built."""
    types, fields = tensor_types(folder), read_config(folder)
    if method := (fields.get("quantization_config") or {}).get("quant_method"):
        raise CheckpointError(
            f"{folder} is quantised ({method}), for inference only. Give the checkpoint that was quantised instead."
        )
    check_layers(fields.get("num_hidden_layers"), types)
    config = guarded(folder / "config.json", lambda: model_class.config_class.from_pretrained(folder))  # type: ignore[union-attr]
    with torch.device("meta"):
        wanted = guarded(folder / "config.json", lambda: model_class(config)).state_dict()
    found = {name: types[name] for name in wanted if name in types}
    wrong = [
        f"{name} {shape}, not {tuple(wanted[name].shape)}"
        for name, (shape, _) in found.items()
        if shape != wanted[name].shape
    ]
    if wrong:
        raise CheckpointError(f"{folder} has weights of other shapes than its config.json says: {shortened(wrong)}.")
    # "F32" and "BF16" in safetensors, "torch.float32" and "torch.bfloat16" in pickles.
    wrong = [
        f"{name} of {kind}"
        for name, (_, kind) in found.items()
        if wanted[name].is_floating_point() and not re.match(r"(torch\.)?b?f", kind, re.IGNORECASE)
    ]
    if wrong:
        raise CheckpointError(f"{folder} has weights that are no floating-point numbers: {shortened(wrong)}.")


def tensor_types(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """The shape and the type of every tensor of a checkpoint, by name.

    Raises:
        CheckpointError: files are missing, damaged or unsafe.
    """
    types: dict[str, tuple[tuple[int, ...], str]] = {}
    for file in weight_files(folder):
        check_weight_file(file)
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                headers = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
                types.update({name: (tuple(each.get_shape()), each.get_dtype()) for name, each in headers.items()})
        else:
            tensors = _load_pickle(file, "meta")
            types.update({name: (tuple(each.shape), str(each.dtype)) for name, each in tensors.items()})
    return types


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a checkpoint, or None where it has none.

    Raises:
        CheckpointError: a file of it is too large or damaged.
    """
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        return None
    for file in (folder / name for name in (*_VOCABULARIES, *_BESIDE_VOCABULARIES)):
        if not file.is_file():
            continue
        if (size := file.stat().st_size) > _LARGEST_TOKENIZER:
            raise CheckpointError(
                f"{file} has {size:,} bytes; a tokenizer's files have at most {_LARGEST_TOKENIZER:,}. It is not read."
            )
        if file.suffix == ".json":
            guarded(file, lambda file=file: json.loads(file.read_bytes()))  # type: ignore[misc]
    return guarded(folder, lambda: AutoTokenizer.from_pretrained(folder, trust_remote_code=False))


def guarded(what: Path, read: Callable[[], _Read]) -> _Read:
    """Call `read`; any error becomes a CheckpointError that names the file or folder."""
    try:
        return read()
    except (ModuleNotFoundError, MemoryError):
        raise
    except Exception as error:
        unsafe = "Weights only load failed" in str(error) or "weights_only" in str(error)
        reason = "it holds code or objects beside tensors, which are not run" if unsafe else _first_line(error)
        kind = "is not safe to read" if unsafe else "cannot be read"
        if isinstance(error, SafetensorError):
            kind = "is damaged"
        raise CheckpointError(f"{what} {kind}: {reason}.") from error


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing.")
    if (size := file.stat().st_size) > _LARGEST_JSON:
        raise CheckpointError(f"{file} has {size:,} bytes, more than the {_LARGEST_JSON:,} that are read.")
    fields = guarded(file, lambda: json.loads(file.read_text(encoding="utf-8")))
    if not isinstance(fields, dict):
        raise CheckpointError(f"{file} is no JSON object.")
    return fields


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if not lines:
        return type(error).__name__
    # The message of a failed validation is on the second line.
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{type(error).__name__}: {text.rstrip('.')}"


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first of many names, as a message shows them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
