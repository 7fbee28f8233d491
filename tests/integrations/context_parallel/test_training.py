"""`longformer-plus train --context-parallel`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

import longformer_plus

pytest.importorskip("accelerate")

from longformer_plus.integrations.training.plan import TrainingPlan

from ...fine_tuning import model_fields, rows, write_rows
from . import training_checks
from .processes import run
from .training_checks import losses


@pytest.fixture(scope="module")
def failures(
    tokenizer: longformer_plus.LongformerPlusTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    """Of two processes that train together."""
    folder = tmp_path_factory.mktemp("training")
    checks = {}
    for name, task, check in RUNS:
        (folder / name).mkdir()
        tokenizer.save_pretrained(folder / name / "tokenizer")
        source = write_rows(folder / f"{name}.jsonl", rows(task, 8))
        checks[name] = (2, partial(check, task=task, source=source, folder=folder / name))
    return run(checks, 2, folder)


RUNS = [
    ("packed", "fill-mask", training_checks.resumed_as_one_left_alone),
    ("shuffled", "text-classification", training_checks.resumed_as_one_left_alone),
    ("counted", "fill-mask", training_checks.tokens_are_counted_once),
]


@pytest.mark.parametrize("name", [name for name, _, _ in RUNS])
def test_two_processes_train_together(name: str, failures: dict[str, list[str]]) -> None:
    assert not failures[name], "\n".join(failures[name])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["fill-mask", "question-answering"])
def test_two_processes_share_documents_as_one_trains(
    task: str, tokenizer: longformer_plus.LongformerPlusTokenizer, tmp_path: Path
) -> None:
    """The same losses and the same weights."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    source = write_rows(tmp_path / "data.jsonl", rows(task, 16))
    options: list[Any] = ["--task", task, "--train", source, "--eval", source, "--config", json.dumps(model_fields())]
    options += ["--tokenizer", tmp_path / "tokenizer", "--max-length", "100", "--stride", "16", "--batch", "2"]
    options += ["--log-every", "1", "--learning-rate", "1e-3", "--max-eval-rows", "8", "--precision", "float32"]
    options += ["--save-every", "2", "--schedule", "constant"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    shared = [*launch, "-m", "longformer_plus.cli", "train", *options, "--context-parallel", "2"]
    _run(["-m", "longformer_plus.cli", "train", *options, "--output", tmp_path / "one", "--max-steps", "4"])
    _run([*shared, "--output", tmp_path / "two", "--max-steps", "4"])
    one, two = (json.loads((tmp_path / where / "trainer_state.json").read_text()) for where in ("one", "two"))
    losses = [[entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for name, values in load_file(tmp_path / "one" / "model.safetensors").items():
        # Their gradient is zero but for rounding, which AdamW makes steps of full size from.
        if name.endswith((".key.bias", ".key_global.bias", "qa_outputs.bias")):
            continue
        again = load_file(tmp_path / "two" / "model.safetensors")[name]
        assert_close(again, values, atol=1e-4, rtol=0, msg=name)


def _run(command: list[Any]) -> None:
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=alone, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_plan_that_does_not_fit_the_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = TrainingPlan("fill-mask", ["data.jsonl"], "output", model="checkpoint", context_parallel=4)
    with pytest.raises(ValueError, match="context_parallel=4 is not allowed with 1 processes"):
        plan.check()
    monkeypatch.setenv("WORLD_SIZE", "8")
    plan.check()
    assert plan.rows_per_step == 8
    plan.workers = 1
    with pytest.raises(ValueError, match="workers=1 is not allowed"):
        plan.check()
