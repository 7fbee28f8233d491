"""What is predicted for each task, for some rows at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, TokenizersBackend

from longformer_plus import (
    LongformerPlusForQuestionAnswering,
    LongformerPlusForSequenceClassification,
    LongformerPlusForTokenClassification,
    LongformerPlusModel,
    LongformerPlusPreTrainedModel,
)

from ..data.formats import Row
from ..data.sources import Entry
from ..long_documents.embedding import embed_documents
from ..long_documents.reading import answer_questions, classify_documents, find_entities, tag_documents
from .model import load_model

if TYPE_CHECKING:
    from .plan import PredictionPlan

Predict = Callable[..., list[dict[str, Any]]]


@dataclass(frozen=True)
class PredictedTask:
    """What predicts for a task: the head, the columns that it reads, and the function that judges rows."""

    model: type[LongformerPlusPreTrainedModel]
    columns: tuple[str, ...]
    predict: Predict


def _classes(model: PreTrainedModel, tokenizer: TokenizersBackend, rows: Sequence[Row], **options: Any) -> Any:
    return [asdict(each) for each in classify_documents(model, tokenizer, [row["text"] for row in rows], **options)]


def _answers(model: PreTrainedModel, tokenizer: TokenizersBackend, rows: Sequence[Row], **options: Any) -> Any:
    questions, documents = ([row[name] for row in rows] for name in ("question", "context"))
    found = answer_questions(model, tokenizer, questions, documents, **options)
    return [{"answers": [asdict(answer) for answer in answers]} for answers in found]


def _tags(model: PreTrainedModel, tokenizer: TokenizersBackend, rows: Sequence[Row], **options: Any) -> Any:
    documents = [row["text"] for row in rows]
    found = tag_documents(model, tokenizer, documents, **options)
    return [
        {"entities": [asdict(entity) for entity in find_entities(document, tags)]}
        for document, tags in zip(documents, found, strict=True)
    ]


def _embeddings(model: PreTrainedModel, tokenizer: TokenizersBackend, rows: Sequence[Row], **options: Any) -> Any:
    found = embed_documents(model, tokenizer, [row["text"] for row in rows], **options)
    return [{"embedding": each.tolist()} for each in found]


TASKS = {
    "text-classification": PredictedTask(LongformerPlusForSequenceClassification, ("text",), _classes),
    "token-classification": PredictedTask(LongformerPlusForTokenClassification, ("text",), _tags),
    "question-answering": PredictedTask(LongformerPlusForQuestionAnswering, ("question", "context"), _answers),
    "feature-extraction": PredictedTask(LongformerPlusModel, ("text",), _embeddings),
}


class Predictor:
    """The model of a plan, ready to predict.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: the task and the checkpoint do not go together.
    """

    def __init__(self, plan: PredictionPlan) -> None:
        self.plan = plan
        self.task = TASKS[plan.task]
        self.model, self.tokenizer = load_model(plan, self.task.model, {})

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
            row = asked(self.plan, entry.row)
            if problem := entry.error or _missing(row, self.task) or _problem(row, self.task):
                problems[place] = problem
            else:
                rows[place] = row
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
        if plan.task == "feature-extraction":
            options |= {"pooling": plan.pooling, "normalize": plan.normalize}
        return self.task.predict(self.model, self.tokenizer, rows, **options)


def asked(plan: PredictionPlan, row: Row) -> Row:
    """A row with the question that all are asked, and with the text of a file as what it is asked about."""
    if plan.task != "question-answering":
        return row
    question = {} if plan.question is None else {"question": plan.question}
    return {**({"context": row["text"]} if "text" in row else {}), **row, **question}


def check_first(plan: PredictionPlan, entry: Entry) -> None:
    """Raise a ValueError for a first row that lacks a column: so will the others.

    Raises:
        ValueError: it has no such column; names those that it has.
    """
    if not entry.error and (problem := _missing(asked(plan, entry.row), TASKS[plan.task])):
        raise ValueError(f"{entry.where}: {problem}")


def _missing(row: Row, task: PredictedTask) -> str:
    """Which column a row lacks; empty where none."""
    lacking = next((name for name in task.columns if name not in row), None)
    if lacking is None:
        return ""
    return f"has no {lacking!r}; it has {', '.join(map(repr, row)) or 'nothing'}: use --columns {lacking}=NAME."


def _problem(row: Row, task: PredictedTask) -> str:
    """What is wrong with the columns of a row; empty where nothing is."""
    for name in task.columns:
        if not isinstance(row[name], str):
            return f"{name!r} is {row[name]!r:.80}, not a string."
        if not row[name].strip():
            return f"{name!r} is empty."
    return ""


def _origin(entry: Entry) -> Row:
    """Where a prediction comes from."""
    origin: Row = {"source": entry.source, "row": entry.number}
    return {**origin, "id": entry.row["id"]} if entry.row.get("id") is not None else origin
