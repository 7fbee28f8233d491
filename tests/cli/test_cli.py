"""The command and its subcommands, as they are typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from longformer_plus import cli, shipped
from longformer_plus.cli import quickstart


@pytest.mark.parametrize("given", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("error")
def test_quickstart_reads_a_document(
    given: bool, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also as the first command after installation, which makes checkpoints of the shipped adapters."""
    if given:
        monkeypatch.setattr(shipped, "_cache_folder", lambda task: tmp_path)
    monkeypatch.setattr(quickstart, "_TOKENS", 40)
    document = tmp_path / "document.txt"
    document.write_text("My friend Anna lived in Paris, and her brother Peter in the house by the river. " * 20)
    assert cli.main(["quickstart", *([str(document)] if given else [])]) == 0
    printed = capsys.readouterr().out
    assert ("document.txt" if given else "lighthouses.txt") in printed
    assert re.search(r"He opened the <mask> .* '(room|door)'", printed)
    assert len(re.findall(r"Fill-mask: .* '.*', '.*', '.*'", printed)) == 2
    assert re.search(r"Entities: .* found", printed) or "Not shown:" in printed
    assert float(re.search(r"differ by at most (\S+)", printed)[1]) < 1e-4
    assert len(re.findall(r"ing: |ward: ", printed)) == len(re.findall(r"ms here: .* the least possible", printed)) == 2


@pytest.mark.parametrize(
    ("ratio", "words"), [(2.04, "2.0 times as fast"), (0.99, "as fast"), (0.5, "2.0 times slower")]
)
def test_a_ratio_is_said_in_words_that_are_true(ratio: float, words: str) -> None:
    assert quickstart._compared(ratio) == words


def test_quickstart_refuses_an_empty_document(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(SystemExit):
        cli.main(["quickstart", str(tmp_path / "empty.txt")])
    assert "empty.txt is empty" in capsys.readouterr().err


def test_bench_prints_a_row_for_each_length(capsys: pytest.CaptureFixture) -> None:
    arguments = ["--lengths", "16", "40", "--work", "forward", "--windows", "16", "--layers", "1", "--repeats", "1"]
    assert cli.main(["bench", *arguments, "--no-memory"]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^forward .* m?s .*x .*$", printed, re.MULTILINE)) == 2
    assert "transformers 5" in printed


def test_bench_help_shows_examples(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        cli.main(["bench", "--help"])
    assert "longformer-plus bench --from long.json --markdown" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quickstart", "no/such/file"], "no/such/file is not a file"),
        ([], "command"),
        (["bench", "--work", "sleep"], "sleep"),
        (["bench", "--models", "bert"], "model='bert' is not allowed: it must be one of 'transformers'"),
        (["bench", "--backends", "flash"], "backend='flash' is not allowed: it must be one of 'eager', 'sdpa'"),
        (["bench", "--limit", "bert=1"], "limit='bert' is not allowed"),
        (["bench", "--limit", "transformers"], "'transformers' is not MODEL=N"),
        (["bench", "--windows", "7"], "window=7 is not allowed: it must be even"),
        (["bench", "--lengths", "0"], "num_tokens=0 is not allowed"),
        (["bench", "--repeats", "0"], "repeats=0 is not allowed"),
        (["bench", "--plot", "curves.pdf"], "it must end in .svg or .png"),
        (["bench", "--plot", "no/such/folder/curves.svg"], "is not a folder"),
        (["bench", "--json", __file__], "exists already"),
        (["bench", "--json", "no/such/folder/run.json"], "no/such/folder"),
        (["bench", "--from", __file__], "is not a recording"),
        (["bench", "--from", "no/such/file"], "no/such/file"),
        (["bench", "--from", __file__, "--json", "new.json"], "--from measures nothing"),
    ],
)
def test_wrong_command_lines(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", "no/such"],
        ["convert", "no/such", "output"],
        ["extend", "no/such", "output", "--max-length", "64"],
        ["export", "no/such", "model.onnx"],
        ["demo", "--model", "no/such"],
        ["demo", "--token-classification", "no/such"],
        ["evaluate", "--task", "fill-mask", "--model", "no/such", "--prompts", "a <mask>"],
        ["predict", "--task", "fill-mask", "--model", "no/such", "--input", "a.txt", "--output", "output"],
        ["train", "--task", "fill-mask", "--train", "a.txt", "--output", "output", "--model", "no/such"],
        [
            "train",
            "--task",
            "fill-mask",
            "--train",
            "a.txt",
            "--output",
            "o",
            "--config",
            "{}",
            "--tokenizer",
            "no/such",
        ],
    ],
)
def test_a_model_that_is_nowhere_fails_in_a_line(
    arguments: list[str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("longformer-plus: error: no/such is not a folder, and not in the hub's cache")
    assert printed.count("\n") == 1


def test_shipped_checkpoints_are_named_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["info", "shipped"]) == 0
    assert "LongformerPlusForMaskedLM" in capsys.readouterr().out
    assert cli.main(["extend", "shipped", str(tmp_path / "longer"), "--max-length", "5000"]) == 0
    assert cli.main(["convert", "shipped", str(tmp_path / "theirs"), "--to", "longformer"]) == 0
    pytest.importorskip("peft")
    assert cli.main(["info", "shipped:token-classification"]) == 0
    assert "LongformerPlusForTokenClassification" in capsys.readouterr().out
