"""What a command says where an extra is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from longformer_plus.cli import main
from longformer_plus.cli.extras import named


def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("datasets")
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "one"}\n')
    words = ["train", "--task", "fill-mask", "--model", "shipped", "--train", str(text), "--eval", str(text)]
    monkeypatch.setitem(sys.modules, "seqeval", None)
    with pytest.raises(SystemExit):
        main([*words, "--output", str(tmp_path / "model")])
    assert "seqeval is needed to evaluate: pip install 'longformer-plus[train]'" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_an_error_names_the_extra_unless_it_does_already() -> None:
    missing = ModuleNotFoundError("No module named 'datasets'", name="datasets")
    assert named(missing) == (
        "No module named 'datasets'. It comes with an extra: pip install \"longformer-plus[train]\""
    )
    for said in (
        ModuleNotFoundError("Not installed: gradio. Run `pip install longformer-plus[demo]`.", name="gradio"),
        ModuleNotFoundError("No module named 'mine'", name="mine"),
    ):
        assert named(said) == str(said)
