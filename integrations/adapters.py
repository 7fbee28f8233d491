"""PEFT: adapters for every head.

PEFT knows LongformerPlus's layers from `import longformer_plus` on: `LoraConfig(task_type="SEQ_CLS")` and its likes
need no target modules. `adapter_config` does the rest: it saves the heads that PEFT has no task type for, and refuses
the methods that an encoder with a global attention mask cannot have.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

from peft import LoraConfig, PeftConfig, PeftModel, PeftType, TaskType
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

import longformer_plus
from longformer_plus import (
    LongformerPlusConfig,
    LongformerPlusModel,
    LongformerPlusPreTrainedModel,
)
from longformer_plus.adapter_targets import default_targets
from longformer_plus.conversion.writing import check_output, save
from longformer_plus.model.pretrained import ADAPTED_CONFIG

from . import tasks

_ENCODER = "feature-extraction"
# The names of tasks that have adapters: all, and that of the bare encoder.
TASKS = (_ENCODER, *tasks.TASKS)
# What PEFT trains as it is for its task types. "all-linear" would adapt some of it as well, and PEFT refuse that.
_TRAINED = ["classifier", "qa_outputs"]

# By PEFT's task types. Tasks of one type have one head.
_MODELS: dict[str, type[LongformerPlusPreTrainedModel]] = {
    TaskType.FEATURE_EXTRACTION.value: LongformerPlusModel,
    **{task.peft_type: task.model for task in tasks.TASKS.values() if task.peft_type is not None},
}

Config = TypeVar("Config", bound=PeftConfig)


def lora_config(task: str, **options: Any) -> LoraConfig:
    """`adapter_config` for LoRA, and with `use_dora` or `use_rslora` for DoRA or rank-stabilised LoRA.

    Args:
        task: one of `TASKS`.
        options: those of `peft.LoraConfig`.

    Raises:
        ValueError: the task is unknown.
    """
    return adapter_config(task, LoraConfig, **options)


def adapter_config(task: str, method: type[Config], **options: Any) -> Config:
    """A PEFT configuration for one of LongformerPlus's heads, to be given to `peft.get_peft_model`.

    Args:
        task: one of `TASKS`.
        method: the configuration's class, such as `peft.LoraConfig` or `peft.IA3Config`.
        options: those of the class. `modules_to_save` is added to what the head needs.

    Raises:
        ValueError: the task is unknown, or the method is a prompt, which these models cannot be given.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r} is not allowed: choose one of {', '.join(TASKS)}.")
    known = tasks.TASKS.get(task)
    task_type = TaskType.FEATURE_EXTRACTION.value if known is None else known.peft_type
    if known is not None and known.modules_to_save:
        options["modules_to_save"] = [*known.modules_to_save, *(options.get("modules_to_save") or [])]
    if options.get("target_modules") == "all-linear" and "exclude_modules" not in options:
        trained = "|".join(map(re.escape, [*_TRAINED, *(options.get("modules_to_save") or [])]))
        options["exclude_modules"] = rf"(.*\.)?({trained})(\..*)?"
    config = method(task_type=task_type, **options)
    if getattr(config, "target_modules", ...) is None:
        targets = default_targets(PeftType(config.peft_type).value, LongformerPlusConfig.model_type)
        config = method(task_type=task_type, **{**options, **targets})
    if config.is_prompt_learning or config.peft_type == PeftType.ADAPTION_PROMPT:
        raise ValueError(
            f"{method.__name__} is not allowed: PEFT would put virtual tokens before the document, or before the keys "
            "of each layer, and leave the global attention mask, the labels and the answers' positions where they are. "
            "Use a method that adapts layers, such as LoraConfig, IA3Config or LNTuningConfig."
        )
    return config


def save_model_config(model: PeftModel, folder: str | Path) -> None:
    """Write the adapted model's configuration, with the names of its classes, beside a saved adapter."""
    config: Any = model.get_base_model().config
    config.to_json_file(Path(folder) / ADAPTED_CONFIG, use_diff=False)


def load_adapted(folder: str | Path) -> PeftModel:
    """A saved adapter on its base, with its head and classes.

    Args:
        folder: the adapter's. Without a configuration that `save_model_config` has written there, classes have numbers
            for names, as many as the saved head has.

    Raises:
        ValueError: the adapter is for another model, or names no class.
    """
    kind, base = adapter_of(folder)
    return PeftModel.from_pretrained(kind.from_pretrained(base, config=adapted_config(folder)), str(folder))


def merge_adapters(
    folder: str | Path, save_to: str | Path, *, overwrite: bool = False
) -> LongformerPlusPreTrainedModel:
    """Write a checkpoint that computes what saved adapters make of their base, with its tokenizer.

    Args:
        folder: the adapters'.
        save_to: the new folder.
        overwrite: replace the checkpoint that is there.

    Returns:
        The model that was written.

    Raises:
        FileExistsError: the new folder exists, and overwriting was not asked for.
        ValueError: the adapters are for another model, or cannot be merged, or there are none.
    """
    if not (Path(folder) / "adapter_config.json").is_file():
        raise ValueError(f"{folder} holds no adapters: it has no adapter_config.json.")
    check_output(save_to, overwrite)
    adapted: Any = load_adapted(folder)
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise ValueError(f"The adapters in {folder} cannot be merged: PEFT has no merging for their method.")
    model = adapted.merge_and_unload()
    save(model, AutoTokenizer.from_pretrained(tokenizer_of(folder)), save_to, overwrite)
    return model


def adapter_of(folder: str | Path) -> tuple[type[LongformerPlusPreTrainedModel], str]:
    """The class that a saved adapter adapts, and the checkpoint that it was trained on.

    Raises:
        ValueError: the adapter is for another model.
    """
    adapter = PeftConfig.from_pretrained(str(folder))
    kind = _MODELS.get(str(adapter.task_type)) or getattr(
        longformer_plus, (adapter.auto_mapping or {}).get("base_model_class", ""), None
    )
    if kind is None:
        raise ValueError(f"{folder} is no adapter for a LongformerPlus model, or does not say which of its heads.")
    return kind, str(adapter.base_model_name_or_path)


def tokenizer_of(folder: str | Path) -> str:
    """Where the tokenizer of a saved adapter lies: beside it, or with its base."""
    return str(folder) if (Path(folder) / "tokenizer_config.json").is_file() else adapter_of(folder)[1]


def adapted_config(folder: str | Path) -> LongformerPlusConfig:
    """The configuration of the model that a saved adapter makes of its base; see `load_adapted`."""
    if (own := Path(folder) / ADAPTED_CONFIG).is_file():
        return LongformerPlusConfig.from_json_file(own)
    base = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    config = LongformerPlusConfig.from_longformer(AutoConfig.from_pretrained(str(base)))
    if num_classes := _num_classes(folder):
        config.num_labels = num_classes
    return config


def _num_classes(folder: str | Path) -> int | None:
    """How many classes the head that is saved with an adapter has, None where it has no classes."""
    with safe_open(Path(folder) / "adapter_model.safetensors", framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118
            if name.endswith(("classifier.weight", "classifier.out_proj.weight")):
                return int(weights.get_slice(name).get_shape()[0])
    return None
