from __future__ import annotations

import numpy as np
import pytest
from transformers import EvalPrediction

from longformer_plus import LongformerPlusTokenizer

pytest.importorskip("evaluate")
from longformer_plus.integrations.data.features import prepare_tagging
from longformer_plus.integrations.data.sources import Record
from longformer_plus.integrations.tasks.token_classification import TASK


def test_entities_of_a_document_are_put_together_from_its_stretches(tokenizer: LongformerPlusTokenizer) -> None:
    names = ["B-LOC", "I-LOC", "O"]
    words = ["river"] * 70 + ["Berlin", "Paris"] + ["stone"] * 60
    tags = ["O"] * 70 + ["B-LOC", "I-LOC"] + ["O"] * 60
    prepared = prepare_tagging([Record("a", {"tokens": words, "ner_tags": tags})], tokenizer, names, 40, 8)
    assert len(prepared) > 2
    length = max(len(feature["labels"]) for feature in prepared)
    labels = np.full((len(prepared), length), -100)
    for row, feature in zip(labels, prepared, strict=True):
        row[: len(feature["labels"])] = feature["labels"]
    compute = TASK.compute_metrics(prepared, names)
    assert compute(EvalPrediction(np.maximum(labels, 0), labels))["f1"] == 1.0
    wrong = np.where(labels == 1, 2, np.maximum(labels, 0))
    assert compute(EvalPrediction(wrong, labels))["f1"] == 0.0
