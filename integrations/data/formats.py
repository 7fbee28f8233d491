"""The rows of a file, one after another, whatever its format. Memory does not grow with their number."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from .documents import Limits, UnreadableError, encoding_of, read_text
from .files import OpenedFile, load
from .limited_reading import LimitedReader

Row = dict[str, Any]
# Where a row stands in its file ("line 3"; empty where it is the whole file), and the row, or why it cannot be read.
PlacedRow = tuple[str, Row | UnreadableError]

# The kinds of files that are one row.
DOCUMENTS = ("text", "pdf", "docx")
_MOST_CHARACTERS_OF_A_CELL = 2**31 - 1
_CHUNK = 2**18
# Room for a book of a thousand pages; a corpus is not held up by a file that was made to take for ever.
_LIMITED = LimitedReader(Limits(seconds=300, memory_bytes=4_000_000_000))
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_ROWS_OF_A_BATCH = 64
# In a table, lists and objects are cells of JSON.
_STRUCTURES = ("tokens", "ner_tags", "global_attention_mask", "answers", "choices", "label")


def read_rows(file: OpenedFile) -> Iterator[PlacedRow]:
    """The rows of a file.

    A document (.txt, .md, .pdf, .docx) is one row with its text in the field "text".

    Raises:
        ModuleNotFoundError: a library of the extra `files` is missing.
        UnreadableError: the rest of the file cannot be read.
    """
    return _READERS[file.kind](file)


def _read_document(file: OpenedFile) -> Iterator[PlacedRow]:
    if file.kind == "text":
        yield "", {"text": read_text(file.content)}
        return
    load({"pdf": "pypdf", "docx": "docx"}[file.kind], f"to read .{file.kind} files")
    yield "", {"text": _LIMITED.read(file.kind, file.content.read())}


def _text_of(file: OpenedFile, newline: str | None = None) -> io.TextIOWrapper:
    return io.TextIOWrapper(file.content, encoding=encoding_of(file.start), newline=newline)


def _read_json_lines(file: OpenedFile) -> Iterator[PlacedRow]:
    for number, line in enumerate(_text_of(file), start=1):
        if line.strip():
            yield f"line {number}", _parse(line)


def _parse(line: str) -> Row | UnreadableError:
    try:
        return _as_row(json.loads(line))
    except (json.JSONDecodeError, RecursionError) as error:
        return UnreadableError(f"not a JSON object: {error}. Each line must hold a whole one; this one may be cut off.")


def _as_row(value: Any) -> Row | UnreadableError:
    return value if isinstance(value, dict) else UnreadableError(f"a {type(value).__name__}, not a JSON object.")


def _read_json(file: OpenedFile) -> Iterator[PlacedRow]:
    """A list of objects; or objects on lines, as many call such a file."""
    if file.start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"[":
        yield from _read_json_lines(file)
        return
    text, number, place = _text_of(file), 0, 0
    buffer = text.read(_CHUNK).lstrip()[1:]
    while True:
        if len(buffer) - place < _CHUNK // 2:
            buffer, place = buffer[place:] + text.read(_CHUNK), 0
        place = _SPACE.match(buffer, place).end()  # type: ignore[union-attr]
        if buffer[place : place + 1] == "]":
            return
        if number and buffer[place : place + 1] != ",":
            found = buffer[place : place + 20]
            raise UnreadableError(f"after row {number - 1} of its list stands {found!r}, not a comma.")
        place = _SPACE.match(buffer, place + bool(number)).end()  # type: ignore[union-attr]
        value, buffer, place = _next_value(text, buffer, place, number)
        yield f"row {number}", _as_row(value)
        number += 1


def _next_value(text: io.TextIOWrapper, buffer: str, place: int, number: int) -> tuple[Any, str, int]:
    """The value that starts at a place of the buffer; the buffer, with what had to be read on, and the place behind."""
    while True:
        try:
            value, end = _DECODER.raw_decode(buffer, place)
            return value, buffer, end
        except json.JSONDecodeError as error:
            # As much again as is there: what an object costs to read stays in proportion to its length.
            more = text.read(max(_CHUNK, len(buffer) - place))
            if not more:
                raise UnreadableError(f"row {number} of its list is not JSON: {error}. It may be cut off.") from None
            buffer, place = buffer[place:] + more, 0


def _read_csv(file: OpenedFile) -> Iterator[PlacedRow]:
    """A table with a header. Its separator is the one of comma, semicolon and tab that the header has most of."""
    csv.field_size_limit(_MOST_CHARACTERS_OF_A_CELL)
    header = file.start.decode(encoding_of(file.start), errors="replace").partition("\n")[0]
    separator = "\t" if file.name.lower().split(".csv")[0].endswith(".tsv") else max(",;\t", key=header.count)
    lines = csv.reader(_text_of(file, newline=""), delimiter=separator, strict=True)
    names = next(lines, [])
    if len(set(names)) < len(names):
        raise UnreadableError(f"its header names a column twice: {', '.join(names)}.")
    while True:
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"line {lines.line_num}", UnreadableError(f"not a row of a table: {error}.")
            continue
        if not cells:
            continue
        if len(cells) != len(names):
            problem = f"{len(cells)} cells, but the header names {len(names)} columns."
            yield f"line {lines.line_num}", UnreadableError(problem)
        else:
            yield f"line {lines.line_num}", dict(zip(names, cells, strict=True))


def structured(row: Row) -> Row:
    """A row of a table, with the lists and objects that its cells hold as JSON."""
    changed = {}
    for name in _STRUCTURES:
        if isinstance(cell := row.get(name), str) and cell.lstrip()[:1] in ("[", "{"):
            try:
                changed[name] = json.loads(cell)
            except json.JSONDecodeError:
                continue
    return {**row, **changed} if changed else row


def _read_parquet(file: OpenedFile) -> Iterator[PlacedRow]:
    parquet = load("pyarrow.parquet", "to read .parquet files")
    arrow = load("pyarrow", "to read .parquet files")
    try:
        table = parquet.ParquetFile(file.content if file.is_plain else io.BytesIO(file.content.read()))
        number = 0
        for batch in table.iter_batches(_ROWS_OF_A_BATCH, use_threads=False):
            for row in batch.to_pylist():
                yield f"row {number}", row
                number += 1
    except (arrow.ArrowException, OSError) as error:
        raise UnreadableError(f"it is a damaged Parquet file: {error}") from error


_READERS: dict[str, Callable[[OpenedFile], Iterator[PlacedRow]]] = {
    "text": _read_document,
    "pdf": _read_document,
    "docx": _read_document,
    "json lines": _read_json_lines,
    "json": _read_json,
    "csv": _read_csv,
    "parquet": _read_parquet,
}
