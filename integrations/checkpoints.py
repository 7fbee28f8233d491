"""Loading what was trained for a task: a whole checkpoint, or PEFT's adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, TokenizersBackend

from longformer_plus import LongformerPlusModel, LongformerPlusPreTrainedModel
from longformer_plus.model.silence import silence

from .precision import choose_precision, in_precision
from .tasks import task_named

Loaded = tuple[PreTrainedModel, TokenizersBackend]


def load_checkpoint(task: str, checkpoint: str | Path, precision: str = "float32") -> Loaded:
    """A checkpoint's model with the head of a task, and its tokenizer. Adapters are put on their base.

    Args:
        task: its name.
        checkpoint: a folder, or a name on the hub.
        precision: "float32", "bfloat16", "int8" (on CPUs; adapters are merged), or "auto": see `choose_precision`.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: there is no such task, or the checkpoint has no head for it.
    """
    known = task_named(task)
    if _is_adapter(checkpoint):
        from .adapters import adapter_of, load_adapted

        kind, _ = adapter_of(checkpoint)
        if kind is not known.model:
            raise ValueError(f"{checkpoint} holds adapters for {kind.__name__}, not for {known.name}.")
        model: Any = _merged_for_int8(load_adapted(checkpoint), precision)
    else:
        model, missing = _load(checkpoint, known.model)
        if missing:
            raise ValueError(
                f"{checkpoint} has no head for {known.name}: {missing[0]} is missing. Train it first: "
                f"longformer-plus train --task {known.name} --model {checkpoint} ..."
            )
    return in_precision(model, precision), _tokenizer(checkpoint, **known.tokenizer_options)


def load_encoder(checkpoint: str | Path, precision: str = "float32") -> Loaded:
    """A checkpoint's model without its head, with adapters where it is some, and its tokenizer.

    Args:
        checkpoint: a folder, or a name on the hub.
        precision: as of `load_checkpoint`.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: weights of the encoder are missing.
    """
    if _is_adapter(checkpoint):
        from .adapters import load_adapted

        adapted: Any = _merged_for_int8(load_adapted(checkpoint), precision)
        whole = adapted.get_base_model() if hasattr(adapted, "get_base_model") else adapted
        model = adapted if isinstance(whole, LongformerPlusModel) else getattr(whole, whole.base_model_prefix)
    else:
        model, missing = _load(checkpoint, LongformerPlusModel, add_pooling_layer=False)
        if missing:
            raise ValueError(f"{checkpoint} is no whole encoder: {missing[0]} is missing.")
    return in_precision(model, precision), _tokenizer(checkpoint)


def _is_adapter(checkpoint: str | Path) -> bool:
    return (Path(checkpoint) / "adapter_config.json").is_file()


def _load(
    checkpoint: str | Path, kind: type[LongformerPlusPreTrainedModel], **options: Any
) -> tuple[PreTrainedModel, list[str]]:
    """A whole checkpoint, and which of the model's weights are not in it."""
    with silence():
        loaded: Any = kind.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True, **options)
    model, told = loaded
    return model, sorted(told["missing_keys"])


def _merged_for_int8(adapted: Any, precision: str) -> Any:
    """A model with adapters: as it is, or, for int8, with the adapters merged into its weights.

    Raises:
        ValueError: they cannot be merged.
    """
    if choose_precision(precision).name != "int8":
        return adapted
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise ValueError(
            "These adapters cannot be merged, PEFT has no merging for their method, and int8 is for merged ones: "
            "choose precision float32 or bfloat16."
        )
    return adapted.merge_and_unload()


def _tokenizer(checkpoint: str | Path, **options: Any) -> TokenizersBackend:
    folder = checkpoint
    if _is_adapter(checkpoint):
        from .adapters import tokenizer_of

        folder = tokenizer_of(checkpoint)
    return AutoTokenizer.from_pretrained(folder, **options)  # type: ignore[return-value]
