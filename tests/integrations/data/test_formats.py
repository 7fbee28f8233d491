"""Every format of file gives the same rows, and what cannot be read is named."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longformer_plus.integrations.data import formats
from longformer_plus.integrations.data.files import files_of, state_of
from longformer_plus.integrations.data.sources import Entry, iterate_entries

ROWS = [
    {"text": 'A "quoted" line,\nand another; with é and 🙂', "id": "a"},
    {"text": "second\ttext", "id": "b"},
    {"text": "x" * 200_000, "id": "c"},
]


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
    table.writeheader()
    table.writerows(rows)
    return file.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=2 if len(rows) < 10 else 500)
    return file.getvalue()


def as_json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n\n" for row in rows).encode()


def as_pdf(text: str) -> bytes:
    """A PDF of one page with one line."""
    content = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /MediaBox [0 0 612 792] "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
    ]
    data, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, start=1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"trailer << /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % len(data)
    return data + b"xref\n0 5\n0000000000 65535 f \n" + table + trailer


def as_docx(text: str) -> bytes:
    document = pytest.importorskip("docx").Document()
    document.add_paragraph(text)
    document.add_table(1, 2).cell(0, 1).text = "cell"
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def as_zst(data: bytes) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(data)
    return sink.getvalue().to_pybytes()


def entries(source: Any, **columns: str) -> list[Entry]:
    return list(iterate_entries(str(source), columns))


TABLES: dict[str, Callable[[], bytes]] = {
    "rows.jsonl": lambda: as_json_lines(ROWS),
    "rows.ndjson": lambda: b"\xef\xbb\xbf" + as_json_lines(ROWS),
    "list.json": lambda: json.dumps(ROWS, indent=2).encode(),
    "lines.json": lambda: as_json_lines(ROWS),
    "rows.csv": lambda: as_csv(ROWS),
    "semicolons.csv": lambda: b"\xef\xbb\xbf" + as_csv(ROWS, ";"),
    "utf16.csv": lambda: as_csv(ROWS).decode().encode("utf-16"),
    "rows.tsv": lambda: as_csv(ROWS, "\t"),
    "rows.parquet": lambda: as_parquet(ROWS),
    "called_otherwise.jsonl": lambda: as_parquet(ROWS),
    "without_suffix": lambda: as_json_lines(ROWS),
    "rows.jsonl.gz": lambda: gzip.compress(as_json_lines(ROWS)),
    "packed_though_not_called_so.jsonl": lambda: gzip.compress(as_json_lines(ROWS)),
    "rows.csv.bz2": lambda: bz2.compress(as_csv(ROWS)),
    "list.json.xz": lambda: lzma.compress(json.dumps(ROWS).encode()),
    "rows.tsv.zst": lambda: as_zst(as_csv(ROWS, "\t")),
    "ROWS.JSONL.GZ": lambda: gzip.compress(as_json_lines(ROWS)),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_every_format_give_the_same_rows(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(TABLES[name]())
    found = entries(path)
    assert [entry.row for entry in found] == ROWS
    assert [(entry.source, entry.number, entry.error) for entry in found] == [(str(path), n, "") for n in range(3)]
    assert all(0 < entry.share <= 1 for entry in found)


DOCUMENTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "letter.txt": (lambda: "Émile\r\n".encode(), "Émile\r\n"),
    "letter.md": (lambda: "# Émile".encode("utf-16"), "# Émile"),
    "page.txt": (lambda: b"<html>as it is</html>", "<html>as it is</html>"),
    "letter.txt.gz": (lambda: gzip.compress(b"packed"), "packed"),
    "letter.md.zst": (lambda: as_zst(b"packed"), "packed"),
    "letter.pdf": (lambda: as_pdf("A letter"), "A letter"),
    "letter.pdf.gz": (lambda: gzip.compress(as_pdf("A letter")), "A letter"),
    "letter.docx": (lambda: as_docx("A letter"), "A letter\n\tcell"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_one_row(name: str, tmp_path: Path) -> None:
    for module, suffix in (("pypdf", ".pdf"), ("docx", ".docx")):
        if suffix in name:
            pytest.importorskip(module)
    make, text = DOCUMENTS[name]
    (tmp_path / name).write_bytes(make())
    (entry,) = entries(tmp_path / name)
    assert (entry.row, entry.where, entry.error) == ({"text": text}, str(tmp_path / name), "")


def zip_of(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "content")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("table.xlsx", zip_of("xl/workbook.xml"), "it is an Excel workbook, which is not read: save it as .csv"),
        ("table.csv", zip_of("xl/workbook.xml"), "it is an Excel workbook"),
        ("book.epub", zip_of("META-INF/container.xml"), "it is an EPUB book"),
        ("rows.zip", zip_of("rows.jsonl"), "it is a ZIP archive, which is not read: unpack it"),
        ("photo.txt", b"\x89PNG\r\n", "it is a PNG picture"),
        ("old.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 9, r"old Word or Excel file.*save it as \.docx"),
        ("page.html", b"<!DOCTYPE html><p>", "it is an HTML page"),
        ("rows.log", b"some text", "give it one of the suffixes .txt, .md"),
        ("no.pdf", b"some text", r"is called \.pdf but does not start as such a file"),
        ("torn.pdf", b"%PDF-1.4\n%%EOF", "the PDF is broken"),
        ("torn.docx", zip_of("word/document.xml"), "the Word document is broken"),
        ("torn.parquet", b"PAR1" + b"\0" * 50, "it is a damaged Parquet file"),
        ("latin.txt", "Émile".encode("latin-1"), "it is not UTF-8"),
        ("latin.jsonl", '{"text": "Émile"}'.encode("latin-1"), "it is not UTF-8"),
        ("zeros.txt", b"a\0b", "it holds bytes of value 0"),
        ("twice.csv", b"text,text\na,b\n", "names a column twice"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    pytest.importorskip("pypdf"), pytest.importorskip("docx"), pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    (entry,) = entries(tmp_path / name)
    assert entry.where.startswith(str(tmp_path / name))
    with pytest.raises(ValueError, match=message):
        raise ValueError(entry.error)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress, as_zst])
def test_files_that_are_cut_off_give_what_is_whole(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    noise = ["".join(map(chr, (33 + (place * place * seed) % 90 for place in range(3000)))) for seed in range(1, 400)]
    packed = pack(as_json_lines([{"text": text} for text in noise]))
    (tmp_path / "cut.jsonl").write_bytes(packed[: len(packed) * 2 // 3])
    *read, last = entries(tmp_path / "cut.jsonl")
    assert "cannot be read" in last.error or "cut off" in last.error
    assert [entry.row["text"] for entry in read if not entry.error] == noise[: len(read)]


def test_rows_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('text,id\na,1\nb\n"c"d,2\n"e\ne",3\n')
    found = entries(tmp_path / "rows.csv")
    assert [(entry.where.rpartition(", ")[2], entry.row.get("id"), entry.error) for entry in found] == [
        ("line 2", "1", ""),
        ("line 3", None, "1 cells, but the header names 2 columns."),
        ("line 4", None, "not a row of a table: ',' expected after '\"'."),
        ("line 6", "3", ""),
    ]
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n[1]\n{"text"\n{"text": "b"}\n')
    found = entries(tmp_path / "rows.jsonl")
    assert [bool(entry.error) for entry in found] == [False, True, True, False]
    assert [entry.number for entry in found] == [0, 1, 2, 3]
    (tmp_path / "list.json").write_text('[{"text": "a"}, 3, {"text": "b"} {"text": "c"}]')
    assert [entry.error for entry in entries(tmp_path / "list.json")][:3] == ["", "a int, not a JSON object.", ""]
    assert "not a comma" in entries(tmp_path / "list.json")[3].error


def test_lists_larger_than_what_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_CHUNK", 16)
    rows = [{"text": "a]},{[" * size, "size": size} for size in range(40)]
    for indent in (None, 3):
        (tmp_path / "list.json").write_text(json.dumps(rows, indent=indent))
        assert [entry.row for entry in entries(tmp_path / "list.json")] == rows
    (tmp_path / "list.json").write_text("[]")
    assert not entries(tmp_path / "list.json")
    (tmp_path / "list.json").write_text(json.dumps(rows)[:-30])
    assert "cut off" in entries(tmp_path / "list.json")[-1].error


def test_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b/second.txt", "a/first.txt", ".hidden/no.txt", "a/.hidden.txt", "third.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [entry.row["text"] for entry in entries(tmp_path)] == ["a/first.txt", "b/second.txt", "third.md"]
    assert [entry.row["text"] for entry in entries(tmp_path / "*" / "*.txt")] == ["a/first.txt", "b/second.txt"]
    assert [path.name for path in files_of(str(tmp_path / "**" / "*.md"))] == ["third.md"]
    with pytest.raises(FileNotFoundError, match="matches no file"):
        entries(tmp_path / "*.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="folder without files"):
        entries(tmp_path / "empty")
    before = state_of([str(tmp_path)])
    (tmp_path / "third.md").write_text("changed")
    assert state_of([str(tmp_path)])[:2] == before[:2]
    assert state_of([str(tmp_path)])[2] != before[2]


def test_folders_label_their_documents(tmp_path: Path) -> None:
    for name in ("invoices/2026/1.txt", "letters/1.md", "letters/rows.jsonl", "loose.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"text": "a row"}' if name.endswith("jsonl") else "a document")
    found = {entry.source.removeprefix(f"{tmp_path}/"): entry.row.get("label") for entry in entries(tmp_path)}
    assert found == {
        "invoices/2026/1.txt": "invoices",
        "letters/1.md": "letters",
        "letters/rows.jsonl": None,
        "loose.txt": None,
    }
    assert entries(tmp_path / "letters" / "1.md")[0].row == {"text": "a document"}
    assert entries(tmp_path, kind="label")[0].row["kind"] == "invoices"


def test_names_of_columns_and_structures_in_tables(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(as_csv([{"review": "[not JSON", "tokens": '["a", "b"]', "choices": "[x"}]))
    (entry,) = entries(tmp_path / "rows.csv", text="review")
    assert entry.row == {"review": "[not JSON", "text": "[not JSON", "tokens": ["a", "b"], "choices": "[x"}


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b'{"text": "a"}\n{"text": "b"}\n', [{"text": "a"}, {"text": "b"}]),
        (gzip.compress(b'{"text": "a"}\n'), [{"text": "a"}]),
        (b"Just a\ntext.", [{"text": "Just a\ntext."}]),
    ],
    ids=["lines", "packed lines", "text"],
)
def test_standard_input(content: bytes, rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert [entry.row for entry in entries("-")] == rows


@pytest.mark.parametrize(
    ("module", "name", "content"),
    [
        ("pyarrow.parquet", "a.parquet", b"PAR1"),
        ("pypdf", "a.pdf", b"%PDF-1.4"),
        ("docx", "a.docx", zip_of("word/document.xml")),
        ("pyarrow", "a.zst", b"\x28\xb5\x2f\xfd"),
    ],
)
def test_missing_libraries_are_named_with_their_extra(
    module: str, name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'longformer-plus\[files\]'"):
        entries(tmp_path / name)


_READ = """
import sys
from longformer_plus.integrations.data.sources import iterate_entries
for entry in iterate_entries(sys.argv[1]):
    assert not entry.error
# Not `ru_maxrss`: a process inherits that of the one that started it.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".jsonl.xz"])
def test_memory_does_not_grow_with_the_rows(suffix: str, tmp_path: Path) -> None:
    make = {".jsonl": as_json_lines, ".csv": as_csv, ".parquet": as_parquet}
    make[".json"] = lambda rows: json.dumps(rows).encode()
    make[".jsonl.xz"] = lambda rows: lzma.compress(as_json_lines(rows))
    peaks = []
    for count in (2000, 20_000):
        path = tmp_path / f"{count}{suffix}"
        path.write_bytes(make[suffix]([{"text": f"{row} " * 200} for row in range(count)]))
        run = subprocess.run([sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, check=True)
        peaks.append(int(run.stdout))
    assert peaks[1] < 1.1 * peaks[0]
