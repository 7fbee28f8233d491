"""Reading PDF and Word documents with limits of time and memory, in a process of its own.

A file may be broken, or made to take for ever. The process that reads it is killed then, and the next document gets a
new one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from . import documents
from .documents import Limits, UnreadableError

# A process that waits for a processor, or for the disk, needs more time by the clock than the limit says.
_CLOCK = 4


class LimitedReader:
    """Reads documents one after another in a process that starts with the first, and ends with this one or `close`.

    Args:
        limits: those of each document.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def read(self, kind: str, data: bytes) -> str:
        """The text of a document.

        Args:
            kind: "pdf", "docx" or "text".
            data: its bytes.

        Raises:
            UnreadableError: it is broken, too large, or takes too much time or memory.
        """
        with self._lock:
            process = self._process = self._process or self._start()
            timer = threading.Timer(_CLOCK * self._limits.seconds, process.kill)
            timer.start()
            try:
                answer = _ask(process, kind, data)
            finally:
                timer.cancel()
            if answer is None:
                self._end()
                limits = f"{self._limits.seconds} s or {self._limits.memory_bytes / 1e9:g} GB of memory"
                raise UnreadableError(f"it takes more than {limits} to read")
        if "error" in answer:
            raise UnreadableError(answer["error"])
        return answer["text"]

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        limits = json.dumps(asdict(self._limits))
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", documents.__file__, limits, *filter(None, sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            with suppress(BrokenPipeError), self._process:
                self._process = None


def _ask(process: subprocess.Popen[bytes], kind: str, data: bytes) -> Any:
    """What the process says of a document; None where it died of it."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("The process has no pipes.")
    try:
        process.stdin.write(b"%s %d\n" % (kind.encode(), len(data)) + data)
        process.stdin.flush()
    except BrokenPipeError:
        return None
    line = process.stdout.readline()
    return json.loads(line) if line.endswith(b"\n") else None
