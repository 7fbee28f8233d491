"""The models behind the demo: one checkpoint for each task, loaded when it is first asked for, run one at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, TokenizersBackend

from longformer_plus import (
    LongformerPlusConfig,
    LongformerPlusModel,
    LongformerPlusPreTrainedModel,
    shipped_checkpoint,
)
from longformer_plus.integrations.precision import in_precision
from longformer_plus.integrations.tasks import task_named

# What the tabs need, and the option that names a checkpoint for it.
_TABS = ("fill-mask", "question-answering", "text-classification", "token-classification")
TASKS: dict[str, type[LongformerPlusPreTrainedModel]] = {name: task_named(name).model for name in _TABS}
_ADAPTED = {task_named(name).peft_type: name for name in _TABS if task_named(name).peft_type is not None}
# Beyond it a document is too long to look at, whatever the model has room for.
MOST_TOKENS = 16_384


class Checkpoint:
    """A model and its tokenizer. Nothing that comes with them is run as code.

    Args:
        name: a folder, or a name on the hub, of a LongformerPlus or Longformer checkpoint.
        precision: that it computes in; see `precision.in_precision`.

    Raises:
        ValueError: it is a checkpoint of another model.
    """

    def __init__(self, name: str, precision: str = "float32") -> None:
        self.name, self.precision = name, precision
        config = AutoConfig.from_pretrained(name)
        if config.model_type not in ("longformer", LongformerPlusConfig.model_type):
            raise ValueError(
                f"{name} is a checkpoint of {config.model_type!r}. The demo shows LongformerPlus and Longformer "
                "checkpoints; convert others first."
            )
        self.config = LongformerPlusConfig.from_longformer(config)
        self.lock = threading.Lock()

    @property
    def task(self) -> str | None:
        """The task that its head is for, None for a bare encoder."""
        for architecture in self.config.architectures or []:
            for task, model in TASKS.items():
                if architecture.endswith(model.__name__.removeprefix("LongformerPlus")):
                    return task
        return None

    @property
    def max_tokens(self) -> int:
        """The longest input that it is given."""
        return min(self.config.max_tokens, MOST_TOKENS)

    @property
    def description(self) -> str:
        """Its name, size, layers, heads, window and limit, in a line of Markdown."""
        config = self.config
        windows = sorted(set(config.windows))
        window = f"{windows[0]:,}" if len(windows) == 1 else f"{windows[0]:,} to {windows[-1]:,}"
        with self.running() as model:
            size = model.num_parameters() / 1e6
        return (
            f"**{self.title}**: {size:,.1f} million parameters, {config.num_hidden_layers} layers of"
            f" {config.num_attention_heads} heads, a window of {window} tokens, at most {self.max_tokens:,} tokens."
        )

    @property
    def title(self) -> str:
        """What it is called on the page: its name on the hub, or its folder's."""
        folder = Path(self.name)
        if folder.resolve() == shipped_checkpoint().resolve():
            return "The small checkpoint that comes with longformer_plus"
        for task in TASKS:
            if str(folder) == _shipped(task):
                return f"The small checkpoint for {task}"
        return folder.name if folder.is_dir() else self.name

    @cached_property
    def tokenizer(self) -> TokenizersBackend:
        """Its tokenizer."""
        return AutoTokenizer.from_pretrained(self.name)  # type: ignore[return-value]

    @cached_property
    def _model(self) -> LongformerPlusPreTrainedModel:
        model = LongformerPlusModel if self.task is None else TASKS[self.task]
        return in_precision(model.from_pretrained(self.name), self.precision).requires_grad_(False)

    @contextmanager
    def running(self) -> Iterator[LongformerPlusPreTrainedModel]:
        """The model, for one caller at a time: what is recorded of a run must be of this run alone."""
        with self.lock:
            yield self._model

    def load(self) -> None:
        """Load what is loaded at the first use otherwise, and run it once."""
        ids = self.tokenizer("Ready.", return_tensors="pt")["input_ids"]
        with self.running() as model, torch.no_grad():
            model(ids)


class AdaptedCheckpoint(Checkpoint):
    """A PEFT adapter, merged into the checkpoint that it was trained on.

    Args:
        name: the adapter's folder; see `adapters.load_adapted`.
        precision: that it computes in, merged.

    Raises:
        ValueError: the adapter is for no task of the demo, or for another model.
    """

    def __init__(self, name: str, precision: str = "float32") -> None:
        from peft import PeftConfig

        from longformer_plus.integrations.adapters import adapted_config

        adapter = PeftConfig.from_pretrained(name)
        self.base = str(adapter.base_model_name_or_path)
        super().__init__(self.base, precision)
        self.name = name
        task = _ADAPTED.get(adapter.task_type or "")
        if task is None:
            raise ValueError(
                f"The adapter {name} has the task type {adapter.task_type!r}. The demo shows adapters for "
                f"{', '.join(map(str, _ADAPTED))}."
            )
        self.config = adapted_config(name)
        self.config.architectures = [TASKS[task].__name__]

    @cached_property
    def tokenizer(self) -> TokenizersBackend:
        """That of the checkpoint that was adapted."""
        return AutoTokenizer.from_pretrained(self.base)  # type: ignore[return-value]

    @cached_property
    def _model(self) -> LongformerPlusPreTrainedModel:
        from longformer_plus.integrations.adapters import load_adapted

        adapted: Any = load_adapted(self.name)
        return in_precision(adapted.merge_and_unload(), self.precision).requires_grad_(False)


def load(name: str, precision: str = "float32") -> Checkpoint:
    """A checkpoint, or a PEFT adapter on one.

    Args:
        name: a folder, or, of a checkpoint, a name on the hub.
        precision: that it computes in.
    """
    is_adapter = (Path(name) / "adapter_config.json").is_file()
    return (AdaptedCheckpoint if is_adapter else Checkpoint)(name, precision)


def _shipped(task: str) -> str | None:
    """The folder of what comes with the package for a task; None where nothing does."""
    try:
        return str(shipped_checkpoint(task))
    except ValueError:
        return None


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoint whose attention is shown, and those of the tasks.

    Attributes:
        main: what the tab Attention shows.
        by_task: by the names in `TASKS`; a task without one cannot be done.
    """

    main: Checkpoint
    by_task: dict[str, Checkpoint]

    @classmethod
    def find(cls, model: str | None, precision: str = "float32", **by_task: str | None) -> Checkpoints:
        """The checkpoints of a command line.

        Args:
            model: a folder or a name on the hub, or None for the checkpoint that comes with the package.
            precision: that the models compute in.
            by_task: the same for tasks, or folders of PEFT adapters, by the tasks' names with underscores; by default
                `model`, where it has the head, and, with the model of the package, what comes with it for the task.

        Raises:
            ValueError: a checkpoint has another head than its task.
        """
        chosen = {option.replace("_", "-"): name for option, name in by_task.items() if name is not None}
        if model is None:
            chosen = {**{task: name for task in TASKS if (name := _shipped(task))}, **chosen}
            model = str(shipped_checkpoint())
        main = load(model, precision)
        found = {main.task: main} if main.task else {}
        for task, name in chosen.items():
            checkpoint = main if name == model else load(name, precision)
            if checkpoint.task != task:
                raise ValueError(
                    f"{name} has no head for {task}: it is a checkpoint for {checkpoint.task or 'no task'}."
                )
            found[task] = checkpoint
        return cls(main, found)
