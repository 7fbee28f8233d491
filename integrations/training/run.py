"""The run behind `longformer-plus train`: data, tokenizer and model, `Trainer`, and what is saved.

from longformer_plus.integrations.training import TrainingPlan, train

scores = train(TrainingPlan("text-classification", ["reviews.jsonl"], "my-classifier", model="my-longformer"))
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import ProgressCallback

from ..context_parallel import neighbours, split_sequence
from ..data.features import Prepared
from ..data.packing import PackedDocuments
from ..precision import is_bfloat16
from ..tasks import task_named
from .data import TaskData, collator, prepare
from .model import load_config, load_model, load_tokenizer
from .plan import TrainingPlan
from .report import Progress, is_first_process, plot_losses, say, scores_line

_PLAN_FILE = "training.json"
_SCORES_FILE = "scores.json"
PLOT_FILE = "losses.svg"


def train(plan: TrainingPlan) -> dict[str, float]:
    """Run a plan.

    Returns:
        The scores of the last evaluation, by name, as `Trainer` gives them ("eval_loss", ...).

    Raises:
        FileExistsError: the output folder holds something and `resume` is False.
        ModuleNotFoundError: a package of the extra `train` is missing.
        ValueError: the plan, or a row of the data, is wrong. All rows are looked at before training starts.
    """
    plan.check()
    output = Path(plan.output)
    checkpoint = _check_folder(plan, output)
    set_seed(plan.seed)
    tokenizer = load_tokenizer(plan)
    config = load_config(plan, tokenizer)
    max_length = min(plan.max_length or config.max_tokens, config.max_tokens)
    data = prepare(plan, tokenizer, max_length)
    for name, prepared in (("train", data.train), ("evaluation", data.evaluation)):
        if prepared is not None:
            say(f"{name + ':':<12}{prepared.summary}")
    model = load_model(plan, config, data, tokenizer)
    trainer = _make_trainer(plan, model, tokenizer, data)
    # Only now: a run that fails over its data leaves nothing behind.
    if trainer.is_world_process_zero():
        _record(plan, output)
    if checkpoint is None or not _restore_if_finished(trainer, Path(checkpoint)):
        trainer.train(resume_from_checkpoint=checkpoint)
    return _finish(trainer, plan, output)


def _finish(trainer: Trainer, plan: TrainingPlan, output: Path) -> dict[str, float]:
    """Save model and tokenizer, evaluate, draw the losses."""
    trainer.save_model(str(output))
    if plan.trains_adapters and trainer.is_world_process_zero():
        from ..adapters import save_model_config

        save_model_config(trainer.accelerator.unwrap_model(trainer.model), output)
    scores: dict[str, float] = {}
    if trainer.eval_dataset is not None:
        last = trainer.state.log_history[-2] if len(trainer.state.log_history) > 1 else {}
        was_evaluated = "eval_loss" in last and last["step"] == trainer.state.global_step
        scores = last if was_evaluated else trainer.evaluate()
        say(f"evaluation: {scores_line(scores)}")
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(output / "trainer_state.json"))
        (output / _SCORES_FILE).write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
        plot_losses(trainer.state.log_history, output / PLOT_FILE)
    say(f"Wrote {output}: the model, its tokenizer, {_SCORES_FILE} and {PLOT_FILE}. {_how_to_load(plan)}")
    return scores


def _how_to_load(plan: TrainingPlan) -> str:
    """What a person writes to get the trained model."""
    if plan.trains_adapters:
        return f'Load it: from longformer_plus.integrations.adapters import load_adapted; load_adapted("{plan.output}")'
    return f'Load it: import longformer_plus; {task_named(plan.task).auto_class}.from_pretrained("{plan.output}")'


def _check_folder(plan: TrainingPlan, output: Path) -> str | None:
    """See that nothing is overwritten; the checkpoint to resume from, if there is one."""
    recorded, now = output / _PLAN_FILE, _as_recorded(plan)
    # The other processes of a run find what the first one has written.
    if is_first_process() and output.exists() and any(output.iterdir()):
        if not plan.resume:
            raise FileExistsError(f"{output} is not empty. Name another folder, or resume the run in it (--resume).")
        if recorded.is_file():
            # A run of an earlier version, whose plan had fewer fields, did what their defaults say.
            before = {**_defaults(), **json.loads(recorded.read_text(encoding="utf-8"))}
            changed = [name for name in now if now[name] != before[name]]
            if changed:
                raise ValueError(
                    f"{output} holds a run with another {' and '.join(changed)}: it was {before[changed[0]]!r}, "
                    f"not {now[changed[0]]!r}. Resume with the same options, or name another folder."
                )
    checkpoint = last_checkpoint(output) if plan.resume else None
    if checkpoint is not None:
        say(f"Resuming from {checkpoint}.")
    return None if checkpoint is None else str(checkpoint)


def _as_recorded(plan: TrainingPlan) -> dict[str, Any]:
    """A plan as it is recorded, to be compared when a run is resumed."""
    return json.loads(json.dumps({**asdict(plan), "output": str(plan.output), "resume": None}))


def _defaults() -> dict[str, Any]:
    """What the fields of a recorded plan are where nothing is said, None where something must be."""
    return {**dict.fromkeys(each.name for each in fields(TrainingPlan)), **_as_recorded(TrainingPlan("", [], ""))}


def _record(plan: TrainingPlan, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / _PLAN_FILE).write_text(json.dumps(_as_recorded(plan), indent=2) + "\n", encoding="utf-8")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of `Trainer` in a folder that was written to its end; None if there is none."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    for path in sorted(found, key=lambda each: int(each.name.removeprefix("checkpoint-")), reverse=True):
        try:
            # The last file that Trainer writes.
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return path
    return None


def _restore_if_finished(trainer: Trainer, checkpoint: Path) -> bool:
    """Whether a checkpoint is of a run's last step, which is then loaded: `Trainer` would make one step more."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    # Not public: without it, the step more is made.
    load = getattr(trainer, "_load_from_checkpoint", None)
    if state.global_step < state.max_steps or load is None:
        return False
    load(str(checkpoint))
    trainer.state = state
    # Which process this is, the file does not say.
    state.is_world_process_zero = trainer.is_world_process_zero()
    state.is_local_process_zero = trainer.is_local_process_zero()
    return True


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


def _make_trainer(
    plan: TrainingPlan, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: TaskData
) -> Trainer:
    task, evaluation = task_named(plan.task), data.evaluation
    trainer = LongformerTrainer(
        model,
        _training_arguments(plan, data.train, evaluation is not None),
        data_collator=collator(plan, tokenizer, model.config),
        train_dataset=data.train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        compute_metrics=None if evaluation is None else task.compute_metrics(evaluation, data.names),
        preprocess_logits_for_metrics=task.shrink_logits,
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
        eval_strategy="steps" if evaluates and plan.eval_every else "no",
        eval_steps=plan.eval_every,
        save_strategy="steps",
        save_steps=plan.save_every,
        save_total_limit=plan.keep,
        label_names=list(task_named(plan.task).label_names),
        # The collators take what they know.
        remove_unused_columns=False,
        include_num_input_tokens_seen="non_padding",
        ddp_find_unused_parameters=False,
        report_to=[],
    )


def _checkpointing(wanted: bool) -> dict[str, Any]:
    """The arguments that switch gradient checkpointing on, by the names of the installed transformers."""
    if not wanted:
        return {}
    names = {each.name for each in fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}}
