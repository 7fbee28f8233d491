"""The files of a run: parts that are written whole or not at all, each with its errors, and their end.

part-00000.jsonl         the predictions of the first documents; its existence says that this part is done
part-00000.errors.jsonl  those of them that could not be read; written before the part
errors.jsonl             the errors of all parts, when all are done; its existence says that the run is
predict.json             the options of the run
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.files import load
from .schemas import schema

Row = dict[str, Any]
RECORD_FILE = "predict.json"
ERRORS_FILE = "errors.jsonl"


@dataclass(frozen=True)
class Parts:
    """The parts in a folder.

    Args:
        folder: where they lie.
        format: "jsonl" or "parquet".
        task: what is predicted.
    """

    folder: Path
    format: str
    task: str

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{number:05d}.{self.format}"

    def errors_path(self, number: int) -> Path:
        """The file of a part's errors."""
        return self.folder / f"part-{number:05d}.{ERRORS_FILE}"

    def write(self, number: int, rows: Sequence[Row], errors: Sequence[Row]) -> None:
        """Write a part and its errors. It is done when its file has its name."""
        write_whole(self.errors_path(number), _json_lines(errors))
        data = _json_lines(rows) if self.format == "jsonl" else _parquet(rows, self.task)
        write_whole(self.path(number), data)

    def done(self) -> list[tuple[int, int]]:
        """How many predictions and errors each finished part has, up to the first that is missing."""
        counts: list[tuple[int, int]] = []
        while self.path(len(counts)).exists():
            path, errors = self.path(len(counts)), self.errors_path(len(counts))
            # Those of a finished run are in one file.
            counts.append((_count(path), _count(errors) if errors.exists() else 0))
        return counts

    def finish(self, count: int) -> int:
        """Put the errors of all parts into one file; how many there are. Nothing is changed in a finished run."""
        whole = self.folder / ERRORS_FILE
        if not whole.exists():
            write_whole(whole, b"".join(self.errors_path(number).read_bytes() for number in range(count)))
        for number in range(count):
            self.errors_path(number).unlink(missing_ok=True)
        return _count(whole)

    @property
    def is_finished(self) -> bool:
        """Whether all parts of the run are done."""
        return (self.folder / ERRORS_FILE).exists()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears under its name when all of it is on the disk."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Let the names in a folder survive a loss of power; Windows has no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _json_lines(rows: Sequence[Row]) -> bytes:
    # Half of a surrogate pair, which JSON may hold and UTF-8 may not, is written as JSON writes it.
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows).encode(
        errors="backslashreplace"
    )


def _parquet(rows: Sequence[Row], task: str) -> bytes:
    arrow = load("pyarrow", "to write .parquet files")
    parquet = load("pyarrow.parquet", "to write .parquet files")
    texts = [{**row, "id": None if row.get("id") is None else str(row["id"])} for row in rows]
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.Table.from_pylist(texts, schema=schema(task)), sink)
    return sink.getvalue().to_pybytes()


def _count(path: Path) -> int:
    if path.suffix == ".parquet":
        return load("pyarrow.parquet", "to read .parquet files").ParquetFile(path).metadata.num_rows
    with path.open("rb") as file:
        return sum(1 for _ in file)
