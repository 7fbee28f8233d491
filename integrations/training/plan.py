"""What a training run is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import SchedulerType

from longformer_plus.global_attention import Policy

from ..tasks import TASKS, task_named
from .report import check_trackers


@dataclass
class TrainingPlan:
    """What is to be trained, on what, and how.

    Attributes:
        task: a key of `tasks.TASKS`, or an alias; "masked-lm" is "fill-mask", "causal-lm" is "text-generation".
        train: sources of data; see `sources.read_records`.
        output: the folder to write into: model, tokenizer, checkpoints, scores and a plot of the losses.
        evaluation: sources that are evaluated on.
        model: a checkpoint to start from, of LongformerPlus or Longformer, or the folder of adapters on one; None for a
            new one with random weights.
        config: the fields of a new model's configuration, or those that change in the checkpoint's.
        tokenizer: the folder or the hub's name of the tokenizer; by default the checkpoint's.
        weights: for fill-mask and text-generation, how many of the tokens come from each source, in any unit; by
            default by size.
        columns: the names of the columns in the sources, by the names of the task's `columns`.
        join_by: for question answering, the field by which paragraphs are joined to whole articles, such as "title".
        max_length: tokens of a feature; by default as many as the model has positions for.
        overlap: tokens that neighbouring stretches of a document share.
        unanswered_share: for question answering, the share of stretches without the answer that is trained on.
        masked_share: for fill-mask, the share of tokens that is hidden.
        global_attention: a policy, in place of the checkpoint's.
        lora: the rank of new LoRA adapters; None trains all weights, or the adapters that `model` is the folder of.
        lora_targets: the layers that they adapt, by PEFT's names, or "all-linear"; by default PEFT's for this model.
        epochs: how often all data are gone through.
        max_steps: how many optimizer steps are made, in place of `epochs`.
        batch_size: features of a device's batch.
        accumulation: batches of an optimizer step.
        learning_rate: its highest value.
        schedule: how it falls, by transformers' names.
        warmup: the share of the steps in which it rises.
        weight_decay: of AdamW.
        precision: "float32", "bfloat16", or "auto": bfloat16 where the device is faster with it.
        gradient_checkpointing: compute activations again in the backward pass, to save memory.
        group_by_length: put documents of like lengths into a batch.
        attn_implementation: the backend; None is the model's own default, the fastest one of the device.
        seed: of everything random.
        workers: processes that prepare batches.
        context_parallel: neighbouring processes that share each document in training; evaluation does without.
        log_every, eval_every, save_every: optimizer steps between reports, evaluations (None: only at the end), and
            checkpoints.
        keep: checkpoints that are kept.
        max_train_rows, max_eval_rows: use no more rows, drawn at random; for fill-mask and text-generation evaluation
            takes so many rows full of tokens, and training as many as its steps need.
        metric_for_best_model: the score by which the best checkpoint is chosen, which is saved at the end in place of
            the last; "loss" where only `early_stopping` is given. There is then a checkpoint at every evaluation, and
            an evaluation every `save_every` steps where `eval_every` is None.
        early_stopping: stop after so many evaluations without a better score.
        class_weights: "balanced" for a loss in which all classes count alike, or "none".
        report_to: the trackers that `Trainer` reports to, such as "tensorboard", "wandb" or "trackio".
        push_to_hub: the repository of the hub where the model is shared at the end.
        resume: go on from the last whole checkpoint in `output`, if there is one.
    """

    task: str
    train: Sequence[str]
    output: str | Path
    evaluation: Sequence[str] = ()
    model: str | None = None
    config: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    weights: Sequence[float] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    join_by: str | None = None
    max_length: int | None = None
    overlap: int = 128
    unanswered_share: float = 1.0
    masked_share: float = 0.15
    global_attention: Policy | None = None
    lora: int | None = None
    lora_targets: Sequence[str] | None = None
    epochs: float = 3.0
    max_steps: int | None = None
    batch_size: int = 4
    accumulation: int = 1
    learning_rate: float = 5e-5
    schedule: str = "linear"
    warmup: float = 0.06
    weight_decay: float = 0.01
    precision: str = "auto"
    gradient_checkpointing: bool = False
    group_by_length: bool = False
    attn_implementation: str | None = None
    seed: int = 0
    workers: int = 0
    context_parallel: int = 1
    log_every: int = 10
    eval_every: int | None = None
    save_every: int = 500
    keep: int = 2
    max_train_rows: int | None = None
    max_eval_rows: int | None = None
    metric_for_best_model: str | None = None
    early_stopping: int | None = None
    class_weights: str = "none"
    report_to: Sequence[str] = ()
    push_to_hub: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        # An unknown one is refused by `check`, with all else.
        aliases = {alias: name for name, task in TASKS.items() for alias in task.aliases}
        self.task = aliases.get(self.task, self.task)

    def check(self) -> None:
        """Raise a ValueError for the first value that is not allowed."""
        task = task_named(self.task)
        if self.model is None and self.config is None:
            raise ValueError("Give a checkpoint to start from (--model) or a new one's configuration (--config).")
        if self.model is None and self.tokenizer is None:
            raise ValueError("A new model needs a tokenizer (--tokenizer); `longformer-plus tokenizer` trains one.")
        if self.model is None and self.lora is not None:
            raise ValueError("LoRA adapts trained weights: give a checkpoint (--model) to start from.")
        if self.goes_on_from_adapters and self.lora is not None:
            raise ValueError(f"{self.model} holds adapters, which have their rank: leave --lora out to train them on.")
        if self.lora_targets is not None and self.lora is None:
            raise ValueError("lora_targets are for LoRA: give its rank too (--lora).")
        if self.join_by is not None and (task.join is None or task.is_packed):
            joined = " and ".join(each.name for each in TASKS.values() if each.join is not None and not each.is_packed)
            raise ValueError(f"join_by is for {joined}, not for {self.task}. Leave it out.")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision={self.precision!r} is not allowed: it must be auto, float32 or bfloat16.")
        sizes = (
            "context_parallel",
            "batch_size",
            "accumulation",
            "max_steps",
            "max_length",
            "lora",
            "keep",
            "early_stopping",
        )
        for name in (*sizes, "log_every", "eval_every", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not allowed: it must be at least 1.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup} is not allowed: it is a share of the steps, from 0 to less than 1.")
        if not 0 <= self.unanswered_share <= 1:
            raise ValueError(f"unanswered_share={self.unanswered_share} is not allowed: it must be from 0 to 1.")
        self._check_processes()
        # Known before the data are read, which may take long.
        SchedulerType(self.schedule)
        self._check_packing()
        self._check_best()
        self._check_class_weights()
        check_trackers(self.report_to)
        self._check_sharing()

    def _check_best(self) -> None:
        """Raise a ValueError where the best checkpoint cannot be known."""
        if not self.keeps_best:
            return
        if not self.evaluation:
            raise ValueError("The best checkpoint is known by its evaluation: give data for it (--eval).")
        task = task_named(self.task)
        allowed = ("loss", *dict.fromkeys((*task.scores, *task.scores_of_several)))
        if self.metric not in allowed:
            raise ValueError(
                f"metric_for_best_model={self.metric!r} is not allowed for {self.task}: it must be one of "
                f"{', '.join(allowed)}."
            )

    def _check_class_weights(self) -> None:
        """Raise a ValueError where classes cannot be weighted."""
        if self.class_weights not in ("none", "balanced"):
            raise ValueError(f"class_weights={self.class_weights!r} is not allowed: it must be balanced or none.")
        if self.class_weights == "none":
            return
        if task_named(self.task).class_names is None:
            weighted = " and ".join(each.name for each in TASKS.values() if each.class_names is not None)
            raise ValueError(f"class_weights are for {weighted}, not for {self.task}. Leave them out.")
        if self.context_parallel > 1:
            raise ValueError("class_weights are not allowed with context_parallel: leave one of them out.")

    def _check_sharing(self) -> None:
        """Raise a ValueError for adapters whose base others do not have."""
        if self.push_to_hub is None or not self.trains_adapters:
            return
        base = str(self.model)
        if self.goes_on_from_adapters:
            from ..adapters import adapter_of

            _, base = adapter_of(base)
        if Path(base).is_dir():
            raise ValueError(
                f"Adapters on {base} are of no use on the hub, since others do not have this folder. Train on a model "
                "of the hub, or leave --push-to-hub out and share what `longformer-plus merge` makes of the adapters."
            )

    def _check_processes(self) -> None:
        """Raise a ValueError where documents cannot be shared by so many processes."""
        if _world_size() % self.context_parallel:
            raise ValueError(
                f"context_parallel={self.context_parallel} is not allowed with {_world_size()} processes: it must "
                "divide their number. Start more of them: accelerate launch --num_processes N -m longformer_plus.cli."
            )
        if self.context_parallel > 1 and self.workers:
            raise ValueError(
                f"workers={self.workers} is not allowed with context_parallel: they draw other random numbers in each "
                "process, and the processes that share a document need the same batch. Leave workers out."
            )

    def _check_packing(self) -> None:
        """Raise a ValueError for what has no meaning where rows are drawn from text and packed, or only there."""
        if not TASKS[self.task].is_packed:
            if self.weights is not None:
                raise ValueError(f"{self.task} takes every row of its sources: leave their weights out.")
        elif self.max_train_rows is not None:
            raise ValueError(f"{self.task} draws from all of the text: use --max-steps in place of --max-train-rows.")
        elif self.group_by_length:
            raise ValueError(f"The rows of {self.task} are all as long as can be: leave --group-by-length out.")

    @property
    def goes_on_from_adapters(self) -> bool:
        """Whether what it starts from is not a whole checkpoint but adapters, saved by an earlier run."""
        return self.model is not None and (Path(self.model) / "adapter_config.json").is_file()

    @property
    def trains_adapters(self) -> bool:
        """Whether adapters alone are trained and saved."""
        return self.lora is not None or self.goes_on_from_adapters

    @property
    def keeps_best(self) -> bool:
        """Whether the best checkpoint is saved at the end, not the last."""
        return self.metric_for_best_model is not None or self.early_stopping is not None

    @property
    def metric(self) -> str:
        """The score by which the best checkpoint is chosen."""
        return (self.metric_for_best_model or "loss").removeprefix("eval_")

    @property
    def evaluation_steps(self) -> int | None:
        """Steps between evaluations, None where there is one at the end alone."""
        return self.eval_every or (self.save_every if self.keeps_best else None)

    @property
    def checkpoint_steps(self) -> int:
        """Steps between checkpoints: where the best is kept, there is one of every evaluation."""
        return self.evaluation_steps if self.keeps_best and self.evaluation_steps else self.save_every

    @property
    def rows_per_step(self) -> int:
        """Features of an optimizer step, on all devices."""
        return self.batch_size * self.accumulation * (_world_size() // self.context_parallel)


def _world_size() -> int:
    """How many processes train."""
    return int(os.environ.get("WORLD_SIZE", 1))
