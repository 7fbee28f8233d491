from __future__ import annotations

import re
from pathlib import Path

import pytest

from longformer_plus import cli


def test_quickstart_runs_a_document(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    document = tmp_path / "document.txt"
    document.write_text("A long document about long documents, and what they say of one another. " * 40)
    assert cli.main(["quickstart", str(document)]) == 0
    printed = capsys.readouterr().out
    assert "predictions mean nothing" in printed
    assert "LongformerPlusForMaskedLM" in printed
    assert float(re.search(r"differ by at most (\S+)", printed)[1]) < 1e-5
    assert len(re.findall(r"guesses ('.*', '.*', '.*')", printed)) == 1


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
        (["quickstart"], "document"),
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
