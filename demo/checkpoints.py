"""The models behind the demo: one checkpoint for each task, loaded when it is first asked for, run one at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import AutoConfig, AutoTokenizer, TokenizersBackend

import longformer_plus
from longformer_plus import (
    LongformerPlusConfig,
    LongformerPlusForMaskedLM,
    LongformerPlusForQuestionAnswering,
    LongformerPlusForSequenceClassification,
    LongformerPlusForTokenClassification,
    LongformerPlusModel,
    LongformerPlusPreTrainedModel,
)

# What the tabs need, and the option that names a checkpoint for it.
TASKS: dict[str, type[LongformerPlusPreTrainedModel]] = {
    "fill-mask": LongformerPlusForMaskedLM,
    "question-answering": LongformerPlusForQuestionAnswering,
    "text-classification": LongformerPlusForSequenceClassification,
    "token-classification": LongformerPlusForTokenClassification,
}
# Beyond it a document is too long to look at, whatever the model has room for.
MOST_TOKENS = 16_384


class Checkpoint:
    """A model and its tokenizer. Nothing that comes with them is run as code.

    Args:
        name: a folder, or a name on the hub, of a LongformerPlus or Longformer checkpoint.

    Raises:
        ValueError: it is a checkpoint of another model.
    """

    def __init__(self, name: str) -> None:
        self.name = name
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

    @cached_property
    def tokenizer(self) -> TokenizersBackend:
        """Its tokenizer."""
        return AutoTokenizer.from_pretrained(self.name)  # type: ignore[return-value]

    @cached_property
    def _model(self) -> LongformerPlusPreTrainedModel:
        model = LongformerPlusModel if self.task is None else TASKS[self.task]
        return model.from_pretrained(self.name).eval().requires_grad_(False)

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


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoint that is explored, and those of the tasks.

    Attributes:
        explored: what Explore shows.
        by_task: by the names in `TASKS`; a task without one cannot be done.
    """

    explored: Checkpoint
    by_task: dict[str, Checkpoint]

    @classmethod
    def find(cls, model: str | None, **by_task: str | None) -> Checkpoints:
        """The checkpoints of a command line.

        Args:
            model: a folder or a name on the hub, or None for the checkpoint that comes with the package.
            by_task: the same for tasks, by their names with underscores; by default `model`, where it has the head.

        Raises:
            ValueError: no checkpoint is given and none comes with the package, or one has another head than its task.
        """
        if model is None:
            shipped = getattr(longformer_plus, "shipped_checkpoint", None)
            if shipped is None:
                raise ValueError(
                    "No checkpoint comes with this version of the package. Name one: --model FOLDER, or a name on the "
                    "hub such as --model allenai/longformer-base-4096."
                )
            model = str(shipped())
        explored = Checkpoint(model)
        chosen = {explored.task: explored} if explored.task else {}
        for option, name in by_task.items():
            if name is None:
                continue
            task = option.replace("_", "-")
            checkpoint = explored if name == model else Checkpoint(name)
            if checkpoint.task != task:
                raise ValueError(
                    f"{name} has no head for {task}: it is a checkpoint for {checkpoint.task or 'no task'}."
                )
            chosen[task] = checkpoint
        return cls(explored, chosen)
