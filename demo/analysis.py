"""What the tab Attention does, apart from how it looks."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .answers import READ, RUN, Answer
from .documents import AnalysedDocument, Reader, Source
from .inputs import SAMPLES, InputError, sample
from .questions import NOT_THERE, Question
from .store import VisitorStore

# What the page is told when another document is kept for it. It asks for what it shows then, as finely as it can.
_NEW = {"kind": "read", "isNew": True}
_SAME_TEXT = {"kind": "read", "isNew": False}


class Analyzer:
    """Documents analysed, and questions about them answered, for visitors who know nothing of one another.

    Args:
        reader: runs the models.
        store: where the visitors' documents are kept.
    """

    def __init__(self, reader: Reader, store: VisitorStore[AnalysedDocument]) -> None:
        self.reader = reader
        self.store = store
        self._opening_lock = threading.Lock()
        self._opening: AnalysedDocument | None = None

    def open(self, visitor: str, address: str = "") -> dict[str, Any]:
        """Keep what the page opens on for a visitor: the first sample, analysed once for all of them.

        Args:
            visitor: the session's name.
            address: where the visitor comes from.
        """
        # For one more of those who share it nothing more is held.
        self.store.put(visitor, self.prepare_opening(), 0, address)
        return _NEW

    def prepare_opening(self) -> AnalysedDocument:
        """The first sample, analysed at the first call."""
        with self._opening_lock:
            if self._opening is None:
                read = self.reader.read(Source(sample(next(iter(SAMPLES)))))
                # How long it took is nothing that a visitor waits for.
                self._opening = replace(read, seconds=0.0)
            return self._opening

    def analyse(self, visitor: str, source: Source, address: str = "") -> dict[str, Any]:
        """Run a model on a text, and keep its attention for the visitor.

        Args:
            visitor: the session's name.
            source: what is read.
            address: where the visitor comes from.

        Raises:
            InputError: as of `Reader.read`, or what would be kept takes too much memory.
        """
        return self._keep(visitor, self.reader.read(source), address)

    def restore(self, visitor: str, sent: Mapping[str, Any], address: str = "") -> dict[str, Any]:
        """Analyse what a page still shows but is no longer kept here, or what a shared address says.

        Args:
            visitor: the session's name.
            sent: "text", or "sample", the name of one; "question", "model", and "policy", or "globals", the positions
                that attend globally.
            address: where the visitor comes from.

        Raises:
            InputError: as of `analyse`.
        """
        name = str(sent.get("sample") or "")
        given = {field: str(sent.get(field) or "") for field in ("text", "policy", "question", "model")}
        source = Source(sample(name) if name else given["text"], given["policy"], given["question"], given["model"])
        positions = sent.get("globals")
        if source.policy != "chosen":
            return self.analyse(visitor, source, address)
        if not isinstance(positions, list) or not all(type(one) is int for one in positions):
            raise InputError(NOT_THERE)
        return self._keep(visitor, self.reader.read(source, sorted(set(positions))), address)

    def answer(self, visitor: str, sent: Any) -> dict[str, Any]:
        """Answer what needs no model, from what is kept.

        Args:
            visitor: the session's name.
            sent: the fields of a `Question`; without a "token" it is the document's telling one.

        Returns:
            What the page shows; its "kind" is "gone" where nothing is kept for the visitor.

        Raises:
            InputError: the question makes no sense.
        """
        return self._find_answer(READ, visitor, sent)

    def run(self, visitor: str, sent: Any, address: str = "") -> dict[str, Any]:
        """Answer what needs the model: what `RUN` has, "restore", and "global", which makes a token global or local.

        Args:
            visitor: the session's name.
            sent: as of `answer`, or of `restore`.
            address: where the visitor comes from.

        Raises:
            InputError: as of `answer` and `analyse`.
        """
        asked = sent.get("ask") if isinstance(sent, Mapping) else None
        if asked == "restore":
            return self.restore(visitor, sent, address)
        analysed = self.store.get(visitor)
        if asked != "global" or analysed is None:
            return self._find_answer(RUN, visitor, sent)
        token = Question.read(sent, analysed).first
        source, positions = replace(analysed.source, policy="chosen"), set(analysed.global_positions) ^ {token}
        self._keep(visitor, self.reader.read(source, sorted(positions)), address)
        return _SAME_TEXT

    def _find_answer(self, answers: Mapping[str, Answer], visitor: str, sent: Any) -> dict[str, Any]:
        analysed = self.store.get(visitor)
        if analysed is None:
            return {"kind": "gone"}
        question = Question.read(sent, analysed)
        if question.ask not in answers:
            raise InputError(NOT_THERE)
        return answers[question.ask](analysed, question)

    def _keep(self, visitor: str, analysed: AnalysedDocument, address: str) -> dict[str, Any]:
        try:
            self.store.put(visitor, analysed, analysed.num_bytes, address)
        except ValueError as error:
            raise InputError(
                "The attention of this document takes more memory than there is for all visitors. Shorten it."
            ) from error
        return _NEW
