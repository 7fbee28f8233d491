from __future__ import annotations

import re
from pathlib import Path

import pytest

from longformer_plus import benchmark, cli


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
    arguments = ["--lengths", "16", "40", "--work", "forward", "--window", "16", "--layers", "1", "--repeats", "1"]
    assert cli.main(["bench", *arguments]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^forward .* s, .* GiB .*x .*$", printed, re.MULTILINE)) == 2
    assert "transformers 5" in printed


def test_memory_is_measured() -> None:
    """The hidden states and weights' gradients alone of one training step are over 100 MB."""
    measured = benchmark.memory(benchmark.Workload(1024, "training", num_layers=1))
    assert all(size > 100e6 for size in measured.values())
    assert measured["longformer_plus"] < measured["transformers"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quickstart", "no/such/file"], "no/such/file is not a file"),
        (["quickstart"], "document"),
        ([], "command"),
        (["bench", "--work", "sleep"], "sleep"),
    ],
)
def test_wrong_command_lines(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_unknown_work_is_named() -> None:
    with pytest.raises(ValueError, match="sleep"):
        benchmark.Workload(16, "sleep")
