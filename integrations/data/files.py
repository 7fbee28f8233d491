"""The files that a source names, opened whatever their compression, and what they really are.

Names say what a file of text means (.csv, .jsonl ...); bytes say what a binary file is, whatever its name.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from .documents import UnreadableError

STANDARD_INPUT = "-"
# The suffix of text files, by what they hold.
TEXT_SUFFIXES = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "json lines",
    ".ndjson": "json lines",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
}
BINARY_SUFFIXES = {".pdf": "pdf", ".docx": "docx", ".parquet": "parquet"}
_COMPRESSIONS = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\x00", ".zst": b"\x28\xb5\x2f\xfd"}
_MOST_SNIFFED = 4096

# First bytes, what they say, and what to do where it is not read.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF-", "pdf", ""),
    (b"PAR1", "parquet", ""),
    (b"ARROW1", "an Arrow file", "save it as Parquet"),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an old Word or Excel file",
        "save it as .docx, or a table as .csv",
    ),
    (b"{\\rtf", "a Rich Text file", "save it as .docx"),
    (b"SQLite format 3\0", "an SQLite database", "export its table as .csv"),
    (b"\x89PNG", "a PNG picture", "read its text by a program for that"),
    (b"\xff\xd8\xff", "a JPEG picture", "read its text by a program for that"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and give the folder"),
    (b"Rar!", "a RAR archive", "unpack it and give the folder"),
    (b"\x04\x22\x4d\x18", "an LZ4 file", "unpack it"),
    (b"\x93NUMPY", "a NumPy array", "write its texts as .jsonl"),
    (b"\x89HDF", "an HDF5 file", "write its texts as .jsonl"),
    (b"\x80\x04", "a pickle", "write its rows as .jsonl"),
    (b"<!doctype html", "an HTML page", "save its text as .txt"),
    (b"<html", "an HTML page", "save its text as .txt"),
)
_IN_ARCHIVES = (
    ("word/document.xml", "docx", ""),
    ("xl/workbook.xml", "an Excel workbook", "save it as .csv"),
    ("ppt/presentation.xml", "a PowerPoint file", "save it as .pdf"),
    ("META-INF/container.xml", "an EPUB book", "save it as .txt or .pdf"),
    ("content.xml", "an OpenDocument file", "save it as .docx, or a table as .csv"),
)
_IS_ARCHIVE = ("a ZIP archive", "unpack it and give the folder")


@dataclass(frozen=True)
class OpenedFile:
    """A file that is being read.

    Attributes:
        name: its path, or "-".
        kind: "text", "json lines", "json", "csv", "pdf", "docx" or "parquet".
        content: its bytes, unpacked.
        start: the first of these.
        is_plain: whether it is a file that is not packed, in which any place can be read.
        share: how much of it has been read, from 0 to 1.
    """

    name: str
    kind: str
    content: BinaryIO
    start: bytes
    is_plain: bool
    share: Callable[[], float]


def files_of(source: str) -> list[Path]:
    """The files that a source names: itself; those of a folder and its folders, or of a pattern, sorted.

    Hidden files of a folder are left out.

    Returns:
        An empty list where the source names no file: it may be a data set of the hub.

    Raises:
        FileNotFoundError: it is a path or pattern of files that do not exist, or an empty folder.
    """
    path = Path(source)
    if path.is_dir():
        return _files_in(path)
    if path.exists():
        return [path]
    if any(mark in source for mark in "*?["):
        found = sorted(Path(each) for each in glob.glob(source, recursive=True))
        files = [file for each in found for file in (_files_in(each) if each.is_dir() else [each])]
        if not files:
            raise FileNotFoundError(f"{source} matches no file.")
        return list(dict.fromkeys(files))
    if path.suffix.lower() in {*TEXT_SUFFIXES, *BINARY_SUFFIXES, *_COMPRESSIONS}:
        raise FileNotFoundError(f"{source} is not a file.")
    return []


def _files_in(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    shown = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not shown:
        raise FileNotFoundError(f"{folder} is a folder without files.")
    return shown


@contextmanager
def open_file(name: str | Path) -> Iterator[OpenedFile]:
    """Open a file, or standard input ("-"), and find out what it is.

    Raises:
        ModuleNotFoundError: it is packed with Zstandard, and pyarrow is missing.
        OSError: it cannot be opened.
        UnreadableError: it is of a format that is not read; the message names it.
    """
    if str(name) == STANDARD_INPUT:
        content = _unpacked(io.BufferedReader(sys.stdin.buffer, 2 * _MOST_SNIFFED))  # type: ignore[arg-type]
        start = content.peek(_MOST_SNIFFED)
        kind = _magic(start)[0] or ("json lines" if start.lstrip()[:1] == b"{" else "text")
        yield OpenedFile(STANDARD_INPUT, _readable(kind, ""), content, start, False, lambda: 0.0)
        return
    path = Path(name)
    size = max(path.stat().st_size, 1)
    with path.open("rb", buffering=0) as raw:
        content = _unpacked(io.BufferedReader(raw, 2 * _MOST_SNIFFED))
        start = content.peek(_MOST_SNIFFED)
        is_plain = content.raw is raw
        kind = _kind_of(path, content, start, is_plain)
        yield OpenedFile(str(path), kind, content, start, is_plain, lambda: raw.tell() / size)


def _unpacked(packed: io.BufferedReader) -> io.BufferedReader:
    """A stream's bytes, decompressed if it starts as a compressed file does."""
    start = packed.peek(_MOST_SNIFFED)
    suffix = next((suffix for suffix, magic in _COMPRESSIONS.items() if start.startswith(magic)), None)
    if suffix is None:
        return packed
    if suffix == ".zst":
        arrow = load("pyarrow", "to read .zst files")
        unpacked: Any = arrow.CompressedInputStream(arrow.PythonFile(packed), "zstd")
    else:
        openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
        unpacked = openers[suffix](packed)
    return io.BufferedReader(unpacked, 2 * _MOST_SNIFFED)


def _kind_of(path: Path, content: io.BufferedReader, start: bytes, is_plain: bool) -> str:
    """What a file holds, by its bytes, or by its name where these are text."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = next((each for each in reversed(suffixes) if each not in _COMPRESSIONS), "")
    kind, advice = _magic(start)
    if start.startswith(b"PK\x03\x04"):
        kind, advice = _kind_of_archive(content) if is_plain else _IS_ARCHIVE
    elif start[257:262] == b"ustar":
        kind, advice = "a tar archive", "unpack it and give the folder"
    if kind:
        # A page that somebody calls .txt or .md is meant to be read as it is.
        is_meant = kind == "an HTML page" and suffix in TEXT_SUFFIXES
        return TEXT_SUFFIXES[suffix] if is_meant else _readable(kind, advice)
    if suffix in TEXT_SUFFIXES:
        return TEXT_SUFFIXES[suffix]
    if suffix in BINARY_SUFFIXES:
        raise UnreadableError(f"it is called {suffix} but does not start as such a file: it may be damaged")
    if start.lstrip()[:1] == b"{":
        return "json lines"
    allowed = ", ".join([*TEXT_SUFFIXES, *BINARY_SUFFIXES])
    raise UnreadableError(f"its name does not say what it holds: give it one of the suffixes {allowed}")


def _magic(start: bytes) -> tuple[str, str]:
    """What the first bytes of a file say that it is, and what to do where it is not read."""
    lower = start.lstrip()[:20].lower()
    found = ((kind, advice) for magic, kind, advice in _MAGIC if start.startswith(magic) or lower.startswith(magic))
    return next(found, ("", ""))


def _kind_of_archive(content: io.BufferedReader) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(content) as archive:
            names = set(archive.namelist())
    except zipfile.BadZipFile as error:
        raise UnreadableError(f"it is a damaged ZIP archive or Word document: {error}") from error
    content.seek(0)
    found = ((kind, advice) for name, kind, advice in _IN_ARCHIVES if name in names)
    return next(found, _IS_ARCHIVE)


def _readable(kind: str, advice: str) -> str:
    if kind in (*TEXT_SUFFIXES.values(), *BINARY_SUFFIXES.values()):
        return kind
    raise UnreadableError(f"it is {kind}, which is not read: {advice or 'save it as .jsonl'}")


def load(module: str, purpose: str, extra: str = "files") -> ModuleType:
    """Import a library of an extra; a ModuleNotFoundError names the extra where it is missing."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{module} is needed {purpose}: pip install 'longformer-plus[{extra}]'.", name=error.name
        ) from error


def state_of(sources: Sequence[str]) -> list[list[Any]]:
    """What tells whether the files of sources have changed: for each its path, size and time of change."""
    stats = [(path, path.stat()) for source in sources if source != STANDARD_INPUT for path in files_of(source)]
    return [[path.resolve().as_posix(), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
