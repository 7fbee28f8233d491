"""The evaluation behind `longformer-plus evaluate`: a checkpoint's scores on held-out data, beside simple baselines.

Whole documents are read, however long: by the functions of `long_documents`, not by the batches of training.

    scores = evaluate_checkpoint(EvaluationPlan("question-answering", "my-answers", ["dev.jsonl"], join_by="title"))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints import load_checkpoint
from ..data.sources import Record, read_records
from ..precision import choose_precision
from ..tasks import TASKS, HeldOut, Scores, Task, task_named


@dataclass
class EvaluationPlan:
    """What is to be evaluated, on what.

    Attributes:
        task: the name of a task in `tasks.TASKS` that has an evaluation, or an alias of it.
        model: a checkpoint with the task's head, or adapters for it.
        evaluation: sources of held-out data; see `sources.read_records`.
        train: the data that the model was trained on, from which the baselines learn; without, those that have to
            learn are left out.
        columns: the names of the columns in the sources, by the names of the task's `columns`.
        join_by: the field by which paragraphs are joined to whole articles, such as "title".
        contexts: for fill-mask, the lengths in tokens that documents are cut into, the shortest first. Those that the
            model has no positions for are passed over, but documents are as long as for one that has.
        max_length: for other tasks, the tokens of a stretch that is read at once; by default as many as the model has
            positions for.
        max_rows: use no more rows of each source, drawn at random.
        batch_size: stretches read at once.
        seed: of which rows are drawn and which tokens are hidden.
        precision: of the model, one of `PRECISIONS`; see `precision.choose_precision`.
    """

    task: str
    model: str | Path
    evaluation: Sequence[str]
    train: Sequence[str] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    join_by: str | None = None
    contexts: Sequence[int] = (512, 4096)
    max_length: int | None = None
    max_rows: int | None = None
    batch_size: int = 4
    seed: int = 0
    precision: str = "float32"

    def check(self) -> None:
        """Raise a ValueError for the first value that is not allowed."""
        task = task_named(self.task)
        choose_precision(self.precision)
        if task.evaluate is None:
            allowed = ", ".join(repr(name) for name, each in TASKS.items() if each.evaluate is not None)
            raise ValueError(f"task={self.task!r} is not allowed: it must be one of {allowed}.")
        if self.join_by is not None and task.join is None:
            raise ValueError(f"join_by is not for {task.name}, whose rows are whole documents. Leave it out.")
        if sorted(self.contexts) != list(self.contexts) or not self.contexts or self.contexts[0] < 3:
            raise ValueError(
                f"contexts={list(self.contexts)} is not allowed: give lengths of at least 3, the shortest first."
            )
        if self.max_length is not None and task.compares_contexts:
            raise ValueError(f"max_length is not for {task.name}, which reads the same text at several: give contexts.")

    @property
    def reading(self) -> dict[str, Any]:
        """How documents are read: options of `stretches.StretchReader`."""
        return {"max_length": self.max_length, "batch_size": self.batch_size, "show_progress": True}


def evaluate_checkpoint(plan: EvaluationPlan) -> Scores:
    """The scores of a checkpoint, and of the baselines.

    Returns:
        By what was evaluated ("model", the name of a baseline; for fill-mask the source and the context) the scores
        by their names. Those of answers are percent, all others shares from 0 to 1, or nats.

    Raises:
        OSError, ValueError: the plan or the data are wrong, or the checkpoint cannot be read.
    """
    plan.check()
    task = task_named(plan.task)
    held_out = HeldOut(
        {source: _read(plan, task, source) for source in plan.evaluation},
        read_records(plan.train, task.check, plan.columns),
        plan.reading,
        plan.contexts,
        plan.seed,
    )
    model, tokenizer = load_checkpoint(task.name, plan.model, plan.precision)
    return task.evaluate(model, tokenizer, held_out)  # type: ignore[misc]


def _read(plan: EvaluationPlan, task: Task, source: str) -> list[Record]:
    """The rows of a source, whole documents of them, or some of these, drawn at random."""
    records = read_records([source], task.check, plan.columns)
    if plan.join_by is not None and task.join is not None:
        records = task.join(records, plan.join_by)
    if plan.max_rows is None or plan.max_rows >= len(records):
        return records
    chosen = np.random.default_rng(plan.seed).choice(len(records), plan.max_rows, replace=False)
    return [records[index] for index in sorted(chosen)]
