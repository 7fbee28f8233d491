"""A number for each document: trained, evaluated and predicted."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig

from longformer_plus import LongformerPlusTokenizer, cli

pytest.importorskip("evaluate")
from longformer_plus.integrations.checkpoints import load_checkpoint
from longformer_plus.integrations.tasks.text_regression import TASK

from ...fine_tuning import model_fields, rows


def test_numbers_are_learned_evaluated_and_predicted(tokenizer: LongformerPlusTokenizer, tmp_path: Path) -> None:
    """By the commands; the scores of the evaluation are those of the predictions."""
    made = rows(TASK.name, length=20)
    source = str(tmp_path / "data.csv")
    with open(source, "w", newline="") as file:
        table = csv.DictWriter(file, ["text", "label"])
        table.writeheader()
        table.writerows(made)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    new = ["--config", json.dumps(model_fields()), "--tokenizer", str(tmp_path / "tokenizer"), "--max-steps", "3"]
    task = ["--task", TASK.name, "--train", source, "--eval", source]
    assert cli.main(["train", *task, *new, "--output", str(tmp_path / "model"), "--precision", "float32"]) == 0
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert (config.num_labels, config.problem_type) == (1, "regression")
    evaluation = ["--model", str(tmp_path / "model"), "--json", str(tmp_path / "scores.json")]
    assert cli.main(["evaluate", *task, *evaluation]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert list(scores) == ["model", "mean of the training labels", "TF-IDF + ridge regression"]
    truths = np.array([row["label"] for row in made])
    assert scores["mean of the training labels"]["mean_squared_error"] == pytest.approx(truths.var())
    assert scores["TF-IDF + ridge regression"]["mean_squared_error"] < truths.var()
    predicted = TASK.predict(*load_checkpoint(TASK.name, tmp_path / "model"), made)
    values = np.array([each["value"] for each in predicted])
    assert scores["model"]["mean_squared_error"] == pytest.approx(((values - truths) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize("label", ["high", "", "nan", "1,5", None, True, [1.0]])
def test_labels_that_are_no_numbers(label: object) -> None:
    with pytest.raises(ValueError, match="is not a finite number"):
        TASK.check({"text": "a", "label": label})
