"""`longformer-plus train --context-parallel`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import transformers
from packaging import version
from safetensors.torch import load_file
from torch.testing import assert_close

import longformer_plus

pytest.importorskip("accelerate")

from longformer_plus.integrations.training.folder import last_checkpoint
from longformer_plus.integrations.training.plan import TrainingPlan

from ...fine_tuning import model_fields, rows, write_rows
from .processes import run
from .training_checks import losses, resumed_as_one_left_alone

# Of packed documents, all tokens of 2 * 2 rows are counted, once for both processes.
RUNS: dict[str, tuple[str, dict[str, int]]] = {
    "packed": ("fill-mask", {"accumulation": 2, "tokens_of_a_step": 2 * 2 * 100}),
    "shuffled": ("text-classification", {}),
}


@pytest.fixture(scope="module")
def failures(
    tokenizer: longformer_plus.LongformerPlusTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    """Of two processes that train together."""
    folder = tmp_path_factory.mktemp("training")
    checks = {}
    for name, (task, changes) in RUNS.items():
        (folder / name).mkdir()
        tokenizer.save_pretrained(folder / name / "tokenizer")
        source = write_rows(folder / f"{name}.jsonl", rows(task, 8))
        check = partial(resumed_as_one_left_alone, task=task, source=source, folder=folder / name, **changes)
        checks[name] = (2, check)
    return run(checks, 2, folder)


@pytest.mark.skipif(
    version.parse(transformers.__version__) < version.parse("5.18"),
    reason="transformers 5.17 reads no optimizer of several processes on CPUs",
)
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_resume_a_run(name: str, failures: dict[str, list[str]]) -> None:
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
    options += ["--tokenizer", tmp_path / "tokenizer", "--max-length", "100", "--stride", "16"]
    options += ["--batch", "1", "--accumulate", "2"]
    options += ["--log-every", "1", "--learning-rate", "1e-3", "--max-eval-rows", "8", "--precision", "float32"]
    options += ["--save-every", "2", "--schedule", "constant"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    shared = [*launch, "-m", "longformer_plus.cli", "train", *options, "--context-parallel", "2"]
    _run(["-m", "longformer_plus.cli", "train", *options, "--output", tmp_path / "one", "--max-steps", "4"])
    _run([*shared, "--output", tmp_path / "two", "--max-steps", "4"])
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    for name, values in load_file(tmp_path / "one" / "model.safetensors").items():
        # Their gradient is zero but for rounding, which AdamW makes steps of full size from: what is added to all keys,
        # or to the scores of all tokens as places of an answer, changes nothing.
        if name.endswith((".key.bias", ".key_global.bias", "qa_outputs.bias")):
            continue
        if task == "question-answering" and name.endswith("layer.1.output.LayerNorm.bias"):
            continue
        again = load_file(tmp_path / "two" / "model.safetensors")[name]
        assert_close(again, values, atol=1e-4, rtol=0, msg=name)


_ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def _run(command: list[Any]) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=_ALONE, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("victims", ["one", "all"])
def test_killed_and_resumed(victims: str, tokenizer: longformer_plus.LongformerPlusTokenizer, tmp_path: Path) -> None:
    """SIGKILL to one of two processes, whose launcher then ends the other, or to both and their launcher."""
    psutil = pytest.importorskip("psutil")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    source = write_rows(tmp_path / "data.jsonl", rows("fill-mask", 16))
    config = model_fields(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "longformer_plus.cli"]
    command += ["train", "--task", "fill-mask", "--train", source, "--config", json.dumps(config), "--batch", "2"]
    command += ["--tokenizer", str(tmp_path / "tokenizer"), "--max-length", "100", "--context-parallel", "2"]
    command += ["--log-every", "1", "--save-every", "5", "--max-steps", "60"]
    killed = tmp_path / "killed"
    with open(tmp_path / "log", "w") as log:
        run = subprocess.Popen([sys.executable, *command, "--output", killed], stdout=log, stderr=log, env=_ALONE)
        while last_checkpoint(killed) is None:
            assert run.poll() is None, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.01)
        processes = psutil.Process(run.pid).children(recursive=True)
        for process in processes[-1:] if victims == "one" else [*processes, run]:
            process.kill()
        assert run.wait(60) != 0
    assert not (killed / "model.safetensors").exists(), "it was killed too late"
    _run([*command, "--output", tmp_path / "alone"])
    _run([*command, "--output", killed, "--resume"])
    assert losses(killed) == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)


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
