"""`longformer-plus predict`, as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longformer_plus.cli import main


def test_a_table_is_predicted_and_the_run_resumed(
    task_checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text('body,id\nfirst,a\n"second, and ""last""",b\n,c\n')
    command = ["predict", "--task", "text-classification", "--model", str(task_checkpoints["text-classification"])]
    command += ["--input", str(tmp_path / "*.csv"), "--output", str(tmp_path / "out"), "--columns", "text=body"]
    assert main(command) == 1
    line = f"Wrote {tmp_path / 'out'}: 2 documents in 1 part; 1 could not be read, see errors.jsonl."
    assert capsys.readouterr().out.splitlines()[-1] == line
    rows = [json.loads(each) for each in (tmp_path / "out" / "part-00000.jsonl").read_text().splitlines()]
    assert [(row["id"], row["row"], set(row)) for row in rows] == [
        ("a", 0, {"source", "row", "id", "label", "score", "scores"}),
        ("b", 1, {"source", "row", "id", "label", "score", "scores"}),
    ]
    assert main([*command, "--resume"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == line
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    assert "is not empty" in capsys.readouterr().err


def test_masks_are_filled(task_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("He <mask> home.")
    model = str(task_checkpoints["fill-mask"])
    arguments = [
        "--task",
        "fill-mask",
        "--model",
        model,
        "--input",
        str(tmp_path / "in"),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(["predict", *arguments]) == 0
    (mask,) = json.loads((tmp_path / "out" / "part-00000.jsonl").read_text())["masks"]
    assert (mask["start"], mask["end"], len(mask["fills"])) == (3, 9, 5)
