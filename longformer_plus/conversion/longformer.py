"""transformers' Longformer to LongformerPlus, and back."""

from __future__ import annotations

from collections.abc import Sequence

import transformers
from transformers import LongformerConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.longformer.modeling_longformer import LongformerPreTrainedModel

from ..configuration import LongformerPlusConfig
from ..model.encoder import LongformerPlusModel
from ..model.heads import (
    LongformerPlusForMaskedLM,
    LongformerPlusForMultipleChoice,
    LongformerPlusForQuestionAnswering,
    LongformerPlusForSequenceClassification,
    LongformerPlusForTokenClassification,
)
from ..model.pretrained import LongformerPlusPreTrainedModel
from .assembling import assemble
from .reading import Checkpoint, find_checkpoint, load_model, load_tokenizer, read_config
from .writing import check_output, save

CLASSES: dict[str, type[LongformerPlusPreTrainedModel]] = {
    model_class.__name__: model_class
    for model_class in (
        LongformerPlusModel,
        LongformerPlusForMaskedLM,
        LongformerPlusForMultipleChoice,
        LongformerPlusForQuestionAnswering,
        LongformerPlusForSequenceClassification,
        LongformerPlusForTokenClassification,
    )
}


def convert_from_longformer(
    model_or_path: PreTrainedModel | Checkpoint,
    save_to: Checkpoint | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overwrite: bool = False,
) -> LongformerPlusPreTrainedModel:
    """A LongformerPlus model from one of transformers' Longformer, with the same weights in the same precision.

    No conversion is needed to use a Longformer checkpoint: `LongformerPlus….from_pretrained` reads it. This function
    writes it as LongformerPlus, and old pickles as safetensors.

    Args:
        model_or_path: a Longformer model, or the folder or name on the hub of one: safetensors or pytorch_model.bin,
            whole or in parts.
        save_to: a new folder for the model and its tokenizer; by default nothing is written.
        tokenizer: to be saved with it; read from the folder if that is given.
        overwrite: replace the checkpoint at `save_to`.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: the folder's files are damaged, unsafe or incomplete.
        FileExistsError: `save_to` exists.
        TypeError: the model is of another kind.
    """
    check_output(save_to, overwrite)
    model, tokenizer = load_longformer_plus(model_or_path, tokenizer)
    if save_to is not None:
        save(model, tokenizer, save_to, overwrite)
    return model


def convert_to_longformer(
    model_or_path: LongformerPlusPreTrainedModel | Checkpoint,
    save_to: Checkpoint | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overwrite: bool = False,
) -> LongformerPreTrainedModel:
    """A model of transformers' own Longformer from a LongformerPlus model, with the same weights.

    Args:
        model_or_path: a LongformerPlus model, or the folder or name on the hub of one.
        save_to, tokenizer, overwrite: as for `convert_from_longformer`.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError, FileExistsError, TypeError: as for `convert_from_longformer`.
        ValueError: the model has a feature that transformers' Longformer lacks; the message names it.
    """
    check_output(save_to, overwrite)
    model, tokenizer = load_longformer_plus(model_or_path, tokenizer)
    _refuse_what_longformer_has_not(model)
    native_class = getattr(transformers, _plus_name(type(model)).replace("LongformerPlus", "Longformer"))
    ours = LongformerPlusConfig().to_dict().keys() - LongformerConfig().to_dict().keys()
    unsaved = {"architectures", "auto_map", "model_type", "transformers_version"}
    fields = {name: value for name, value in model.config.to_dict().items() if name not in ours | unsaved}
    native = assemble(native_class, LongformerConfig(**fields), model.state_dict(), **_pooling(model))
    if save_to is not None:
        save(native, tokenizer, save_to, overwrite, model.config.max_tokens)
    return native


def load_longformer_plus(
    model_or_path: PreTrainedModel | Checkpoint, tokenizer: PreTrainedTokenizerBase | None = None
) -> tuple[LongformerPlusPreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load or convert a Longformer or LongformerPlus model, with the given tokenizer or that of the folder, if any."""
    if isinstance(model_or_path, LongformerPlusPreTrainedModel):
        return model_or_path, tokenizer
    if isinstance(model_or_path, LongformerPreTrainedModel):
        model_class = CLASSES[type(model_or_path).__name__.replace("Longformer", "LongformerPlus")]
        config = LongformerPlusConfig.from_longformer(model_or_path.config)
        return assemble(model_class, config, model_or_path.state_dict(), **_pooling(model_or_path)), tokenizer
    if isinstance(model_or_path, PreTrainedModel):
        raise TypeError(
            f"A {type(model_or_path).__name__} is neither a Longformer nor a LongformerPlus model. Short models are "
            "made long by convert_to_long; merge adapters into their model first."
        )
    folder = find_checkpoint(model_or_path)
    model_class = class_named(read_config(folder).get("architectures"), folder)
    # The tokenizer first: it is small, so that damage is found early.
    tokenizer = tokenizer or load_tokenizer(folder)
    return load_model(model_class, folder), tokenizer


def class_named(architectures: Sequence[str] | None, checkpoint: object) -> type[LongformerPlusPreTrainedModel]:
    """The class of this package for the `architectures` of a Longformer or LongformerPlus checkpoint.

    Raises:
        ValueError: `architectures` is missing, or names no Longformer class.
    """
    for name in architectures or ():
        name = name.removeprefix("TF")
        for candidate in (name, name.replace("Longformer", "LongformerPlus", 1)):
            if candidate in CLASSES:
                return CLASSES[candidate]
    raise ValueError(
        f"{checkpoint} is of architectures={architectures!r}, none of Longformer's. If its config.json does not say "
        'them, add what it is, such as "architectures": ["LongformerForMaskedLM"].'
    )


def refuse_what_only_longformer_plus_has(config: LongformerPlusConfig, other: str) -> None:
    """Raise a ValueError if a model has dilation or causal attention, which only LongformerPlus computes.

    Args:
        config: the configuration of a LongformerPlus model.
        other: the kind of model to convert to, for the message.
    """
    if any(step != 1 for layer in config.dilations for step in layer):
        raise ValueError(f"{other} has no dilation, and attention_dilation={config.attention_dilation!r} here.")
    if config.is_causal:
        raise ValueError(f"{other} has no causal attention, and is_causal=True here.")


def _refuse_what_longformer_has_not(model: LongformerPlusPreTrainedModel) -> None:
    other = "transformers' Longformer"
    config = model.config
    refuse_what_only_longformer_plus_has(config, other)
    widest = max(config.windows)
    if any(widest % width for width in config.windows):
        raise ValueError(
            f"{other} runs only where every layer's window divides the widest, and attention_window="
            f"{config.attention_window!r} here."
        )
    if config.global_attention not in ("auto", model.auto_global_attention):
        raise ValueError(
            f"{other} chooses global tokens by task only ({model.auto_global_attention!r} for this head), and "
            f"global_attention={config.global_attention!r} here. Set config.global_attention = 'auto' to give it up, "
            "and pass global_attention_mask."
        )


def _plus_name(model_class: type) -> str:
    return next(kind.__name__ for kind in model_class.__mro__ if kind.__name__ in CLASSES)


def _pooling(model: PreTrainedModel) -> dict[str, bool]:
    """The argument `add_pooling_layer` for a bare encoder; empty for models with a head."""
    return {"add_pooling_layer": getattr(model, "pooler", None) is not None} if model.base_model is model else {}
