"""The model of a plan, in its precision, and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, TokenizersBackend

from longformer_plus import LongformerPlusModel, LongformerPlusPreTrainedModel
from longformer_plus.model.silence import silence

from ..precision import is_bfloat16

if TYPE_CHECKING:
    from .plan import PredictionPlan


def load_model(
    plan: PredictionPlan, kind: type[LongformerPlusPreTrainedModel], tokenizer_options: dict[str, Any]
) -> tuple[PreTrainedModel, TokenizersBackend]:
    """A checkpoint, or adapters on their base, on the accelerator if there is one.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: it has no head for the task, or one for another.
    """
    folder = plan.model
    with silence():
        if (Path(plan.model) / "adapter_config.json").is_file():
            from ..adapters import tokenizer_of

            folder = tokenizer_of(plan.model)
            model = _load_adapters(plan, kind)
        else:
            model = _load(plan, kind)
        tokenizer = AutoTokenizer.from_pretrained(folder, **tokenizer_options)
    dtype = torch.bfloat16 if is_bfloat16(plan.precision) else torch.float32
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return model.to(dtype).to(device or "cpu").eval(), tokenizer  # type: ignore[return-value]


def _load(plan: PredictionPlan, kind: type[LongformerPlusPreTrainedModel]) -> Any:
    """A whole checkpoint; one whose head would be random is refused."""
    options: dict[str, Any] = {"add_pooling_layer": False} if kind is LongformerPlusModel else {}
    loaded: Any = kind.from_pretrained(plan.model, output_loading_info=True, **options)
    model, told = loaded
    if missing := sorted(told["missing_keys"]):
        raise ValueError(
            f"{plan.model} has no head for {plan.task}: {missing[0]} is missing. Train it first: "
            f"longformer-plus train --task {plan.task} --model {plan.model}."
        )
    return model


def _load_adapters(plan: PredictionPlan, kind: type[LongformerPlusPreTrainedModel]) -> Any:
    from ..adapters import adapter_of, load_adapted

    adapted_kind, _ = adapter_of(plan.model)
    model: Any = load_adapted(plan.model)
    if kind is LongformerPlusModel and adapted_kind is not kind:
        whole = model.get_base_model()
        return getattr(whole, whole.base_model_prefix)
    if adapted_kind is not kind:
        raise ValueError(f"{plan.model} holds adapters for {adapted_kind.__name__}, not for {plan.task}.")
    return model
