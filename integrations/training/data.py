"""The data of a plan, made into features, and the collator that makes batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..data.collators import DataCollatorForLongformer
from ..data.features import (
    Prepared,
    class_names,
    join_paragraphs,
    prepare_choices,
    prepare_classification,
    prepare_questions,
    prepare_tagging,
)
from ..data.packing import PackedDocuments, TextSource
from ..data.sources import Record, read_records
from ..tasks.registry import TASKS
from .plan import TrainingPlan

_EVALUATION_ROWS = 64


@dataclass
class TaskData:
    """Features to train and to evaluate on, and the classes by id where the task has some."""

    train: Prepared | PackedDocuments
    evaluation: Prepared | PackedDocuments | None
    names: Sequence[str] = ()


def prepare(plan: TrainingPlan, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TaskData:
    """The data of a plan, read, checked and made into features."""
    if TASKS[plan.task].is_packed:
        return _prepare_text(plan, tokenizer, max_length)
    train, evaluation = _read(plan, plan.train, plan.max_train_rows), _read(plan, plan.evaluation, plan.max_eval_rows)
    names = class_names(train, plan.task) if plan.task.endswith("-classification") else []
    prepared = _features(plan, train, tokenizer, names, max_length, plan.unanswered_share)
    return TaskData(
        prepared, _features(plan, evaluation, tokenizer, names, max_length, 1.0) if evaluation else None, names
    )


def _read(plan: TrainingPlan, sources: Sequence[str], limit: int | None) -> list[Record]:
    """The rows of sources, or some of them, drawn at random: those of a file are often in an order that matters."""
    records = read_records(sources, plan.task, plan.columns)
    if plan.join_by is not None:
        # Before rows are drawn, so that no article lacks a part.
        records = join_paragraphs(records, plan.join_by)
    if limit is None or limit >= len(records):
        return records
    chosen = np.random.default_rng(plan.seed).choice(len(records), limit, replace=False)
    return [records[index] for index in sorted(chosen)]


def _features(
    plan: TrainingPlan,
    records: list[Record],
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    max_length: int,
    unanswered_share: float,
) -> Prepared:
    if plan.task == "text-classification":
        return prepare_classification(records, tokenizer, names, max_length)
    if plan.task == "token-classification":
        return prepare_tagging(records, tokenizer, names, max_length, plan.stride)
    if plan.task == "multiple-choice":
        return prepare_choices(records, tokenizer, max_length)
    return prepare_questions(
        records, tokenizer, max_length, plan.stride, unanswered_share=unanswered_share, seed=plan.seed
    )


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
    options: dict[str, Any] = {"masked_share": plan.masked_share} if plan.task == "fill-mask" else {}
    return TASKS[plan.task].collator(tokenizer, global_attention=config.global_attention, **options)
