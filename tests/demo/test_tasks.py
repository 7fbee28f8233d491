"""What the heads find in a document."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("gradio")

from longformer_plus.demo import tasks
from longformer_plus.demo.checkpoints import Checkpoint
from longformer_plus.demo.inputs import InputError

TEXT = "The captain looked at the sea. The wind had blown for three days! <script>alert(1)</script> Who knows?\n" * 4


def test_answers_lie_in_the_document(task_checkpoints: dict[str, Path]) -> None:
    checkpoint = Checkpoint(str(task_checkpoints["question-answering"]))
    view = tasks.ask(checkpoint, "Who looked at the sea?", TEXT)
    json.dumps(view)
    assert view["text"] == TEXT[: len(view["text"])]
    assert [mark["score"] for mark in view["marks"]] == sorted((mark["score"] for mark in view["marks"]), reverse=True)
    assert all(0 <= mark["first"] <= mark["last"] < view["numTokens"] for mark in view["marks"])
    assert len(base64.b64decode(view["shades"][0]["codes"])) == view["numTokens"]
    with pytest.raises(InputError, match="question is empty"):
        tasks.ask(checkpoint, " ", TEXT)


def test_masks_are_filled_with_the_likeliest_words(task_checkpoints: dict[str, Path]) -> None:
    checkpoint = Checkpoint(str(task_checkpoints["fill-mask"]))
    text = "The <mask> looked at the <mask>."
    view = tasks.fill(checkpoint, text)
    ids = checkpoint.tokenizer(text, return_tensors="pt")["input_ids"]
    mask = torch.zeros_like(ids)
    mask[0, 0] = 1
    with checkpoint.running() as model, torch.no_grad():
        scores = model(ids, global_attention_mask=mask).logits[0].softmax(-1)
    for one in view["marks"]:
        value, index = scores[one["first"]].max(-1)
        assert one["score"] == pytest.approx(float(value), rel=1e-3)
        assert one["replacement"] == checkpoint.tokenizer.decode([int(index)]).strip()
    with pytest.raises(InputError, match="Write <mask>"):
        tasks.fill(checkpoint, "No mask.")


def test_documents_are_classified_and_tagged(task_checkpoints: dict[str, Path]) -> None:
    checkpoint = Checkpoint(str(task_checkpoints["text-classification"]))
    view = tasks.classify(checkpoint, TEXT)
    assert sum(score for _, score in view["results"]) == pytest.approx(1, abs=1e-5)
    view = tasks.tag(Checkpoint(str(task_checkpoints["token-classification"])), TEXT)
    json.dumps(view)
    assert {mark["label"] for mark in view["marks"]} <= {"LABEL_0", "LABEL_1"}
    assert [mark["first"] for mark in view["marks"]] == sorted(mark["first"] for mark in view["marks"])
    assert view["marks"][-1]["last"] < view["numTokens"]


def test_documents_longer_than_the_model_are_shown_whole(task_checkpoints: dict[str, Path]) -> None:
    checkpoint = Checkpoint(str(task_checkpoints["question-answering"]))
    view = tasks.ask(checkpoint, "Who?", TEXT * 5)
    assert view["text"] == (TEXT * 5).rstrip("\n") or view["text"] == TEXT * 5
    assert "The attention is that on the first" in view["note"]
    shade = base64.b64decode(view["shades"][0]["codes"])
    assert len(shade) == view["numTokens"] > 200
    assert not any(shade[200:])
    assert any(shade[150:190])
