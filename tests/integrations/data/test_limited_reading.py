"""A document that takes too much time or memory is an error, and the next one is read."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from longformer_plus.integrations.data import formats
from longformer_plus.integrations.data.documents import Limits, UnreadableError
from longformer_plus.integrations.data.limited_reading import LimitedReader
from longformer_plus.integrations.data.sources import iterate_entries

from .test_formats import as_docx, as_pdf

LIMITS = Limits(seconds=1, memory_bytes=400_000_000)


@pytest.fixture
def reader() -> Iterator[LimitedReader]:
    reader = LimitedReader(LIMITS)
    yield reader
    reader.close()


def endless_pdf() -> bytes:
    """A page that is written letter by letter."""
    return as_pdf("a) Tj (" * 400_000)


def vast_docx() -> bytes:
    """A Word document that unpacks to 500 MB."""
    with zipfile.ZipFile(io.BytesIO(as_docx("A letter"))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in parts.items():
            if name == "word/document.xml":
                with archive.open(name, "w", force_zip64=True) as file:
                    for _ in range(500):
                        file.write(b" " * 1_000_000)
            else:
                archive.writestr(name, data)
    return sink.getvalue()


def test_what_takes_too_much_is_an_error_and_the_next_is_read(reader: LimitedReader) -> None:
    assert reader.read("pdf", as_pdf("A letter")).strip() == "A letter"
    began = time.monotonic()
    with pytest.raises(UnreadableError, match=r"it takes more than 1 s or 0\.4 GB of memory to read"):
        reader.read("pdf", endless_pdf())
    assert time.monotonic() - began < 30
    with pytest.raises(UnreadableError, match=r"it takes more than .*0\.4 GB of memory to read"):
        reader.read("docx", vast_docx())
    with pytest.raises(UnreadableError, match="the PDF is broken"):
        reader.read("pdf", b"%PDF-1.4\n%%EOF")
    assert reader.read("docx", as_docx("A letter")).startswith("A letter")


def test_the_time_of_former_documents_does_not_count(reader: LimitedReader) -> None:
    reader.read("text", b"a")
    process = psutil.Process(reader._process.pid)  # type: ignore[union-attr]
    spent = process.cpu_times().user
    document = as_docx("\n".join("A line of some length." for _ in range(500)))
    while process.cpu_times().user - spent < 1.5:
        reader.read("docx", document)
    assert reader._process.pid == process.pid  # type: ignore[union-attr]


def test_a_corpus_goes_on_behind_such_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = LimitedReader(LIMITS)
    monkeypatch.setattr(formats, "_LIMITED", reader)
    for name, data in (("a.pdf", as_pdf("one")), ("b.pdf", endless_pdf()), ("c.pdf", as_pdf("three"))):
        (tmp_path / name).write_bytes(data)
    entries = list(iterate_entries(str(tmp_path)))
    reader.close()
    assert [entry.row.get("text", "").strip() for entry in entries] == ["one", "", "three"]
    assert "it takes more than 1 s" in entries[1].error


def test_the_process_ends_with_the_one_that_reads(reader: LimitedReader) -> None:
    reader.read("text", b"a")
    process: Any = reader._process
    process.stdin.close()  # as when the process at its other end dies
    assert process.wait(20) == 0
