"""What visitors bring: texts and files, within limits; and the samples that are there already."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from . import extract_text

MOST_UPLOAD_BYTES = 10_000_000
MOST_CHARACTERS = 1_000_000
MOST_QUESTION_CHARACTERS = 1000
FILE_TYPES = sorted(extract_text.READERS)

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
        if path.suffix.lower() not in extract_text.READERS:
            raise InputError(f"Files of this type cannot be read. Upload one of {', '.join(FILE_TYPES)}.")
        if path.stat().st_size > MOST_UPLOAD_BYTES:
            raise InputError(
                f"The file has {path.stat().st_size:,} bytes; at most {MOST_UPLOAD_BYTES:,} are taken. Upload a part "
                "of it."
            )
        with tempfile.TemporaryDirectory() as folder:
            private = Path(folder) / f"upload{path.suffix.lower()}"
            shutil.copyfile(path, private)
            return check_text(_read_apart(private), "file")
    except OSError as error:
        raise InputError("The file did not arrive. Upload it again, under a simpler name.") from error


def _read_apart(path: Path) -> str:
    """The text of a file, read by `extract_text` in a process of its own."""
    command = [sys.executable, "-I", extract_text.__file__, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=extract_text.SECONDS + 10, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise InputError("The file takes too long to read. Upload a part of it, or its text.") from error
    if done.returncode == 1:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        # A traceback is for the one who runs the demo; a visitor gets the message that `extract_text` wrote.
        if lines and not lines[0].startswith("Traceback"):
            raise InputError(lines[-1])
    if done.returncode:
        raise InputError("The file cannot be read: it is broken, or takes too much time or memory.")
    return done.stdout.decode(errors="replace")


def sample(name: str) -> str:
    """The text of a sample.

    Raises:
        InputError: there is none of this name.
    """
    if name not in SAMPLES:
        raise InputError("There is no such sample.")
    return files(__package__).joinpath("samples").joinpath(SAMPLES[name]).read_text(encoding="utf-8")
