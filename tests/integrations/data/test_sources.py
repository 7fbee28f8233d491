from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

pytest.importorskip("datasets")
from longformer_plus.integrations.data.checks import check_text
from longformer_plus.integrations.data.sources import read_records


def test_compressed_files_and_other_names_of_fields(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.xz"
    with lzma.open(path, "wt") as file:
        file.write(json.dumps({"review": "fine", "stars": 3}) + "\n\n")
    (record,) = read_records([str(path)], check_text, {"text": "review", "label": "stars"})
    assert (record.row["text"], record.row["label"]) == ("fine", 3)


def test_missing_fields_truncated_lines_and_empty_files(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "whole"}\n{"text": "cut o')
    with pytest.raises(ValueError, match=r"line 2: not a JSON object.*cut off"):
        read_records([str(path)], check_text)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="line 1: a list, not a JSON object"):
        read_records([str(path)], check_text)
    path.write_text('{"label": 1}\n')
    with pytest.raises(ValueError, match="line 1: has no 'text'; it has 'label'"):
        read_records([str(path)], check_text)
    path.write_text("\n")
    with pytest.raises(ValueError, match="has no rows"):
        read_records([str(path)], check_text)
    whole = lzma.compress(json.dumps({"text": "word " * 50_000}).encode())
    cut = tmp_path / "cut.jsonl.xz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.xz.*cannot be read"):
        read_records([str(cut)], check_text)


def test_sources_that_are_neither_file_nor_data_set() -> None:
    with pytest.raises(FileNotFoundError, match=r"no/such\.jsonl is not a file"):
        read_records(["no/such.jsonl"], check_text)
    with pytest.raises(ValueError, match="neither a file nor a data set"):
        read_records(["imdb"], check_text)
