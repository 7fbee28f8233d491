"""`longformer-plus merge`: adapters become a checkpoint of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import pipeline

from longformer_plus import LongformerPlusForTokenClassification, shipped_adapter, shipped_checkpoint
from longformer_plus.cli import main


def test_adapters_are_merged_into_their_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    folder = tmp_path / "tagger"
    assert main(["merge", str(shipped_adapter("token-classification")), str(folder)]) == 0
    assert capsys.readouterr().out.startswith(f"Wrote {folder}: ")
    merged = LongformerPlusForTokenClassification.from_pretrained(folder)
    expected = LongformerPlusForTokenClassification.from_pretrained(shipped_checkpoint("token-classification"))
    assert merged.config.id2label == expected.config.id2label
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], tensor)
    found = pipeline("token-classification", str(folder))("Anna went to Paris.")
    assert {each["entity"] for each in found} <= set(expected.config.label2id)
    for arguments, message in (
        ([str(folder), str(tmp_path / "other")], "holds no adapters: it has no adapter_config.json"),
        ([str(shipped_adapter("token-classification")), str(folder)], "tagger exists: choose another name"),
    ):
        with pytest.raises(SystemExit):
            main(["merge", *arguments])
        assert message in capsys.readouterr().err
