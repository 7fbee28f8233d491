"""The text of a file, read in a process of its own: run as a script, with the file's path.

A file of a visitor may be broken, or made to take for ever: this process has little time and memory, and if it ends
badly the demo does not. It imports nothing of the package, so that it starts fast.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

MOST_PAGES = 200
MOST_UNPACKED_BYTES = 50_000_000
MOST_CELLS = 20_000
SECONDS = 20
MEMORY_BYTES = 1_500_000_000
_CELL = re.compile(rb"<(?:\w+:)?tc[\s/>]")


class UnreadableError(Exception):
    """Its message says to the visitor what is wrong with the file."""


def read_pdf(path: Path) -> str:
    """The text of a PDF, its pages apart by empty lines."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError("This PDF is encrypted. Upload it without a password.")
        if len(reader.pages) > MOST_PAGES:
            raise UnreadableError(f"This PDF has {len(reader.pages)} pages; at most {MOST_PAGES} are read.")
        text = "\n\n".join(page.extract_text() for page in reader.pages)
    except UnreadableError:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UnreadableError("This PDF is broken: it cannot be read.") from error
    if not text.strip():
        raise UnreadableError("This PDF holds no text, only pictures of pages perhaps. Upload one with text.")
    return text


def read_docx(path: Path) -> str:
    """The paragraphs of a Word document, and the cells of its tables, in their order."""
    from docx import Document
    from docx.opc.exceptions import OpcError
    from docx.oxml.ns import qn

    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > MOST_UNPACKED_BYTES:
                raise UnreadableError(
                    f"This file unpacks to {unpacked:,} bytes; at most {MOST_UNPACKED_BYTES:,} are read."
                )
            cells = sum(1 for _ in _CELL.finditer(archive.read("word/document.xml")))
        if cells > MOST_CELLS:
            raise UnreadableError(f"The tables of this file have {cells:,} cells; at most {MOST_CELLS:,} are read.")
        parts: list[str] = []
        # By the elements: `row.cells` repeats a merged cell as often as its file claims.
        for element in Document(str(path)).element.body:
            if element.tag == qn("w:p"):
                parts.append(element.text)
            elif element.tag == qn("w:tbl"):
                for row in element.iterchildren(qn("w:tr")):
                    texts = [
                        "\n".join(one.text for one in cell.iterchildren(qn("w:p")))
                        for cell in row.iterchildren(qn("w:tc"))
                    ]
                    parts.append("\t".join(texts))
    except UnreadableError:
        raise
    except (zipfile.BadZipFile, OpcError, ValueError, KeyError, SyntaxError, AttributeError) as error:
        raise UnreadableError("This Word document is broken: it cannot be read.") from error
    return "\n".join(parts)


def read_text(path: Path) -> str:
    """The text of a plain file in UTF-8, or UTF-16 with its mark."""
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableError("This file is no text in UTF-8. Save it as UTF-8 and upload it again.") from error
    if "\0" in text:
        raise UnreadableError("This file is no text: it holds bytes of value 0.")
    return text


READERS = {".txt": read_text, ".md": read_text, ".pdf": read_pdf, ".docx": read_docx}


def _limit_this_process() -> None:
    try:
        import resource
    except ImportError:  # not on Windows, where the time limit of the caller has to do
        return
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def main(path: Path) -> int:
    """Print the text of a file to stdout, or what is wrong with it to stderr; 0 or 1."""
    _limit_this_process()
    try:
        text = READERS[path.suffix.lower()](path)
    except (UnreadableError, MemoryError) as error:
        print(str(error) or "This file takes too much memory to read.", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(text.encode("utf-8", errors="replace"))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
