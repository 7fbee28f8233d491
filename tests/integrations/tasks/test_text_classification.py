"""Several labels for each document, from a table: trained, evaluated and predicted, in stretches."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, softmax
from transformers import AutoConfig

from longformer_plus import LongformerPlusTokenizer, cli

pytest.importorskip("evaluate")
from longformer_plus.integrations.data.features import Prepared
from longformer_plus.integrations.tasks.task import judge_documents
from longformer_plus.integrations.tasks.text_classification import TASK

from ...fine_tuning import model_fields, rows


def test_several_labels_by_the_commands(
    tokenizer: LongformerPlusTokenizer, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    texts = [row["text"] for row in rows(TASK.name, 8, 100)]
    labels = [["king"], ["king", "stone"], [], ["stone"]] * 2
    source = str(tmp_path / "data.csv")
    with open(source, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        table.writerows(zip(texts, map(json.dumps, labels), strict=True))
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    new = ["--config", json.dumps(model_fields()), "--tokenizer", str(tmp_path / "tokenizer"), "--max-steps", "3"]
    task, length = ["--task", TASK.name], ["--max-length", "64"]
    model = str(tmp_path / "model")
    train = ["train", *task, "--train", source, "--eval", source, *new, *length, "--output", model]
    best = ["--metric-for-best", "f1_macro", "--eval-every", "2", "--class-weights", "balanced"]
    assert cli.main([*train, *best, "--precision", "float32"]) == 0
    config = AutoConfig.from_pretrained(model)
    assert (config.problem_type, config.id2label) == ("multi_label_classification", {0: "king", 1: "stone"})
    assert "of the tokens lie beyond the first stretches" in capsys.readouterr().out
    evaluate = ["evaluate", *task, "--model", model, "--eval", source, "--json", str(tmp_path / "scores.json")]
    assert cli.main([*evaluate, *length]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["scores"]["model"].keys() == {*TASK.scores_of_several}
    predict = ["predict", *task, "--model", model, "--input", source, "--output", str(tmp_path / "out"), *length]
    assert cli.main(predict) == 0
    (part,) = (tmp_path / "out").glob("part-*")
    predicted = [json.loads(line) for line in part.read_text().splitlines()]
    assert [each["scores"].keys() for each in predicted] == [{"king", "stone"}] * 8


def test_documents_are_judged_by_all_their_stretches() -> None:
    """The mean over these, weighted by their own tokens."""
    prepared = Prepared([], [0, 0, 1], "", [30, 10, 5])
    logits = np.array([[2.0, 0.0], [0.0, 4.0], [1.0, 0.0]])
    means = {
        "single_label_classification": (30 * softmax(logits[0]) + 10 * softmax(logits[1])) / 40,
        "multi_label_classification": (30 * expit(logits[0]) + 10 * expit(logits[1])) / 40,
        "regression": (30 * logits[0] + 10 * logits[1]) / 40,
    }
    for problem, mean in means.items():
        found, labels = judge_documents(prepared, logits, np.array([1, 1, 0]), problem)
        np.testing.assert_allclose(found[0], mean, rtol=1e-6)
        assert labels.tolist() == [1, 0]
    score = TASK.scorer(prepared, ["neg", "pos"])
    # The second stretch alone says otherwise, and counts for less.
    assert score(logits, np.array([0, 0, 1]))["accuracy"] == 0.5
