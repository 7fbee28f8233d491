"""Runs are reported to trackers; what is missing is said before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datasets")
pytest.importorskip("evaluate")
from longformer_plus.integrations.training import train

from .conftest import train_in


def test_a_run_is_reported_to_tensorboard(make_plan: Any) -> None:
    pytest.importorskip("tensorboardX")
    output = train_in(make_plan("text-classification", report_to=["tensorboard"], max_steps=2, eval_every=1))
    (events,) = output.glob("runs/*/events.out.tfevents.*")
    content = events.read_bytes()
    assert b"train/loss" in content
    assert b"eval/f1" in content


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("tensorbord", ValueError, "report_to='tensorbord' is not allowed: it must be some of .*, tensorboard,"),
        ("clearml", ModuleNotFoundError, "The library of clearml is not installed: pip install clearml"),
    ],
)
def test_trackers_that_are_not_there(name: str, error: type[Exception], message: str, make_plan: Any) -> None:
    plan = make_plan("text-classification", report_to=[name])
    plan.train = ["no/such"]
    with pytest.raises(error, match=message):
        train(plan)
    assert not Path(plan.output).exists()
