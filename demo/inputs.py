"""What visitors bring: texts and files, within limits; and the samples that are there already."""

from __future__ import annotations

from contextlib import closing
from importlib.resources import files
from pathlib import Path

from longformer_plus.integrations.data.documents import Limits, UnreadableError
from longformer_plus.integrations.data.limited_reading import LimitedReader

MOST_UPLOAD_BYTES = 10_000_000
MOST_CHARACTERS = 1_000_000
MOST_QUESTION_CHARACTERS = 1000
LIMITS = Limits(seconds=20, memory_bytes=1_500_000_000, pages=200, unpacked_bytes=50_000_000, cells=20_000)
_KINDS = {".txt": "text", ".md": "text", ".pdf": "pdf", ".docx": "docx"}
FILE_TYPES = sorted(_KINDS)

# Written for this project.
SAMPLES = {
    "The Keeper of Harrow Quay, a story": "harbour.txt",
    "How a Longformer reads": "longformer.txt",
}


class InputError(ValueError):
    """Its message is for the visitor, and holds nothing that the visitor typed."""


def check_text(text: str | None, what: str = "document") -> str:
    """The text without characters that are no text.

    Raises:
        InputError: it is empty or too long.
    """
    text = (text or "").replace("\0", "").replace("\r\n", "\n")
    if not text.strip():
        raise InputError(f"The {what} is empty. Type or paste a text, upload a file, or take a sample.")
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            f"The {what} has {len(text):,} characters; at most {MOST_CHARACTERS:,} are taken. Shorten it: the model "
            "reads a few thousand words at a time."
        )
    return text


def check_question(question: str | None) -> str:
    """The question, as `check_text` returns it.

    Raises:
        InputError: it is empty or too long.
    """
    question = check_text(question, "question")
    if len(question) > MOST_QUESTION_CHARACTERS:
        raise InputError(
            f"The question has {len(question):,} characters; at most {MOST_QUESTION_CHARACTERS:,} are taken."
        )
    return question


def read_upload(path: str | Path) -> str:
    """The text of an uploaded file.

    The file stays: gradio names it by its content, so that another visitor may be about to read the same one.

    Raises:
        InputError: it is too large, of another type, broken, gone, or takes too long to read.
    """
    path = Path(path)
    try:
        if path.suffix.lower() not in _KINDS:
            raise InputError(f"Files of this type cannot be read. Upload one of {', '.join(FILE_TYPES)}.")
        if path.stat().st_size > MOST_UPLOAD_BYTES:
            raise InputError(
                f"The file has {path.stat().st_size:,} bytes; at most {MOST_UPLOAD_BYTES:,} are taken. Upload a part "
                "of it."
            )
        data = path.read_bytes()
    except OSError as error:
        raise InputError("The file did not arrive. Upload it again, under a simpler name.") from error
    # In a process for this file alone: what happens in there harms no other visitor.
    with closing(LimitedReader(LIMITS)) as reader:
        try:
            return check_text(reader.read(_KINDS[path.suffix.lower()], data), "file")
        except UnreadableError as error:
            raise InputError(f"The file cannot be read: {error}.") from error


def sample(name: str) -> str:
    """The text of a sample.

    Raises:
        InputError: there is none of this name.
    """
    if name not in SAMPLES:
        raise InputError("There is no such sample.")
    return files(__package__).joinpath("samples").joinpath(SAMPLES[name]).read_text(encoding="utf-8")
