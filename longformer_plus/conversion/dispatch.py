"""Converting any kind of checkpoint to LongformerPlus, and LongformerPlus to other kinds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedModel

from ..configuration import LONGFORMER_MODEL_TYPE, LongformerPlusConfig
from .allenai import SIGN, convert_from_allenai
from .led import convert_from_led
from .longformer import convert_from_longformer, convert_to_longformer
from .reading import PICKLES, SAFETENSORS, TENSORFLOW, Checkpoint, find_checkpoint, read_config
from .tensorflow_weights import convert_from_tensorflow
from .to_long import convert_to_long
from .to_short import convert_to_short


def convert_checkpoint(
    path: Checkpoint,
    save_to: Checkpoint,
    to: str = LongformerPlusConfig.model_type,
    *,
    attention_window: int | list[int] | None = None,
    max_length: int | None = None,
    overwrite: bool = False,
) -> PreTrainedModel:
    """Convert a checkpoint of any supported kind into a new folder.

    Args:
        path: its folder, or its name on the hub.
        save_to: the new folder.
        to: "longformer_plus"; for a LongformerPlus or Longformer also "longformer" or the type of a short model.
        attention_window: total width in tokens, for making a short model long (512 when None).
        max_length: the most tokens of a document, for making a model long (4096 when None) or short (512 when None).
        overwrite: replace the checkpoint at `save_to`.

    Returns:
        The model that was written.

    Raises:
        CheckpointError, FileExistsError, ValueError: as in the conversion that it calls.
    """
    folder = find_checkpoint(path)
    kind = kind_of(folder)
    given = {
        name: value
        for name, value in (("attention_window", attention_window), ("max_length", max_length))
        if value is not None
    }
    if to == LongformerPlusConfig.model_type and kind == "short":
        return convert_to_long(folder, save_to=save_to, overwrite=overwrite, **given)  # type: ignore[arg-type]
    if to == LongformerPlusConfig.model_type:
        _refuse(given, f"{path} has its own")
        convert = {
            "allenai": convert_from_allenai,
            "led": convert_from_led,
            "longformer": convert_from_longformer,
            "tensorflow": convert_from_tensorflow,
        }[kind]
        return convert(folder, save_to, overwrite=overwrite)
    if kind != "longformer":
        raise ValueError(f"{path} is no LongformerPlus checkpoint: convert it to one first, and that to {to!r}.")
    if to == LONGFORMER_MODEL_TYPE:
        _refuse(given, f"{path} has its own")
        return convert_to_longformer(folder, save_to, overwrite=overwrite)
    _refuse({name: given[name] for name in given if name != "max_length"}, "a short model has none")
    return convert_to_short(folder, to, save_to=save_to, overwrite=overwrite, **given)  # type: ignore[arg-type]


def kind_of(folder: Path) -> str:
    """The kind of a checkpoint: "tensorflow", "allenai", "led", "longformer" (also LongformerPlus) or "short"."""
    fields = read_config(folder)
    if "d_model" in fields and (SIGN in fields or fields.get("model_type") == "led"):
        return "led"
    if SIGN in fields:
        return "allenai"
    of_torch, of_tensorflow = (
        any((folder / file).is_file() for file in files) for files in ((*SAFETENSORS, *PICKLES), TENSORFLOW)
    )
    if of_tensorflow and not of_torch:
        return "tensorflow"
    is_long = fields.get("model_type") in (LONGFORMER_MODEL_TYPE, LongformerPlusConfig.model_type)
    return "longformer" if is_long else "short"


def _refuse(given: Mapping[str, object], reason: str) -> None:
    if given:
        name, value = next(iter(given.items()))
        raise ValueError(f"{name}={value!r} is not allowed here: {reason}.")
