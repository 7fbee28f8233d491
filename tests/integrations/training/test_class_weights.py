"""Rare classes count for more: in the loss, through `Trainer`, and with several labels."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

pytest.importorskip("datasets")
pytest.importorskip("evaluate")
from longformer_plus.integrations.data.features import Prepared
from longformer_plus.integrations.training import train
from longformer_plus.integrations.training.class_weights import balanced_weights, weighted_loss
from longformer_plus.model.losses import sequence_loss, token_loss

from ...fine_tuning import write_rows
from .conftest import train_in


def prepared(labels: list[Any]) -> Prepared:
    return Prepared([{"labels": each} for each in labels], list(range(len(labels))), "")


def test_weights_are_those_of_scikit_learn() -> None:
    labels = [0, 0, 0, 0, 1, 3]
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    found = balanced_weights(prepared(labels), 4)
    torch.testing.assert_close(found, torch.tensor([*expected[:2], 1.0, expected[2]], dtype=torch.float32))
    tagged = [np.array([-100, 0, 0, 1]), np.array([-100, 0, 0, 3])]
    torch.testing.assert_close(balanced_weights(prepared(tagged), 4), found)


def test_weights_of_several_labels() -> None:
    labels = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]]
    assert balanced_weights(prepared(labels), 4).tolist() == [2.0, 1.0, 2.0, 1.0]


@pytest.mark.parametrize("count", [None, torch.tensor(10)])
def test_the_loss_without_weights_is_the_models(count: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    loss = weighted_loss(torch.ones(3))
    logits, ids = torch.randn(2, 5, 3), torch.randint(3, (2, 5))
    ids[0, :3] = -100
    found = loss({"logits": logits}, ids, num_items_in_batch=count)
    torch.testing.assert_close(found, token_loss(logits, ids, count))
    several = torch.randint(2, (2, 3)).float()
    found = loss({"logits": logits[:, 0]}, several, num_items_in_batch=count)
    torch.testing.assert_close(found, sequence_loss(logits[:, 0], several, "multi_label_classification", count))


def test_weighted_losses() -> None:
    torch.manual_seed(0)
    weights = torch.tensor([0.5, 3.0])
    logits, ids = torch.randn(4, 2), torch.tensor([0, 1, 0, 0])
    one_by_one = F.cross_entropy(logits, ids, reduction="none")
    expected = (one_by_one * weights[ids]).sum() / 4
    torch.testing.assert_close(weighted_loss(weights)({"logits": logits}, ids), expected)
    assert float(weighted_loss(weights)({"logits": logits}, torch.full((4,), -100))) == 0


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_training_with_balanced_classes(
    task: str, make_plan: Any, capsys: pytest.CaptureFixture, tmp_path: Any
) -> None:
    plain = train_in(make_plan(task, "plain", max_steps=1))
    balanced = train_in(make_plan(task, "balanced", max_steps=1, class_weights="balanced"))
    recorded = json.loads((balanced / "class_weights.json").read_text())
    printed = capsys.readouterr().out
    assert "weights:    " + ", ".join(f"{name} {weight:.3g}" for name, weight in recorded.items()) in printed
    assert not (plain / "class_weights.json").exists()
    first, second = (json.loads((each / "scores.json").read_text())["eval_loss"] for each in (plain, balanced))
    assert first != second


@pytest.mark.slow
def test_a_rare_class_is_found(make_plan: Any, tmp_path: Any) -> None:
    """Of documents that say nothing of their class, all get the common one; balanced, both are as likely."""
    rare = [{"text": "a stone", "label": "rare" if index == 0 else "common"} for index in range(8)]
    source = write_rows(tmp_path / "rare.jsonl", rare)
    shares = {}
    for kind in ("none", "balanced"):
        changes = {"train": [source], "evaluation": [], "max_steps": 60, "batch_size": 8, "learning_rate": 1e-2}
        plan = make_plan("text-classification", kind, class_weights=kind)
        for name, value in changes.items():
            setattr(plan, name, value)
        output = train_in(plan)
        shares[kind] = share_of_rare(output)
    assert shares["none"] == pytest.approx(1 / 8, abs=0.05)
    assert shares["balanced"] == pytest.approx(1 / 2, abs=0.1)


def share_of_rare(folder: Any) -> float:
    from longformer_plus.integrations.checkpoints import load_checkpoint
    from longformer_plus.integrations.long_documents import classify_document

    return classify_document(*load_checkpoint("text-classification", folder), "a stone").scores["rare"]


@pytest.mark.parametrize(
    ("task", "value", "message"),
    [
        ("text-classification", "equal", "class_weights='equal' is not allowed: it must be balanced or none"),
        ("fill-mask", "balanced", "class_weights are for text-classification and token-classification, not for fill"),
    ],
)
def test_wrong_plans(task: str, value: str, message: str, make_plan: Any) -> None:
    with pytest.raises(ValueError, match=message):
        train(make_plan(task, class_weights=value))
