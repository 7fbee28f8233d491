"""Rows of data: from local JSONL files or a hub data set, each checked, and named in its error.

A file has one JSON object on a line; .xz, .gz and .bz2 are read as they are. The task says which columns a row must
have, and what they hold: see `tasks`.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

Row = dict[str, Any]
Check = Callable[[Row], None]

_OPENERS: dict[str, Callable[..., IO[str]]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}


@dataclass(frozen=True)
class Record:
    """A row and where it stands.

    Attributes:
        where: its file and line, or its data set and row.
        row: its fields.
    """

    where: str
    row: Row


def read_records(sources: Iterable[str], check: Check, columns: Mapping[str, str] | None = None) -> list[Record]:
    """All rows of some sources, checked.

    Args:
        sources: local files; or hub data sets, as NAME:SPLIT or NAME:CONFIGURATION:SPLIT.
        check: raises a ValueError for a row that is not as its task needs it, such as the `check` of a task.
        columns: the names of the columns in the sources, by the names that the check wants.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a source has no rows, or the check refuses a row; the message names file and line.
    """
    records: list[Record] = []
    for source in sources:
        records += iterate_records(source, check, columns)
    return records


def iterate_records(source: str, check: Check, columns: Mapping[str, str] | None = None) -> Iterator[Record]:
    """The rows of one source, one after another, checked. See `read_records`."""
    count = 0
    for where, row in _read_file(Path(source)) if is_file(source) else _read_hub(source):
        renamed = {**row, **{name: row[column] for name, column in (columns or {}).items() if column in row}}
        try:
            check(renamed)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        yield Record(where, renamed)
        count += 1
    if not count:
        raise ValueError(f"{source} has no rows. Give at least one JSON object, on a line of its own.")


def is_file(source: str) -> bool:
    """Whether a source names a local file, not a data set of the hub."""
    if Path(source).exists():
        return True
    if Path(source).suffix in (".jsonl", ".json", *_OPENERS):
        raise FileNotFoundError(f"{source} is not a file.")
    return False


def _read_file(path: Path) -> Iterator[tuple[str, Row]]:
    number = 0
    try:
        with _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}, line {number}", _parse(line, f"{path}, line {number}")
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{path}, after line {number}: cannot be read: {error}. The file may be cut off.") from None


def _parse(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: not a JSON object: {error}. Each line must hold a whole one; this one may be cut off."
        ) from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a {type(row).__name__}, not a JSON object.")
    return row


def _read_hub(source: str) -> Iterator[tuple[str, Row]]:
    name, *configuration, split = source.split(":") if ":" in source else (source, "")
    if not split or len(configuration) > 1:
        raise ValueError(
            f"{source} is neither a file nor a data set of the hub with its split, such as stanfordnlp/imdb:train or "
            "nyu-mll/glue:sst2:train."
        )
    from datasets import load_dataset

    rows = load_dataset(name, *configuration, split=split)
    for number, row in enumerate(rows):
        yield f"{source}, row {number}", {field: _named(value, rows.features[field]) for field, value in row.items()}


def _named(value: Any, feature: Any) -> Any:
    """A value, with the names of its classes where the data set has them."""
    if hasattr(feature, "int2str") and isinstance(value, int) and 0 <= value < feature.num_classes:
        return feature.int2str(value)
    if hasattr(feature, "feature") and isinstance(value, list):
        return [_named(each, feature.feature) for each in value]
    return value
