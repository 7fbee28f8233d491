"""The tokenizer, the configuration and the model that a plan starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from longformer_plus import LongformerPlusConfig, LongformerPlusPreTrainedModel

from ..tasks import task_named
from .data import TaskData
from .plan import TrainingPlan
from .report import say

logger = logging.get_logger(__name__)


def load_tokenizer(plan: TrainingPlan) -> PreTrainedTokenizerBase:
    """The tokenizer of a plan, that of its checkpoint by default; a ValueError where it cannot be read."""
    options = task_named(plan.task).tokenizer_options
    name = plan.tokenizer or plan.model
    if plan.tokenizer is None and plan.goes_on_from_adapters:
        from ..adapters import tokenizer_of

        name = tokenizer_of(str(plan.model))
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        if "close_documents" not in options and not getattr(tokenizer, "close_documents", True):
            tokenizer = AutoTokenizer.from_pretrained(name, close_documents=True, **options)
        return tokenizer
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} holds no tokenizer that can be read: {error}") from error


def load_config(plan: TrainingPlan, tokenizer: PreTrainedTokenizerBase) -> LongformerPlusConfig:
    """The configuration of a plan's model; a ValueError for fields that there are none of."""
    changes: dict[str, Any] = dict(plan.config or {})
    if plan.global_attention is not None:
        changes["global_attention"] = plan.global_attention
    known = LongformerPlusConfig()
    if unknown := [name for name in changes if not hasattr(known, name)]:
        raise ValueError(
            f"config={unknown} is not allowed: a configuration has no such fields. See LongformerPlusConfig."
        )
    if plan.model is not None and plan.goes_on_from_adapters:
        from ..adapters import adapted_config

        return LongformerPlusConfig.from_dict({**adapted_config(plan.model).to_dict(), **changes})
    if plan.model is not None:
        return LongformerPlusConfig.from_pretrained(plan.model, **changes)
    special = ("bos_token_id", "eos_token_id", "sep_token_id", "pad_token_id")
    fields = {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in special}}
    return LongformerPlusConfig(**{**fields, **changes})


def load_model(
    plan: TrainingPlan, config: LongformerPlusConfig, data: TaskData, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """The model of the task, with its classes, and with adapters where the plan says so."""
    task = task_named(plan.task)
    kind = task.model
    if plan.goes_on_from_adapters:
        _check_adapters(plan, config, data.names)
    for name, value in data.config.items():
        setattr(config, name, value)
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} entries, the model {config.vocab_size}: they do not belong together."
        )
    _warn_without_global_tokens(plan.task, config)
    if plan.trains_adapters:
        return _with_adapters(plan, kind, config)
    if plan.model is None:
        model = kind._from_config(config, attn_implementation=plan.attn_implementation)
    else:
        model = _load(kind, plan.model, plan, config)
    if task.initialize is not None and (plan.model is None or _was_causal(plan.model, config)):
        task.initialize(model)
    say(f"model:      {type(model).__name__}, {model.num_parameters():,} parameters")
    return model


def _load(
    kind: type[LongformerPlusPreTrainedModel], checkpoint: str, plan: TrainingPlan, config: LongformerPlusConfig
) -> LongformerPlusPreTrainedModel:
    return kind.from_pretrained(
        checkpoint, config=config, attn_implementation=plan.attn_implementation, dtype=torch.float32
    )


def _check_adapters(plan: TrainingPlan, config: LongformerPlusConfig, names: Sequence[str]) -> None:
    """Raise a ValueError for adapters of another task, or of other classes."""
    from ..adapters import adapter_of

    kind, _ = adapter_of(str(plan.model))
    if kind is not task_named(plan.task).model:
        raise ValueError(f"{plan.model} holds adapters for {kind.__name__}, not for {plan.task}.")
    learned = list((config.id2label or {}).values())
    if names and learned != list(names):
        raise ValueError(f"{plan.model} holds adapters for the classes {learned}, the data have {list(names)}.")


def _with_adapters(
    plan: TrainingPlan, kind: type[LongformerPlusPreTrainedModel], config: LongformerPlusConfig
) -> PreTrainedModel:
    """The checkpoint with new adapters, or with those that the plan goes on from."""
    from peft import PeftModel, get_peft_model

    from ..adapters import adapter_of, lora_config

    checkpoint = str(plan.model)
    if plan.goes_on_from_adapters:
        _, base = adapter_of(checkpoint)
        adapted = PeftModel.from_pretrained(_load(kind, base, plan, config), checkpoint, is_trainable=True)
    else:
        targets = plan.lora_targets if plan.lora_targets is None else list(plan.lora_targets)
        options = {"target_modules": "all-linear" if targets == ["all-linear"] else targets}
        model = _load(kind, checkpoint, plan, config)
        adapted = get_peft_model(model, lora_config(plan.task, r=plan.lora, **options))
    trained, total = adapted.get_nb_trainable_parameters()
    say(f"model:      {kind.__name__}, {trained:,} of {total:,} parameters trained ({trained / total:.2%})")
    return adapted  # type: ignore[return-value]


def _was_causal(checkpoint: str, config: LongformerPlusConfig) -> bool:
    """Whether the tokens of a checkpoint could not look ahead, as those of the new model can."""
    return not config.is_causal and LongformerPlusConfig.from_pretrained(checkpoint).is_causal


def _warn_without_global_tokens(task: str, config: LongformerPlusConfig) -> None:
    wanted = task_named(task).model.auto_global_attention
    if config.global_attention == "none" and wanted != "none":
        logger.warning(
            f'No token will attend globally: global_attention is "none", and {task} usually needs {wanted!r}. Without, '
            "what is far apart in a long document cannot be brought together."
        )
