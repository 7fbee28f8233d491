"""The run behind `longformer-plus train`: data, tokenizer and model, `Trainer`, and what is saved.

from longformer_plus.integrations.training import TrainingPlan, train

scores = train(TrainingPlan("text-classification", ["reviews.jsonl"], "my-classifier", model="my-longformer"))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, Trainer, set_seed
from transformers.trainer_callback import TrainerState

from ..data.files import load
from ..tasks import task_named
from . import hub
from .data import TaskData, prepare
from .folder import check_folder, record
from .model import load_config, load_model, load_tokenizer
from .plan import TrainingPlan
from .report import plot_losses, say, scores_line
from .stopping import StopAtSignal, report_full_disk
from .trainer import make_trainer

_SCORES_FILE = "scores.json"
_WEIGHTS_FILE = "class_weights.json"
PLOT_FILE = "losses.svg"


def train(plan: TrainingPlan) -> dict[str, float]:
    """Run a plan.

    Returns:
        The scores of the model that is saved, by name, as `Trainer` gives them ("eval_loss", ...).

    Raises:
        FileExistsError: the output folder holds something and `resume` is False.
        ModuleNotFoundError: a package of the extra `train` is missing, or that of a report.
        OSError: the disk is full, or the hub cannot be written to.
        TrainingStopped: SIGINT or SIGTERM came. In training there is a checkpoint then, to resume from.
        ValueError: the plan, or a row of the data, is wrong. All rows are looked at before training starts.
    """
    plan.check()
    if plan.evaluation:
        # Before hours of training, and not after them.
        for module in ("evaluate", "seqeval", "sklearn"):
            load(module, "to evaluate", "train")
    output = Path(plan.output)
    with StopAtSignal(output) as stop, report_full_disk(output):
        checkpoint = check_folder(plan, output)
        set_seed(plan.seed)
        tokenizer = load_tokenizer(plan)
        config = load_config(plan, tokenizer)
        max_length = min(plan.max_length or config.max_tokens, config.max_tokens)
        data = prepare(plan, tokenizer, max_length)
        for name, text in data.summary.items():
            say(f"{name + ':':<12}{text}")
        model = load_model(plan, config, data, tokenizer)
        trainer = make_trainer(plan, model, tokenizer, data, [stop])
        if plan.push_to_hub is not None:
            hub.open_repository(trainer)
        # Only now: a run that fails over its data leaves nothing behind.
        if trainer.is_world_process_zero():
            record(plan, output)
        if checkpoint is None or not _restore_if_finished(trainer, plan, Path(checkpoint)):
            trainer.train(resume_from_checkpoint=checkpoint)
        stop.check()
        return _finish(trainer, plan, data, output)


def _finish(trainer: Trainer, plan: TrainingPlan, data: TaskData, output: Path) -> dict[str, float]:
    """Save model and tokenizer, evaluate, draw the losses, and share it all where that is wanted."""
    trainer.save_model(str(output))
    if plan.trains_adapters and trainer.is_world_process_zero():
        from ..adapters import save_model_config

        save_model_config(trainer.accelerator.unwrap_model(trainer.model), output)
    scores = _scores(trainer, plan)
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(output / "trainer_state.json"))
        _write_json(output / _SCORES_FILE, scores)
        if data.class_weights is not None:
            _write_json(output / _WEIGHTS_FILE, dict(zip(data.names, data.class_weights.tolist(), strict=True)))
        plot_losses(trainer.state.log_history, output / PLOT_FILE)
    say(f"Wrote {output}: the model, its tokenizer, {_SCORES_FILE} and {PLOT_FILE}. {_how_to_load(plan)}")
    if plan.push_to_hub is not None:
        hub.push(trainer, plan, scores)
    return scores


def _scores(trainer: Trainer, plan: TrainingPlan) -> dict[str, float]:
    """Those of the model that is saved: of the evaluation in training that was of it, or of one made now."""
    if trainer.eval_dataset is None:
        return {}
    state = trainer.state
    saved = state.best_global_step if plan.keeps_best else state.global_step
    evaluations = [entry for entry in state.log_history if "eval_loss" in entry]
    made = [entry for entry in evaluations if entry["step"] == saved]
    scores = made[-1] if made else trainer.evaluate()
    if plan.keeps_best:
        say(f"best:       step {saved:,} of {state.global_step:,}, by {plan.metric}: what is saved is its model")
    say(f"evaluation: {scores_line(scores)}")
    return scores


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _how_to_load(plan: TrainingPlan) -> str:
    """What a person writes to get the trained model."""
    if plan.trains_adapters:
        return f'Load it: from longformer_plus.integrations.adapters import load_adapted; load_adapted("{plan.output}")'
    return f'Load it: import longformer_plus; {task_named(plan.task).auto_class}.from_pretrained("{plan.output}")'


def _restore_if_finished(trainer: Trainer, plan: TrainingPlan, checkpoint: Path) -> bool:
    """Whether a checkpoint is of a run's last step. Its model, or the best, is then loaded.

    `Trainer` would make one step more.
    """
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    # Not public: without it, the step more is made.
    load = getattr(trainer, "_load_from_checkpoint", None)
    if load is None or (state.global_step < state.max_steps and not _was_stopped_early(state)):
        return False
    load(str(checkpoint.with_name(f"checkpoint-{state.best_global_step}") if plan.keeps_best else checkpoint))
    trainer.state = state
    # Which process this is, the file does not say.
    state.is_world_process_zero = trainer.is_world_process_zero()
    state.is_local_process_zero = trainer.is_local_process_zero()
    return True


def _was_stopped_early(state: TrainerState) -> bool:
    callbacks: Any = state.stateful_callbacks
    if EarlyStoppingCallback.__name__ not in callbacks:
        return False
    stopper = EarlyStoppingCallback.from_state(callbacks[EarlyStoppingCallback.__name__])
    return stopper.early_stopping_patience_counter >= stopper.early_stopping_patience
