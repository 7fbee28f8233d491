"""Texts and files that visitors bring, within limits."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from longformer_plus.demo import inputs
from longformer_plus.demo.inputs import InputError, check_text, read_upload, sample

from ..integrations.data.test_limited_reading import endless_pdf


def test_texts_are_checked() -> None:
    assert check_text("a\r\nb\0") == "a\nb"
    for empty in (None, "", " \n"):
        with pytest.raises(InputError, match="empty"):
            check_text(empty)
    with pytest.raises(InputError, match="5,000,000 characters"):
        check_text("x" * 5_000_000)


def _docx(path: Path) -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_paragraph("A paragraph, then a table.")
    document.add_table(1, 2).rows[0].cells[1].text = "In a cell."
    document.add_paragraph("The end.")
    document.save(str(path))


def _pdf(path: Path) -> None:
    """The smallest PDF that says something."""
    stream = b"BT /F1 12 Tf 20 100 Td (Words in a PDF.) Tj ET"
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    data = b"%PDF-1.4\n"
    places = []
    for number, part in enumerate(parts, start=1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    start = len(data)
    data += b"xref\n0 5\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    path.write_bytes(data + b"trailer << /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "plain.txt": (lambda path: path.write_text("Ünïcode, plainly.", encoding="utf-8"), "Ünïcode, plainly."),
    "marked.MD": (lambda path: path.write_text("\ufeffA *mark*.", encoding="utf-8"), "A *mark*."),
    "wide.txt": (lambda path: path.write_text("Wide.", encoding="utf-16"), "Wide."),
    "word.docx": (_docx, "A paragraph, then a table.\n\tIn a cell.\nThe end."),
    "page.pdf": (_pdf, "Words in a PDF."),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_and_stay_for_whoever_else_uploaded_them(name: str, tmp_path: Path) -> None:
    if name.endswith("pdf"):
        pytest.importorskip("pypdf")
    make, expected = FILES[name]
    path = tmp_path / name
    make(path)
    with ThreadPoolExecutor(2) as pool:
        assert [text.strip() for text in pool.map(read_upload, [path, path])] == [expected, expected]
    assert path.exists()


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"0" * (inputs.LIMITS.unpacked_bytes + 1))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "broken.pdf": (lambda path: path.write_bytes(b"%PDF-1.4\nnothing of the kind"), "broken"),
    "broken.docx": (lambda path: path.write_bytes(b"PK\3\4 cut off"), "broken"),
    "bomb.docx": (_bomb, "unpacks to"),
    "bytes.txt": (lambda path: path.write_bytes(b"\x89\xff\xfe\x00"), "UTF-8"),
    "zeros.txt": (lambda path: path.write_bytes(b"a\0b"), "no text"),
    "empty.txt": (lambda path: path.write_bytes(b""), "empty"),
    "program.exe": (lambda path: path.write_bytes(b"MZ"), "type cannot be read"),
    "large.txt": (lambda path: path.write_bytes(b"a" * (inputs.MOST_UPLOAD_BYTES + 1)), "10,000,001 bytes"),
    "long.txt": (lambda path: path.write_bytes(b"a" * 5_000_000), "5,000,000 characters"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_get_a_message(name: str, tmp_path: Path) -> None:
    make, message = BROKEN[name]
    path = tmp_path / name
    make(path)
    with pytest.raises(InputError, match=message):
        read_upload(path)


def test_a_file_that_takes_too_long_gets_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "LIMITS", replace(inputs.LIMITS, seconds=1))
    path = tmp_path / "slow.pdf"
    path.write_bytes(endless_pdf())
    with pytest.raises(InputError, match="it takes more than 1 s"):
        read_upload(path)


def test_every_sample_is_there() -> None:
    for name in inputs.SAMPLES:
        assert len(check_text(sample(name))) > 4000
    with pytest.raises(InputError, match="no such sample"):
        sample("../../etc/passwd")


def test_a_file_that_is_gone_gets_a_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did not arrive"):
        read_upload(tmp_path / "gone.txt")


def test_tables_without_end_are_refused_fast(tmp_path: Path) -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_table(1, 1)
    path = tmp_path / "cells.docx"
    document.save(str(path))
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    body = parts["word/document.xml"]
    start, stop = body.index(b"<w:tc>"), body.index(b"</w:tc>") + len(b"</w:tc>")
    for cells, seconds in (
        (b"<w:tc><w:p/></w:tc>" * 1_000_000, 8),
        (b'<w:tc><w:tcPr><w:gridSpan w:val="9000000"/></w:tcPr><w:p/></w:tc>', 8),
    ):
        parts["word/document.xml"] = body[:start] + cells + body[stop:]
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in parts.items():
                archive.writestr(name, data)
        started = time.perf_counter()
        with pytest.raises(InputError, match="1,000,000 cells" if len(cells) > 1000 else "empty"):
            read_upload(path)
        assert time.perf_counter() - started < seconds
