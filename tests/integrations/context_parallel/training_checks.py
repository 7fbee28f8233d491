"""Training runs in a group of processes that share documents."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

from safetensors.torch import load_file
from torch import distributed as dist
from torch.distributed import ProcessGroup
from torch.testing import assert_close
from transformers import PreTrainedModel

from longformer_plus.integrations.training import TrainingPlan, train

from ...fine_tuning import model_fields


def _train(group: ProcessGroup, task: str, source: str, folder: Path, **changes: Any) -> Path:
    """Four steps of two documents, as the launchers have processes do them."""
    rank, size = str(dist.get_rank(group)), str(dist.get_world_size(group))
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "OMP_NUM_THREADS": "1"}
    config = model_fields(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    plan = TrainingPlan(task, [source], folder / "run", config=config, tokenizer=str(folder / "tokenizer"), **changes)
    plan.max_length, plan.max_steps, plan.batch_size, plan.save_every, plan.log_every = 100, 4, 2, 2, 1
    plan.context_parallel, plan.precision = dist.get_world_size(group), "float32"
    with mock.patch.dict(os.environ, launched):
        train(plan)
    dist.barrier(group)
    return folder / "run"


def state_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "trainer_state.json").read_text())


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in state_of(folder)["log_history"] if "loss" in entry]


def resumed_as_one_left_alone(
    group: ProcessGroup, task: str, source: str, folder: Path, tokens_of_a_step: int | None = None, **changes: Any
) -> None:
    """With dropout, from the files that a run killed after its second step leaves behind."""
    run, alone = _train(group, task, source, folder, **changes), folder / "alone"
    if dist.get_rank(group) == 0:
        run.rename(alone)
        run.mkdir()
        shutil.copy(alone / "training.json", run)
        shutil.copytree(alone / "checkpoint-2", run / "checkpoint-2")
    dist.barrier(group)
    write = PreTrainedModel.save_pretrained
    with mock.patch.object(PreTrainedModel, "save_pretrained", autospec=True, side_effect=write) as written:
        _train(group, task, source, folder, resume=True, **changes)
    assert bool(written.call_count) is (dist.get_rank(group) == 0), "the first process alone writes the model"
    for rank in range(dist.get_world_size(group)):
        assert (run / "checkpoint-2" / f"rng_state_{rank}.pth").is_file()
    assert losses(run) == losses(alone)
    for name, values in load_file(alone / "model.safetensors").items():
        assert_close(load_file(run / "model.safetensors")[name], values, atol=1e-6, rtol=0, msg=name)
    if tokens_of_a_step is not None:
        for steps, where in ((2, run / "checkpoint-2"), (4, run), (4, alone)):
            assert state_of(where)["num_input_tokens_seen"] == steps * tokens_of_a_step
