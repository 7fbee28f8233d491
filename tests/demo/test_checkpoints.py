"""Which checkpoints serve which tab."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("gradio")

import longformer_plus
from longformer_plus.demo import checkpoints, tasks
from longformer_plus.demo.checkpoints import TASKS, Checkpoint, Checkpoints, load

TEXT = "The captain looked at the sea. The wind had blown for three days! <script>alert(1)</script> Who knows?\n" * 4


def test_checkpoints_know_their_task(task_checkpoints: dict[str, Path]) -> None:
    found = Checkpoints.find(
        str(task_checkpoints["fill-mask"]),
        question_answering=str(task_checkpoints["question-answering"]),
        text_classification=None,
    )
    assert {task: checkpoint.name for task, checkpoint in found.by_task.items()} == {
        task: str(task_checkpoints[task]) for task in ("fill-mask", "question-answering")
    }
    with pytest.raises(ValueError, match="no head for text-classification: it is a checkpoint for fill-mask"):
        Checkpoints.find(str(task_checkpoints["fill-mask"]), text_classification=str(task_checkpoints["fill-mask"]))


@pytest.fixture
def shipped(task_checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """What a package could come with: a checkpoint, two adapters on it, and a whole checkpoint for a third task."""
    peft = pytest.importorskip("peft")
    base = shutil.copytree(task_checkpoints["fill-mask"], tmp_path / "base")
    folders = {"text-classification": task_checkpoints["text-classification"]}
    for task, task_type in (("question-answering", "QUESTION_ANS"), ("token-classification", "TOKEN_CLS")):
        model = TASKS[task].from_pretrained(base, num_labels=2 if task_type == "QUESTION_ANS" else 5)
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type=task_type, init_lora_weights=False))
        adapted.save_pretrained(tmp_path / task)
        folders[task] = tmp_path / task
    folders["fill-mask"] = base

    def shipped_checkpoint(task: str = "fill-mask") -> Path:
        if task not in folders:
            raise ValueError(f"{task} does not ship: {', '.join(folders)} do.")
        return folders[task]

    monkeypatch.setattr(checkpoints, "shipped_checkpoint", shipped_checkpoint)
    return folders


def test_what_comes_with_the_package_serves_every_tab(shipped: dict[str, Path]) -> None:
    found = Checkpoints.find(None)
    assert found.main.name == str(shipped["fill-mask"])
    assert set(found.by_task) == set(TASKS)
    assert found.by_task["fill-mask"] is found.main
    assert len(tasks.ask(found.by_task["question-answering"], "Who?", TEXT)["marks"]) == 5
    labels = {mark["label"] for mark in tasks.tag(found.by_task["token-classification"], TEXT)["marks"]}
    assert labels <= {f"LABEL_{index}" for index in range(5)}
    assert len(tasks.classify(found.by_task["text-classification"], TEXT)["results"]) == 2
    del shipped["token-classification"]
    assert set(Checkpoints.find(None).by_task) == set(TASKS) - {"token-classification"}


def test_an_adapter_computes_what_peft_computes(shipped: dict[str, Path]) -> None:
    peft = pytest.importorskip("peft")
    checkpoint = load(str(shipped["token-classification"]))
    base = TASKS["token-classification"].from_pretrained(shipped["fill-mask"], num_labels=5)
    adapted = peft.PeftModel.from_pretrained(base, shipped["token-classification"]).eval()
    ids = checkpoint.tokenizer(TEXT, truncation=True, max_length=100, return_tensors="pt")["input_ids"]
    with checkpoint.running() as model, torch.no_grad():
        torch.testing.assert_close(model(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)


def test_classes_of_an_adapter_are_named_by_its_configuration(shipped: dict[str, Path]) -> None:
    adapters = pytest.importorskip("longformer_plus.integrations.adapters")
    folder = shipped["token-classification"]
    config = longformer_plus.LongformerPlusConfig.from_pretrained(shipped["fill-mask"])
    config.id2label = {index: f"CLASS{index}" for index in range(5)}
    config.to_json_file(folder / adapters.ADAPTED_CONFIG, use_diff=False)
    with load(str(folder)).running() as model:
        assert model.config.id2label[4] == "CLASS4"
        assert model.classifier.out_features == 5


def test_checkpoints_of_other_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="checkpoint of 'bert'"):
        Checkpoint(str(tmp_path))
