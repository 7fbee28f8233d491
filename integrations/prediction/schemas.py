"""The columns of predictions in Parquet. They are the same in all parts, whatever is found in these."""

from __future__ import annotations

from typing import Any

from ..data.files import load


def schema(task: str) -> Any:
    """The Arrow schema of a task's predictions.

    Raises:
        ModuleNotFoundError: pyarrow is missing.
        ValueError: the task has none.
    """
    arrow = load("pyarrow", "to write .parquet files")
    text, number, place = arrow.string(), arrow.float64(), arrow.int64()

    def several(**columns: Any) -> Any:
        return arrow.list_(arrow.struct(list(columns.items())))

    span = {"text": text, "start": place, "end": place, "score": number}
    results: dict[str, dict[str, Any]] = {
        "text-classification": {"label": text, "score": number, "scores": arrow.map_(text, number)},
        "text-regression": {"value": number},
        "token-classification": {"tags": arrow.list_(text), "entities": several(label=text, **span)},
        "question-answering": {"answers": several(**span)},
        "fill-mask": {"masks": several(start=place, end=place, fills=several(text=text, score=number))},
        "feature-extraction": {"embedding": arrow.list_(arrow.float32())},
    }
    if task not in results:
        raise ValueError(f"format='parquet' is not allowed for {task}: choose 'jsonl'.")
    return arrow.schema(list({"source": text, "row": place, "id": text, **results[task]}.items()))
