"""The best checkpoint is kept and saved, and training ends early; also where it is resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

pytest.importorskip("datasets")
pytest.importorskip("evaluate")
from longformer_plus.integrations.training import run as training
from longformer_plus.integrations.training import train
from longformer_plus.integrations.training import trainer as trainers

from .conftest import losses, train_in

# The loss of each evaluation of a run, in turn; the third is the best.
_LOSSES = (3.0, 2.0, 1.0, 1.5, 2.5, 0.5, 0.1)
_CHANGES = {"max_steps": 7, "eval_every": 1, "keep": 1}


class KilledError(Exception):
    pass


@pytest.fixture
def given_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations give the losses above, by their step."""
    evaluate = trainers.LongformerTrainer.evaluation_loop

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = evaluate(self, *args, **kwargs)
        output.metrics["eval_loss"] = _LOSSES[self.state.global_step - 1]
        return output

    monkeypatch.setattr(trainers.LongformerTrainer, "evaluation_loop", changed)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def have_same_weights(one: Path, other: Path) -> bool:
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


@pytest.mark.usefixtures("given_losses")
def test_the_best_checkpoint_is_saved(make_plan: Any, capsys: pytest.CaptureFixture) -> None:
    plan = make_plan("text-classification", **{**_CHANGES, "max_steps": 5}, metric_for_best_model="eval_loss")
    scores = train(plan)
    output = Path(plan.output)
    assert (scores["step"], scores["eval_loss"]) == (3, 1.0)
    assert json.loads((output / "scores.json").read_text()) == scores
    assert "best:       step 3 of 5, by loss: what is saved is its model" in capsys.readouterr().out
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-5"]
    assert have_same_weights(output, output / "checkpoint-3")
    assert not have_same_weights(output, output / "checkpoint-5")
    # A finished run that is resumed is not trained on, and gives the same.
    assert train(replace(plan, resume=True)) == scores
    assert have_same_weights(output, output / "checkpoint-3")


@pytest.mark.usefixtures("given_losses")
@pytest.mark.parametrize("killed_at", [4, 5])
def test_early_stopping_counts_on_where_it_is_resumed(
    killed_at: int, make_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two evaluations without a better one: killed between the two, or after the second."""
    changes = {**_CHANGES, "early_stopping": 2}

    class Killer(trainers.Progress):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == killed_at:
                raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(trainers, "Progress", Killer)
        with pytest.raises(KilledError):
            train(make_plan("text-classification", **changes))
    resumed = make_plan("text-classification", **changes, resume=True)
    scores = train(resumed)
    output = Path(resumed.output)
    assert len(losses(output)) == 5
    assert (scores["step"], scores["eval_loss"]) == (3, 1.0)
    assert have_same_weights(output, output / "checkpoint-3")
    assert training.train(resumed) == scores
    with pytest.raises(ValueError, match="holds a run with another early_stopping: it was 2, not 3"):
        train(make_plan("text-classification", **{**changes, "early_stopping": 3}, resume=True))


def test_scores_that_are_higher_where_better(make_plan: Any) -> None:
    """By accuracy; without evaluations of its own, there is one for each checkpoint."""
    output = train_in(make_plan("token-classification", max_steps=6, metric_for_best_model="accuracy"))
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    found = {entry["step"]: entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry}
    assert list(found) == [2, 4, 6]
    assert json.loads((output / "scores.json").read_text())["eval_accuracy"] == max(found.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric_for_best_model": "f2"}, "metric_for_best_model='f2' is not allowed for text-classification"),
        ({"metric_for_best_model": "f1_macro"}, r"'f1_macro' is not allowed for such labels: .* accuracy, f1\."),
        ({"early_stopping": 2, "evaluation": []}, r"known by its evaluation: give data for it \(--eval\)"),
        ({"early_stopping": 0}, "early_stopping=0 is not allowed"),
    ],
)
def test_wrong_plans(changes: dict[str, Any], message: str, make_plan: Any) -> None:
    with pytest.raises(ValueError, match=message):
        train(make_plan("text-classification", **changes))
