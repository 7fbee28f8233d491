from __future__ import annotations

import math

import pytest
import torch
from transformers import EvalPrediction

from longformer_plus import LongformerPlusForMaskedLM, LongformerPlusTokenizer

pytest.importorskip("evaluate")
from longformer_plus.integrations.tasks.fill_mask import TASK

from ...cases import small_config, spread


def test_masked_tokens() -> None:
    logits = torch.randn(2, 5, 7)
    labels = torch.tensor([[-100, 3, -100, 0, -100], [6, -100, -100, -100, -100]])
    logits[0, 1, 3] = 20.0
    shrunk = TASK.shrink_logits(logits, labels)
    scores = TASK.compute_metrics(None)(EvalPrediction(tuple(each.numpy() for each in shrunk), labels.numpy()))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()
    assert scores["token_loss"] == pytest.approx(loss, rel=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    right = (logits.argmax(-1) == labels).sum().item()
    assert scores["accuracy"] == pytest.approx(right / 3)


def test_each_mask_of_a_document_is_filled(tokenizer: LongformerPlusTokenizer) -> None:
    """Where the document fits the model, as the model itself fills it; of a longer one in the stretch that holds it."""
    config = small_config(vocab_size=len(tokenizer), max_position_embeddings=66)
    model = spread(LongformerPlusForMaskedLM(config)).eval()
    short = "the <mask> saw a river and the <mask>"
    long = "old stone " * 90 + short
    (one,), (two,), (none,) = (TASK.predict(model, tokenizer, [{"text": text}]) for text in (short, long, "a river"))
    inputs = tokenizer(short, return_tensors="pt")
    with torch.no_grad():
        chances = model(**inputs).logits.softmax(-1)[inputs["input_ids"] == tokenizer.mask_token_id]
    for found, expected in zip(one["masks"], chances, strict=True):
        assert found["fills"][0]["score"] == pytest.approx(expected.max().item(), rel=1e-4)
        assert found["fills"][0]["text"] == tokenizer.decode([expected.argmax().item()]).strip()
    assert [long[mask["start"] : mask["end"]].strip() for mask in two["masks"]] == ["<mask>"] * 2
    assert none == {"masks": []}
    with pytest.raises(ValueError, match="top_k=0 is not allowed"):
        TASK.predict(model, tokenizer, [{"text": short}], top_k=0)
