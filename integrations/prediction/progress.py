"""The progress bar of a run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from transformers.utils.logging import tqdm

from ..data.sources import Entry


@dataclass(frozen=True)
class Part:
    """Documents whose predictions are written together.

    Attributes:
        number: how many parts come before it.
        entries: its documents.
        share: how much of the input has been read with it, from 0 to 1.
    """

    number: int
    entries: list[Entry]
    share: float


class Progress:
    """A progress bar over the share of the input that is done, with documents and tokens a second."""

    def __init__(self) -> None:
        self._bar = tqdm(total=1.0, desc="Predicting", bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}")
        self._began = time.monotonic()
        self._documents = 0.0
        self._tokens = 0
        self._done = 0.0
        self._shown = 0.0
        self._ahead: tuple[float, int] = (0.0, 1)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def start(self, part: Part) -> None:
        """Note which share of the input a part is."""
        self._ahead = (part.share - self._done, len(part.entries))

    def report(self, documents: float, tokens: int) -> None:
        """Count what a batch of the part that was started held."""
        self._documents += documents
        self._tokens += tokens
        share, count = self._ahead
        self._show(min(self._shown + share * documents / count, 1.0))

    def finish(self, part: Part) -> None:
        """Count a part as done, whatever of it could not be read."""
        self._done = part.share
        self._show(part.share)

    def _show(self, share: float) -> None:
        seconds = max(time.monotonic() - self._began, 1e-9)
        speed = f"{self._documents / seconds:,.1f} documents/s, {self._tokens / seconds:,.0f} tokens/s"
        self._bar.set_postfix_str(f"{self._documents:,.0f} documents, {speed}", refresh=False)
        self._bar.update(max(share - self._shown, 0.0))
        self._shown = max(share, self._shown)
