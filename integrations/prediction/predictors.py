"""The model of a plan, and what it predicts for some rows at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from longformer_plus.ops.memory import release_free_memory

from ..checkpoints import load_checkpoint, load_encoder
from ..data.checks import MissingColumnError
from ..data.sources import Entry, Row
from .plan import PredictionPlan
from .tasks import FEATURES, PREDICTED


class Predictor:
    """The model of a plan, ready to predict.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: the task and the checkpoint do not go together.
    """

    def __init__(self, plan: PredictionPlan) -> None:
        self.plan = plan
        self._predict = PREDICTED[plan.task][1]
        is_encoder = plan.task == FEATURES
        loaded = (
            load_encoder(plan.model, plan.precision)
            if is_encoder
            else load_checkpoint(plan.task, plan.model, plan.precision)
        )
        self.model, self.tokenizer = loaded

    def predict(
        self, entries: Sequence[Entry], report: Callable[[float, int], None] | None = None
    ) -> tuple[list[Row], list[Row]]:
        """The predictions for some rows, and what is wrong with those that there are none for; both in order.

        Args:
            entries: rows, and some that could not be read.
            report: see `StretchReader`.
        """
        problems: dict[int, str] = {}
        rows: dict[int, Row] = {}
        for place, entry in enumerate(entries):
            if problem := entry.error or _problem(self.plan, entry.row):
                problems[place] = problem
            else:
                rows[place] = _asked(self.plan, entry.row)
        try:
            results = dict(zip(rows, self._run(list(rows.values()), report), strict=True))
        except ValueError:
            # One of them is to blame, such as one with a question that is longer than the model.
            results = {}
            for place, row in rows.items():
                try:
                    results[place] = self._run([row], report)[0]
                except ValueError as error:
                    problems[place] = str(error)
        release_free_memory()
        predicted = [{**_origin(entries[place]), **results[place]} for place in sorted(results)]
        return predicted, [
            {**_origin(entries[place]), "where": entries[place].where, "error": problems[place]}
            for place in sorted(problems)
        ]

    def _run(self, rows: Sequence[Row], report: Callable[[float, int], None] | None) -> list[dict[str, Any]]:
        if not rows:
            return []
        plan = self.plan
        options: dict[str, Any] = {"max_length": plan.max_length, "batch_tokens": plan.batch_tokens, "report": report}
        if plan.task == FEATURES:
            options |= {"pooling": plan.pooling, "normalize": plan.normalize}
        return self._predict(self.model, self.tokenizer, rows, **options)


def check_first(plan: PredictionPlan, entry: Entry) -> None:
    """Raise a ValueError for a first row that lacks a column: so will the others."""
    try:
        if not entry.error:
            PREDICTED[plan.task][0](_asked(plan, entry.row))
    except MissingColumnError as error:
        raise ValueError(f"{entry.where}: {error}") from None
    except ValueError:
        return  # this row's own mistake, for the list of errors


def _asked(plan: PredictionPlan, row: Row) -> Row:
    """A row with the question that all are asked, and with the text of a file as what it is asked about."""
    if plan.task != "question-answering":
        return row
    question = {} if plan.question is None else {"question": plan.question}
    return {**({"context": row["text"]} if "text" in row else {}), **row, **question}


def _problem(plan: PredictionPlan, row: Row) -> str:
    """What is wrong with a row; empty where nothing is."""
    try:
        PREDICTED[plan.task][0](_asked(plan, row))
        "".join(value for value in row.values() if isinstance(value, str)).encode()
    except UnicodeEncodeError as error:
        return f"its text holds half of a character ({error.object[error.start]!a}), which no encoding has."
    except ValueError as error:
        return str(error)
    return ""


def _origin(entry: Entry) -> Row:
    """Where a prediction comes from."""
    origin: Row = {"source": entry.source, "row": entry.number}
    return {**origin, "id": entry.row["id"]} if entry.row.get("id") is not None else origin
