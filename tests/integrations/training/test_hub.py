"""Models are shared with a card; what keeps them from being shared shows before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import filter_repo_objects

pytest.importorskip("datasets")
pytest.importorskip("evaluate")
from longformer_plus.integrations.training import TrainingPlan, hub, train

from .conftest import losses, train_in


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What reaches a hub that takes everything: the repository, and the files by name."""
    seen: dict[str, Any] = {}

    def create_repo(self: HfApi, name: str, **options: Any) -> Any:
        assert options["exist_ok"]
        seen["created"] = name
        return SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(self: HfApi, *, repo_id: str, folder_path: Path, ignore_patterns: list[str], **_: Any) -> None:
        names = [str(path.relative_to(folder_path)) for path in folder_path.rglob("*") if path.is_file()]
        seen["repository"] = repo_id
        seen["files"] = set(filter_repo_objects(names, ignore_patterns=ignore_patterns))

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return seen


def test_a_model_is_shared_with_its_card(make_plan: Any, shared: dict[str, Any]) -> None:
    output = train_in(make_plan("text-classification", push_to_hub="my-classifier", max_steps=2))
    assert (shared["created"], shared["repository"]) == ("my-classifier", "me/my-classifier")
    expected = {"README.md", "config.json", "model.safetensors", "scores.json", "tokenizer.json"}
    assert expected < shared["files"]
    assert not any(name.startswith(("checkpoint", "training.json", "trainer_state")) for name in shared["files"])
    card = ModelCard.load(output / "README.md")
    assert card.data.to_dict()["pipeline_tag"] == "text-classification"
    assert card.data.library_name == "transformers"
    assert 'AutoModelForSequenceClassification.from_pretrained("me/my-classifier")' in card.text
    assert "On held-out data: loss" in card.text
    assert "`text-classification.jsonl`" in card.text
    assert str(output.parent) not in card.text


def test_the_card_of_adapters() -> None:
    plan = TrainingPlan("token-classification", ["a.jsonl"], "out", model="somebody/base", lora=8, push_to_hub="tagger")
    card = hub.model_card(plan, "me/tagger", {})
    assert (card.data.library_name, card.data.base_model) == ("peft", "somebody/base")
    assert 'load_adapted(snapshot_download("me/tagger"))' in card.text
    assert "adapters on `somebody/base`" in card.text
    assert "Evaluation" not in card.text


def test_adapters_on_a_folder_are_not_shared(make_plan: Any, tmp_path: Path) -> None:
    plan = make_plan("text-classification", model=str(tmp_path), lora=4, push_to_hub="me/adapters")
    with pytest.raises(ValueError, match=r"are of no use on the hub, since others do not have this folder\."):
        train(plan)


def test_a_hub_that_cannot_be_written_to_shows_before_training(
    make_plan: Any, shared: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: HfApi, *_: Any, **__: Any) -> None:
        raise ConnectionError("401 Unauthorized.\nmore")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    plan = make_plan("text-classification", push_to_hub="me/x")
    with pytest.raises(OSError, match=r"me/x on the hub cannot be written to: 401 Unauthorized\. Log in with .hf auth"):
        train(plan)
    assert not any(Path(plan.output).iterdir())


def test_a_hub_that_fails_at_the_end_is_tried_again(
    make_plan: Any, shared: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By resuming, which does not train again."""

    def fail(self: HfApi, *_: Any, **__: Any) -> None:
        raise ConnectionError("gone")

    plan = make_plan("text-classification", push_to_hub="x", max_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(HfApi, "upload_folder", fail)
        with pytest.raises(OSError, match=r"could not be sent to me/x on the hub: gone\. Try again with .* --resume"):
            train(plan)
    assert len(losses(Path(plan.output))) == 2
    train(replace(plan, resume=True))
    assert len(losses(Path(plan.output))) == 2
    assert "model.safetensors" in shared["files"]
