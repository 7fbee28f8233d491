"""The text of a PDF, a Word document or a plain file.

It imports nothing of the package: `limited_reading` runs it as a script, in a process that starts fast.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
import time
import zipfile
from dataclasses import dataclass
from typing import IO

_CELL = re.compile(rb"<(?:\w+:)?tc[\s/>]")


@dataclass(frozen=True)
class Limits:
    """The most that a document may have, and that it may take to read it.

    Attributes:
        seconds: of a processor.
        memory_bytes: of the process that reads.
        pages: of a PDF; any number when None, as of what follows.
        unpacked_bytes: of a Word document.
        cells: of the tables of a Word document.
    """

    seconds: int
    memory_bytes: int
    pages: int | None = None
    unpacked_bytes: int | None = None
    cells: int | None = None


class UnreadableError(ValueError):
    """A file, or a row of it, that cannot be read. Its message says what is wrong and what to do."""


def read_pdf(file: IO[bytes], most_pages: int | None = None) -> str:
    """The text of a PDF, with empty lines between its pages.

    Raises:
        ModuleNotFoundError: pypdf is missing.
        UnreadableError: it is encrypted, broken, holds no text, or has more pages than are allowed.
    """
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError("the PDF is encrypted: save it without a password")
        if most_pages is not None and len(reader.pages) > most_pages:
            raise UnreadableError(f"the PDF has {len(reader.pages)} pages; at most {most_pages} are read")
        text = "\n\n".join(page.extract_text() for page in reader.pages)
    except UnreadableError:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OSError) as error:
        raise UnreadableError(f"the PDF is broken: {error}") from error
    if not text.strip():
        raise UnreadableError("the PDF holds no text, only pictures of pages perhaps: use a program that reads these")
    return text


def read_docx(file: IO[bytes], most_unpacked_bytes: int | None = None, most_cells: int | None = None) -> str:
    """The paragraphs of a Word document and the cells of its tables, in their order.

    Raises:
        ModuleNotFoundError: python-docx is missing.
        UnreadableError: it is broken, or larger than is allowed.
    """
    from docx import Document
    from docx.opc.exceptions import OpcError
    from docx.oxml.ns import qn

    parts: list[str] = []
    try:
        _check_size(file, most_unpacked_bytes, most_cells)
        # By the elements: `row.cells` repeats a merged cell as often as its file claims.
        for element in Document(file).element.body:
            if element.tag == qn("w:p"):
                parts.append(element.text)
            elif element.tag == qn("w:tbl"):
                for row in element.iterchildren(qn("w:tr")):
                    cells = [cell.iterchildren(qn("w:p")) for cell in row.iterchildren(qn("w:tc"))]
                    parts.append("\t".join("\n".join(one.text for one in paragraphs) for paragraphs in cells))
    except UnreadableError:
        raise
    except (zipfile.BadZipFile, OpcError, ValueError, KeyError, SyntaxError, AttributeError) as error:
        raise UnreadableError(f"the Word document is broken: {error}") from error
    return "\n".join(parts)


def _check_size(file: IO[bytes], most_unpacked_bytes: int | None, most_cells: int | None) -> None:
    """Refuse a Word document that is larger than is allowed, before it takes the time to read it."""
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        if most_unpacked_bytes is not None and unpacked > most_unpacked_bytes:
            raise UnreadableError(f"it unpacks to {unpacked:,} bytes; at most {most_unpacked_bytes:,} are read")
        if most_cells is not None:
            cells = sum(1 for _ in _CELL.finditer(archive.read("word/document.xml")))
            if cells > most_cells:
                raise UnreadableError(f"its tables have {cells:,} cells; at most {most_cells:,} are read")


def read_text(file: IO[bytes]) -> str:
    """The text of a plain file in UTF-8, or in UTF-16 with its byte order mark.

    Raises:
        UnreadableError: it is in another encoding, or no text.
    """
    data = file.read()
    try:
        text = data.decode(encoding_of(data))
    except UnicodeDecodeError as error:
        raise UnreadableError(f"it is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    if "\0" in text:
        raise UnreadableError("it is no text: it holds bytes of value 0")
    return text


def encoding_of(start: bytes) -> str:
    """The encoding that the first bytes of a text file announce; UTF-8 where they announce none."""
    return "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def serve(limits: Limits) -> None:
    """Read documents from standard input and write their texts to standard output, until the input ends.

    A document is a line with its kind and its number of bytes, and these. What is written for it is a line of JSON: its
    text, or why it cannot be read. The process is killed by one that takes too long.
    """
    while line := sys.stdin.buffer.readline():
        kind, size = line.split()
        file = io.BytesIO(sys.stdin.buffer.read(int(size)))
        _limit_this_process(limits)
        try:
            answer = {"text": _read(kind.decode(), file, limits)}
        except UnreadableError as error:
            answer = {"error": str(error)}
        except MemoryError:
            answer = {"error": f"it takes more than {limits.memory_bytes / 1e9:g} GB of memory to read"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _read(kind: str, file: IO[bytes], limits: Limits) -> str:
    if kind == "pdf":
        return read_pdf(file, limits.pages)
    return read_docx(file, limits.unpacked_bytes, limits.cells) if kind == "docx" else read_text(file)


def _limit_this_process(limits: Limits) -> None:
    try:
        import resource
    except ImportError:  # not on Windows, where the time limit of the caller has to do
        return
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + limits.seconds, most))
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, most))


if __name__ == "__main__":
    # Libraries come from where the calling process has them, and from nowhere else.
    sys.path[:] = sys.argv[2:]
    serve(Limits(**json.loads(sys.argv[1])))
