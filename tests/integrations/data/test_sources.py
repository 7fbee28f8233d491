from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datasets")
from longformer_plus.integrations.data.sources import CHECKS, read_records

from ...fine_tuning import rows, write_rows


@pytest.mark.parametrize("task", CHECKS)
def test_right_rows_are_read(task: str, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "data.jsonl", rows(task, 5))
    records = read_records([source, source], task)
    assert [record.row for record in records] == rows(task, 5) * 2
    assert records[2].where == f"{source}, line 3"


def test_compressed_files_and_other_names_of_fields(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.xz"
    with lzma.open(path, "wt") as file:
        file.write(json.dumps({"review": "fine", "stars": 3}) + "\n\n")
    (record,) = read_records([str(path)], "text-classification", {"text": "review", "label": "stars"})
    assert (record.row["text"], record.row["label"]) == ("fine", 3)


GOOD = {task: rows(task, 1)[0] for task in CHECKS}
ANSWER = {"text": ["river"], "answer_start": [3]}


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("fill-mask", {"text": " "}, "'text' is empty"),
        ("fill-mask", {"text": 3}, "'text' is 3, not a string"),
        ("text-classification", {"label": -1}, "label -1 is out of range"),
        ("text-classification", {"label": 1.5}, "label 1.5 is neither"),
        ("token-classification", {"ner_tags": ["O"]}, "1 ner_tags for 60 tokens"),
        ("token-classification", {"ner_tags": [-100] * 60}, "tag -100 is out of range"),
        ("token-classification", {"global_attention_mask": [1]}, "a global_attention_mask of 1 entries for 60 tokens"),
        ("question-answering", {"answers": {"text": ["x"]}}, "has no 'answer_start'"),
        ("question-answering", {"context": "A sea.", "answers": ANSWER}, "the answer 'river' is outside its document"),
        ("question-answering", {"answers": {"text": ["r"], "answer_start": [-9]}}, "is outside its document"),
        ("multiple-choice", {"label": 3}, "label 3 is out of range: it must be the index of one of the 3 choices"),
        ("multiple-choice", {"choices": ["one"]}, "1 choices: give at least two"),
    ],
)
def test_wrong_rows_are_named(task: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "data.jsonl", [GOOD[task], {**GOOD[task], **change}])
    with pytest.raises(ValueError, match=message) as error:
        read_records([source], task)
    assert str(error.value).startswith(f"{source}, line 2: ")


def test_missing_fields_truncated_lines_and_empty_files(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "whole"}\n{"text": "cut o')
    with pytest.raises(ValueError, match=r"line 2: not a JSON object.*cut off"):
        read_records([str(path)], "fill-mask")
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="line 1: a list, not a JSON object"):
        read_records([str(path)], "fill-mask")
    path.write_text('{"label": 1}\n')
    with pytest.raises(ValueError, match="line 1: has no 'text'; it has 'label'"):
        read_records([str(path)], "text-classification")
    path.write_text("\n")
    with pytest.raises(ValueError, match="has no rows"):
        read_records([str(path)], "fill-mask")
    whole = lzma.compress(json.dumps({"text": "word " * 50_000}).encode())
    cut = tmp_path / "cut.jsonl.xz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.xz.*cannot be read"):
        read_records([str(cut)], "fill-mask")


def test_sources_that_are_neither_file_nor_data_set() -> None:
    with pytest.raises(FileNotFoundError, match=r"no/such\.jsonl is not a file"):
        read_records(["no/such.jsonl"], "fill-mask")
    with pytest.raises(ValueError, match="neither a file nor a data set"):
        read_records(["imdb"], "fill-mask")
    with pytest.raises(ValueError, match="task='sleep' is not allowed"):
        read_records(["no/such.jsonl"], "sleep")
