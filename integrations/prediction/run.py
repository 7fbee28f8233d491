"""The run behind `longformer-plus predict`: documents are read, judged and written part by part.

A part is a fixed number of documents, or fewer long ones: which ones depends on the input alone. So a run that is
killed and resumed writes what one that was left alone writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils.logging import tqdm

from ..data.sources import Corpus, Entry
from .parts import RECORD_FILE, Parts, write_whole
from .plan import PredictionPlan, check_unchanged
from .predictors import Predictor, check_first

# A part ends before its documents fill the memory: at about a million tokens.
_MOST_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class Summary:
    """What a run has written.

    Attributes:
        documents: how many were predicted.
        errors: how many could not be.
        parts: in how many files they are.
    """

    documents: int
    errors: int
    parts: int


@dataclass(frozen=True)
class _Part:
    number: int
    entries: list[Entry]
    share: float  # of the input, that has been read with it


def predict(plan: PredictionPlan) -> Summary:
    """Predict for all documents of a plan, and write the predictions into its folder.

    Returns:
        How many documents were predicted, in this run and those that it resumes.

    Raises:
        FileExistsError: the folder is not empty, and the run in it is not resumed.
        ModuleNotFoundError: an extra is missing.
        OSError: there is no such file or checkpoint, or the disk is full.
        ValueError: the plan, or the first document, is wrong; or the run that is resumed had another plan.
    """
    plan.check()
    parts = Parts(Path(plan.output), plan.format, plan.task)
    done = _start(plan, parts)
    if not parts.is_finished:
        corpus = Corpus(plan.input, plan.columns)
        waiting = _cut_into_parts(corpus, plan.part_size, len(done), sum(map(sum, done)))
        first = next(waiting, None)
        if first is None and not done:
            raise ValueError(f"{' '.join(plan.input)} has no documents.")
        if first is not None and not done:
            check_first(plan, first.entries[0])
        if first is not None:
            done += _predict_parts(Predictor(plan), first, waiting, parts)
    errors = parts.finish(len(done))
    return Summary(sum(rows for rows, _ in done), errors, len(done))


def _start(plan: PredictionPlan, parts: Parts) -> list[tuple[int, int]]:
    """The parts that are done. A new run is recorded, and a run that cannot be resumed refused."""
    folder, record = parts.folder, parts.folder / RECORD_FILE
    is_used = folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir())
    if is_used and not plan.resume:
        raise FileExistsError(f"{folder} is not empty. Name another folder, or go on with the run in it (--resume).")
    if is_used and not record.is_file():
        raise ValueError(f"{folder} holds no run that could be resumed: it has no {RECORD_FILE}.")
    if is_used:
        check_unchanged(plan, json.loads(record.read_text(encoding="utf-8")))
        return parts.done()
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(record, (json.dumps(plan.record(), indent=2) + "\n").encode())
    return []


def _cut_into_parts(corpus: Corpus, size: int, number: int, skip: int) -> Iterator[_Part]:
    """The documents behind the first `skip`, in parts that are counted from `number`."""
    entries: list[Entry] = []
    characters, share = 0, 0.0
    for entry, share in corpus.entries(skip):
        entries.append(entry)
        characters += sum(len(value) for value in entry.row.values() if isinstance(value, str))
        if len(entries) == size or characters >= _MOST_CHARACTERS:
            yield _Part(number, entries, share)
            number, entries, characters = number + 1, [], 0
    if entries:
        yield _Part(number, entries, share)


def _predict_parts(predictor: Predictor, first: _Part, waiting: Iterator[_Part], parts: Parts) -> list[tuple[int, int]]:
    """Predict and write parts, while the next is read; how many predictions and errors each has."""
    counts = []
    part: _Part | None = first
    with ThreadPoolExecutor(1) as reader, _Progress() as progress:
        while part is not None:
            following = reader.submit(next, waiting, None)
            progress.start(part)
            rows, errors = predictor.predict(part.entries, progress.report)
            parts.write(part.number, rows, errors)
            counts.append((len(rows), len(errors)))
            progress.finish(part)
            part = following.result()
    return counts


class _Progress:
    """A progress bar over the share of the input that is done, with documents and tokens a second."""

    def __init__(self) -> None:
        self._bar = tqdm(total=1.0, desc="Predicting", bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}")
        self._began = time.monotonic()
        self._documents = 0.0
        self._tokens = 0
        self._done = 0.0
        self._ahead: tuple[float, int] = (0.0, 1)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def start(self, part: _Part) -> None:
        """Note which share of the input a part is."""
        self._ahead = (part.share - self._done, len(part.entries))

    def report(self, documents: float, tokens: int) -> None:
        """Count what a batch held."""
        self._documents += documents
        self._tokens += tokens
        share, count = self._ahead
        self._show(min(self._bar.n + share * documents / count, 1.0))

    def finish(self, part: _Part) -> None:
        """Count a part as done, whatever of it could not be read."""
        self._done = part.share
        self._show(part.share)

    def _show(self, share: float) -> None:
        seconds = max(time.monotonic() - self._began, 1e-9)
        speed = f"{self._documents / seconds:,.1f} documents/s, {self._tokens / seconds:,.0f} tokens/s"
        self._bar.set_postfix_str(f"{self._documents:,.0f} documents, {speed}", refresh=False)
        self._bar.update(max(share - self._bar.n, 0.0))


def last_line(plan: PredictionPlan, summary: Summary) -> str:
    """What a run says at its end."""
    files = "1 part" if summary.parts == 1 else f"{summary.parts:,} parts"
    failed = f"; {summary.errors:,} could not be read, see errors.jsonl" if summary.errors else ""
    return f"Wrote {plan.output}: {summary.documents:,} documents in {files}{failed}."
