"""The data of a plan, made into features, and the collator that makes batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..data.collators import DataCollatorForLongformer
from ..data.features import Prepared
from ..data.packing import PackedDocuments, TextSource
from ..data.sources import Record, read_records
from ..tasks import Preparation, Task, task_named
from .class_weights import balanced_weights
from .plan import TrainingPlan

_EVALUATION_ROWS = 64


@dataclass
class TaskData:
    """What is learned from.

    Attributes:
        train: features to train on.
        evaluation: features to evaluate on.
        names: the classes by id, where the task has some.
        config: the fields of the model's configuration that depend on the task and its rows.
        class_weights: (C,) how much each class counts in the loss, None where all count as often as they occur.
    """

    train: Prepared | PackedDocuments
    evaluation: Prepared | PackedDocuments | None
    names: Sequence[str] = ()
    config: dict[str, Any] = field(default_factory=dict)
    class_weights: Tensor | None = None

    @property
    def summary(self) -> dict[str, str]:
        """What there is, for people."""
        said = {"train": self.train.summary}
        if self.evaluation is not None:
            said["evaluation"] = self.evaluation.summary
        if self.class_weights is not None:
            weights = zip(self.names, self.class_weights.tolist(), strict=True)
            said["weights"] = ", ".join(f"{name} {weight:.3g}" for name, weight in weights)
        return said


def prepare(plan: TrainingPlan, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TaskData:
    """The data of a plan, read, checked and made into features."""
    task = task_named(plan.task)
    if task.prepare is None:
        return _prepare_text(plan, tokenizer, max_length)
    train = _read(plan, task, plan.train, plan.max_train_rows)
    evaluation = _read(plan, task, plan.evaluation, plan.max_eval_rows)
    names = task.class_names(train) if task.class_names is not None else []
    config = task.configure(train, names) if task.configure is not None else {}
    if evaluation and task.configure is not None and task.configure(evaluation, names) != config:
        raise ValueError("Of training and evaluation data, one has a label for each row and the other lists of labels.")
    if plan.keeps_best and config.get("problem_type") == "multi_label_classification":
        _check_metric(plan.metric, task.scores_of_several)
    elif plan.keeps_best:
        _check_metric(plan.metric, task.scores)
    options = Preparation(max_length, names, plan.overlap, plan.unanswered_share, plan.seed)
    prepared = task.prepare(train, tokenizer, options)
    return TaskData(
        prepared,
        # Evaluation takes every stretch.
        task.prepare(evaluation, tokenizer, replace(options, unanswered_share=1.0)) if evaluation else None,
        names,
        config,
        balanced_weights(prepared, len(names)) if plan.class_weights == "balanced" else None,
    )


def _check_metric(metric: str, scores: Sequence[str]) -> None:
    """Raise a ValueError for a score that the task has, but not of such labels."""
    if metric not in ("loss", *scores):
        raise ValueError(
            f"metric_for_best_model={metric!r} is not allowed for such labels: it must be loss or one of "
            f"{', '.join(scores)}."
        )


def _read(plan: TrainingPlan, task: Task, sources: Sequence[str], limit: int | None) -> list[Record]:
    """The rows of sources, or some of them, drawn at random: those of a file are often in an order that matters."""
    records = read_records(sources, task.check, plan.columns)
    if plan.join_by is not None and task.join is not None:
        # Before rows are drawn, so that no article lacks a part.
        records = task.join(records, plan.join_by)
    if limit is None or limit >= len(records):
        return records
    chosen = np.random.default_rng(plan.seed).choice(len(records), limit, replace=False)
    return [records[index] for index in sorted(chosen)]


def _prepare_text(plan: TrainingPlan, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TaskData:
    """Packed rows: as many as the steps of the plan take, or as hold the text `epochs` times."""
    sources = [TextSource(source, plan.columns) for source in plan.train]
    packed = PackedDocuments(sources, tokenizer, max_length, 1, plan.weights, plan.seed)
    packed.num_rows = (
        plan.max_steps * plan.rows_per_step if plan.max_steps else max(round(plan.epochs * packed.rows_of_text()), 1)
    )
    if not plan.evaluation:
        return TaskData(packed, None)
    held_out = [TextSource(source, plan.columns) for source in plan.evaluation]
    rows = plan.max_eval_rows or _EVALUATION_ROWS
    # Another seed than that of training: which rows are drawn must not depend on how long is trained.
    return TaskData(packed, PackedDocuments(held_out, tokenizer, max_length, rows, seed=plan.seed + 1))


def collator(
    plan: TrainingPlan, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> DataCollatorForLongformer:
    """The collator of a plan. Global tokens are chosen as the model's configuration says."""
    task = task_named(plan.task)
    options: dict[str, Any] = {name: getattr(plan, name) for name in task.collator_options}
    return task.collator(tokenizer, global_attention=config.global_attention, **options)
