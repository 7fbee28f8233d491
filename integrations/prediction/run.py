"""The run behind `longformer-plus predict`: documents are read, judged and written part by part.

A part is a fixed number of documents, or fewer long ones: which ones depends on the input alone. So a run that is
killed and resumed writes what one that was left alone writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ..data.sources import Corpus, Entry
from .engines import predict_parts
from .parts import RECORD_FILE, Parts, write_whole
from .plan import PredictionPlan, check_unchanged
from .predictors import check_first
from .progress import Part, Progress

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


def predict(plan: PredictionPlan) -> Summary:
    """Predict for all documents of a plan, and write the predictions into its folder.

    Returns:
        How many documents were predicted, in this run and those that it resumes.

    Raises:
        ChildProcessError: a worker died.
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
            done += _write_parts(plan, chain([first], waiting), parts)
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


def _cut_into_parts(corpus: Corpus, size: int, number: int, skip: int) -> Iterator[Part]:
    """The documents behind the first `skip`, in parts that are counted from `number`."""
    entries: list[Entry] = []
    characters, share = 0, 0.0
    for entry, share in corpus.entries(skip):
        entries.append(entry)
        characters += sum(len(value) for value in entry.row.values() if isinstance(value, str))
        if len(entries) == size or characters >= _MOST_CHARACTERS:
            yield Part(number, entries, share)
            number, entries, characters = number + 1, [], 0
    if entries:
        yield Part(number, entries, share)


def _write_parts(plan: PredictionPlan, waiting: Iterator[Part], parts: Parts) -> list[tuple[int, int]]:
    """Predict and write parts; how many predictions and errors each has."""
    counts = []
    with Progress() as progress, closing(predict_parts(plan, waiting, progress)) as predicted:
        for part, rows, errors in predicted:
            parts.write(part.number, rows, errors)
            counts.append((len(rows), len(errors)))
            progress.finish(part)
    return counts


def last_line(plan: PredictionPlan, summary: Summary) -> str:
    """What a run says at its end."""
    files = "1 part" if summary.parts == 1 else f"{summary.parts:,} parts"
    failed = f"; {summary.errors:,} could not be read, see errors.jsonl" if summary.errors else ""
    return f"Wrote {plan.output}: {summary.documents:,} documents in {files}{failed}."
