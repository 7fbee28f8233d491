"""A tokenizer trained on text."""

from __future__ import annotations

from pathlib import Path

import pytest

from longformer_plus import LongformerPlusTokenizer

pytest.importorskip("datasets")
from longformer_plus.integrations.data.tokenizer import train_tokenizer

from ...fine_tuning import rows, write_rows


def test_a_trained_tokenizer(tmp_path: Path, tokenizer: LongformerPlusTokenizer) -> None:
    assert len(tokenizer) == 300
    text = "the old river Berlin ünïcödé"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    special = [tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert [*special, tokenizer.mask_token_id] == [0, 1, 2, 3, 4]
    tokenizer.save_pretrained(tmp_path)
    again = LongformerPlusTokenizer.from_pretrained(tmp_path)
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.model_max_length == 500
    with pytest.raises(ValueError, match="vocab_size=100 is not allowed"):
        train_tokenizer([write_rows(tmp_path / "text.jsonl", rows("fill-mask"))], 100)
