"""The `Trainer` of a plan, with its arguments and callbacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ProgressCallback

from ..context_parallel import neighbours, split_sequence
from ..data.features import Prepared
from ..data.packing import PackedDocuments
from ..precision import is_bfloat16
from ..tasks import LOWER_IS_BETTER, task_named
from .class_weights import weighted_loss
from .data import TaskData, collator
from .plan import TrainingPlan
from .report import Progress
from .stopping import start_worker


class _CountTokensOnce(TrainerCallback):
    """Count the tokens of documents that processes share once, not once for each process as `Trainer` does.

    Args:
        num_sharing: processes that share a document.
    """

    def __init__(self, num_sharing: int) -> None:
        self._num_sharing = num_sharing
        self._before = 0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember the tokens of the steps before."""
        self._before = state.num_input_tokens_seen

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Correct those of this step, before they are reported or saved."""
        state.num_input_tokens_seen = self._before + (state.num_input_tokens_seen - self._before) // self._num_sharing


class LongformerTrainer(Trainer):
    """`Trainer` that computes no logits of training that nobody looks at, and counts answers as it does labels.

    Its own counts `labels` alone, and takes the mean of the batches' means where there are none, which is inexact where
    the batches of a step differ in size.

    Args:
        args, kwargs: those of `Trainer`.
        context_parallel: neighbouring processes that share each document in training.
    """

    def __init__(self, *args: Any, context_parallel: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sharing = neighbours(context_parallel) if context_parallel > 1 else None
        if self._sharing is not None:
            self.add_callback(_CountTokensOnce(context_parallel))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of this process, the same for all processes that share documents."""
        loader = super().get_train_dataloader()
        # accelerate's is a shell around the one that starts processes.
        starting: Any = getattr(loader, "base_dataloader", loader)
        starting.worker_init_fn = partial(start_worker, starting.worker_init_fn)
        if self._sharing is not None:
            shard: Any = loader.batch_sampler
            shard.num_processes //= self._sharing.size()
            shard.process_index //= self._sharing.size()
        return loader

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """A step with the logits of labelled tokens alone: the others cost a small model a third of its time."""
        # What is saved between the steps has the configuration as it was given.
        config: Any = self.accelerator.unwrap_model(model).config
        given = config.sparse_prediction
        config.sparse_prediction = True
        try:
            with nullcontext() if self._sharing is None else split_sequence(model, self._sharing):
                return super().training_step(model, *args, **kwargs)
        finally:
            config.sparse_prediction = given

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The batches of a step, and how many labels, or answers, they have."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if count is None and batches and "start_positions" in batches[0]:
            # Counted under the name that it knows, among as many processes and devices as there are.
            labelled = iter([{"labels": batch["start_positions"]} for batch in batches])
            _, count = super().get_batch_samples(labelled, num_batches, device)
        return batches, count


def make_trainer(
    plan: TrainingPlan,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    callbacks: Sequence[TrainerCallback] = (),
) -> LongformerTrainer:
    """The trainer of a plan, which reports its progress."""
    task, evaluation = task_named(plan.task), data.evaluation
    early_stopping = [] if plan.early_stopping is None else [EarlyStoppingCallback(plan.early_stopping)]
    trainer = LongformerTrainer(
        model,
        _training_arguments(plan, data.train, evaluation is not None),
        data_collator=collator(plan, tokenizer, model.config),
        train_dataset=data.train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        compute_loss_func=None if data.class_weights is None else weighted_loss(data.class_weights),
        compute_metrics=None if evaluation is None else task.compute_metrics(evaluation, data.names),
        preprocess_logits_for_metrics=task.shrink_logits,
        callbacks=[*early_stopping, *callbacks],
        context_parallel=plan.context_parallel,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress)
    return trainer


def _training_arguments(plan: TrainingPlan, data: Prepared | PackedDocuments, evaluates: bool) -> TrainingArguments:
    """What `Trainer` is told."""
    is_packed = isinstance(data, PackedDocuments)
    order = "group_by_length" if plan.group_by_length else "random"
    return TrainingArguments(
        output_dir=str(plan.output),
        max_steps=plan.max_steps or -1,
        # The rows of packed documents are as many as the plan says: all of them are gone through once.
        num_train_epochs=1 if is_packed else plan.epochs,
        train_sampling_strategy="sequential" if is_packed else order,
        per_device_train_batch_size=plan.batch_size,
        per_device_eval_batch_size=plan.batch_size,
        gradient_accumulation_steps=plan.accumulation,
        learning_rate=plan.learning_rate,
        lr_scheduler_type=plan.schedule,
        warmup_steps=plan.warmup,
        weight_decay=plan.weight_decay,
        bf16=is_bfloat16(plan.precision),
        use_cpu=not torch.accelerator.is_available(),
        **_checkpointing(plan.gradient_checkpointing),
        seed=plan.seed,
        data_seed=plan.seed,
        dataloader_num_workers=plan.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=plan.log_every,
        logging_first_step=True,
        eval_strategy="steps" if evaluates and plan.evaluation_steps else "no",
        eval_steps=plan.evaluation_steps,
        save_strategy="steps",
        save_steps=plan.checkpoint_steps,
        **_best(plan),
        label_names=list(task_named(plan.task).label_names),
        # The collators take what they know.
        remove_unused_columns=False,
        include_num_input_tokens_seen="non_padding",
        ddp_find_unused_parameters=False,
        report_to=list(plan.report_to),
        hub_model_id=plan.push_to_hub,
    )


def _best(plan: TrainingPlan) -> dict[str, Any]:
    """The arguments that say which checkpoints are kept."""
    if not plan.keeps_best:
        return {"save_total_limit": plan.keep}
    return {
        # Of one, Trainer would remove the last checkpoint of a run that is stopped, and keep the best.
        "save_total_limit": max(plan.keep, 2),
        "load_best_model_at_end": True,
        "metric_for_best_model": plan.metric,
        "greater_is_better": plan.metric not in LOWER_IS_BETTER,
        "restore_callback_states_from_checkpoint": plan.early_stopping is not None,
    }


def _checkpointing(wanted: bool) -> dict[str, Any]:
    """The arguments that switch gradient checkpointing on, by the names of the installed transformers."""
    if not wanted:
        return {}
    names = {each.name for each in fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}}
