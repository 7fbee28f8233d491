"""Rows of data from files of every common format, or from the hub, each checked, and named in its error.

A source is a file, a folder with all that is below it, a pattern such as `data/*.csv`, "-" for standard input, or a
data set of the hub as NAME:SPLIT or NAME:CONFIGURATION:SPLIT. Files are .txt, .md, .pdf, .docx (each a document),
.jsonl, .json (a list), .csv, .tsv and .parquet, also packed as .gz, .bz2, .xz or .zst. The task says which columns a
row must have, and what they hold: see `tasks`. A document that lies deeper in a folder is labelled with the name of the
folder just below the source: folder/invoices/2026/1.pdf has the label "invoices".
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from lzma import LZMAError
from pathlib import Path
from typing import Any

from .documents import UnreadableError
from .files import STANDARD_INPUT, files_of, open_file
from .formats import DOCUMENTS, Row, read_rows, structured

Check = Callable[[Row], None]


@dataclass(frozen=True)
class Record:
    """A row and where it stands.

    Attributes:
        where: its file and line, or its data set and row.
        row: its fields.
    """

    where: str
    row: Row


@dataclass(frozen=True)
class Entry:
    """A row of a source, read or not.

    Attributes:
        source: its file, or its data set.
        number: how many rows of the source come before it.
        where: its file and line, or its data set and row.
        row: its fields; empty where it cannot be read.
        error: why it cannot be read; empty where it can.
        share: how much of the source has been read with it, from 0 to 1.
    """

    source: str
    number: int
    where: str
    row: Row
    error: str = ""
    share: float = 1.0


def read_records(sources: Iterable[str], check: Check, columns: Mapping[str, str] | None = None) -> list[Record]:
    """All rows of some sources, checked.

    Args:
        sources: what is read, as the top of this module says.
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
    for entry in iterate_entries(source, columns):
        if entry.error:
            raise ValueError(f"{entry.where}: {entry.error}")
        try:
            check(entry.row)
        except ValueError as error:
            raise ValueError(f"{entry.where}: {error}") from None
        yield Record(entry.where, entry.row)
        count += 1
    if not count:
        raise ValueError(f"{source} has no rows. Give at least one document, or one JSON object on a line of its own.")


def iterate_entries(source: str, columns: Mapping[str, str] | None = None) -> Iterator[Entry]:
    """The rows of one source, one after another, unchecked, and those that cannot be read with the reason.

    Args:
        source: what is read, as the top of this module says.
        columns: the names of the columns in the source, by the names that a task has for them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the source is neither a file nor a data set of the hub.
    """
    return (entry for entry, _ in Corpus([source], columns).entries())


class Corpus:
    """The rows of several sources, one after another, with how much of all has been read.

    Args:
        sources: what is read, as the top of this module says.
        columns: the names of the columns in the sources, by the names that a task has for them.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(self, sources: Sequence[str], columns: Mapping[str, str] | None = None) -> None:
        self.columns = columns or {}
        self._parts: list[_Part] = []
        for source in sources:
            files = [] if source == STANDARD_INPUT else files_of(source)
            # How large a data set of the hub is, nobody knows before it is read.
            self._parts += [_Part(path, max(path.stat().st_size, 1), _label(path, source)) for path in files] or [
                _Part(source)
            ]

    def entries(self, skip: int = 0) -> Iterator[tuple[Entry, float]]:
        """The rows behind the first `skip`, each with the share of all sources that has been read with it."""
        total, behind, seen = sum(part.size for part in self._parts), 0, 0
        for part in self._parts:
            is_file = isinstance(part.place, Path) or part.place == STANDARD_INPUT
            entries = entries_of_file(part.place, seen < skip) if is_file else _entries_of_hub(str(part.place))
            for entry in entries:
                seen += 1
                if seen > skip:
                    is_document = entry.where == entry.source
                    label = {"label": part.label} if is_document and part.label else {}
                    row = entry.row if entry.error else _renamed({**entry.row, **label}, self.columns)
                    yield replace(entry, row=row), (behind + entry.share * part.size) / total
            behind += part.size


@dataclass(frozen=True)
class _Part:
    """A file, or a data set of the hub: its size in bytes, and the label of the folder in which a document lies."""

    place: str | Path
    size: int = 1
    label: str = ""


def _label(path: Path, source: str) -> str:
    folders = path.relative_to(source).parts[:-1] if Path(source).is_dir() else ()
    return folders[0] if folders else ""


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    return structured({**row, **{name: row[column] for name, column in columns.items() if column in row}})


def entries_of_file(path: str | Path, is_passed_over: bool = False) -> Iterator[Entry]:
    """The rows of one file, or of standard input ("-"). See `iterate_entries`.

    Args:
        path: the file.
        is_passed_over: whether the first row is not wanted; then the text of a document is not read.
    """
    name, number, place = str(path), 0, ""
    try:
        with open_file(path) as file:
            if is_passed_over and file.kind in DOCUMENTS:
                yield Entry(name, 0, name, {})
                return
            for place, row in read_rows(file):
                where = f"{name}, {place}" if place else name
                if isinstance(row, UnreadableError):
                    yield Entry(name, number, where, {}, str(row), file.share())
                else:
                    yield Entry(name, number, where, row, share=file.share())
                number += 1
    except UnreadableError as error:
        yield Entry(name, number, name, {}, str(error))
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 ({error.reason}): save it as UTF-8."
        yield Entry(name, number, _behind(name, place), {}, reason)
    except (EOFError, OSError, LZMAError, zlib.error) as error:
        yield Entry(name, number, _behind(name, place), {}, f"cannot be read: {error}. The file may be cut off.")


def _behind(name: str, place: str) -> str:
    return f"{name}, after {place}" if place else name


def _entries_of_hub(source: str) -> Iterator[Entry]:
    name, *configuration, split = source.split(":") if ":" in source else (source, "")
    if not split or len(configuration) > 1:
        raise ValueError(
            f"{source} is neither a file nor a data set of the hub with its split, such as stanfordnlp/imdb:train or "
            "nyu-mll/glue:sst2:train."
        )
    from datasets import load_dataset

    rows = load_dataset(name, *configuration, split=split)
    for number, row in enumerate(rows):
        named = {field: _named(value, rows.features[field]) for field, value in row.items()}
        yield Entry(source, number, f"{source}, row {number}", named, share=(number + 1) / len(rows))


def _named(value: Any, feature: Any) -> Any:
    """A value, with the names of its classes where the data set has them."""
    if hasattr(feature, "int2str") and isinstance(value, int) and 0 <= value < feature.num_classes:
        return feature.int2str(value)
    if hasattr(feature, "feature") and isinstance(value, list):
        return [_named(each, feature.feature) for each in value]
    return value
