"""Plans of a few steps on a few documents."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from longformer_plus import LongformerPlusTokenizer

from ...fine_tuning import model_fields, rows, write_rows

if TYPE_CHECKING:
    from longformer_plus.integrations.training import TrainingPlan


@pytest.fixture(scope="session")
def tokenizer_folder(tokenizer: LongformerPlusTokenizer, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return str(folder)


def plan_in(folder: Path, tokenizer_folder: str, task: str, output: str = "output", **changes: Any) -> TrainingPlan:
    from longformer_plus.integrations.training import TrainingPlan

    source = write_rows(folder / f"{task}.jsonl", rows(task))
    fields: dict[str, Any] = {
        "evaluation": [source],
        "config": model_fields(),
        "tokenizer": tokenizer_folder,
        "max_length": 100,
        "overlap": 16,
        "max_steps": 4,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "precision": "float32",
        "save_every": 2,
        "log_every": 1,
        "max_eval_rows": 8,
    }
    return TrainingPlan(task, [source], folder / output, **{**fields, **changes})


@pytest.fixture
def make_plan(tokenizer_folder: str, tmp_path: Path) -> Any:
    """Makes plans of a few steps on a few documents: of a task, an output and what differs."""
    return partial(plan_in, tmp_path, tokenizer_folder)


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def train_in(plan: TrainingPlan) -> Path:
    from longformer_plus.integrations.training import train

    train(plan)
    return Path(plan.output)
