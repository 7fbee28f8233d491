"""The tasks that predict: those of the registry, and feature extraction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedModel, TokenizersBackend

from ..data.checks import check_text
from ..data.sources import Check, Row
from ..long_documents.embedding import embed_documents
from ..tasks import TASKS

FEATURES = "feature-extraction"
_Predict = Callable[..., list[dict[str, Any]]]


def _embed(
    model: PreTrainedModel, tokenizer: TokenizersBackend, rows: Sequence[Row], **options: Any
) -> list[dict[str, Any]]:
    """The `embedding` of each row. `options` are those of `embed_documents`."""
    found = embed_documents(model, tokenizer, [row["text"] for row in rows], **options)
    return [{"embedding": each.tolist()} for each in found]


# By task: what a row must have, and what predicts.
PREDICTED: dict[str, tuple[Check, _Predict]] = {
    **{name: (task.check_input, task.predict) for name, task in TASKS.items() if task.predict is not None},
    FEATURES: (check_text, _embed),
}
