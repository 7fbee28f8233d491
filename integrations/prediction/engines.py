"""Who predicts the parts of a run: this process, several processes, or Ray's actors on this machine or a cluster.

All read the input and write the output in this process, and give the predictions in the order of the parts. So the
files are the same whoever predicts, and only the checkpoint must be on every machine.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any

import torch

from ..data.sources import Entry, Row
from .plan import PredictionPlan
from .predictors import Predictor
from .progress import Part, Progress
from .workers import Judged, Worker, in_order

# Not a fork, which would lose this process's threads and its accelerator.
_CONTEXT: Any = get_context("spawn")


def predict_parts(
    plan: PredictionPlan, parts: Iterator[Part], progress: Progress
) -> Generator[tuple[Part, list[Row], list[Row]], None, None]:
    """Each part with its predictions and errors, in order.

    Raises:
        ChildProcessError: a worker died, and was not replaced.
        ConnectionError: there is no Ray cluster at the address.
        ModuleNotFoundError: the extra `ray` is missing.
        OSError: there is no such checkpoint.
        ValueError: the task and the checkpoint do not go together, or the cluster is too small.
    """
    if plan.engine == "local" and plan.workers == 1:
        yield from _predict_here(plan, parts, progress)
        return
    if plan.engine == "ray":
        from .ray_actors import predict_with_ray

        judged = predict_with_ray(plan, parts)
    else:
        judged = _predict_in_processes(plan, parts)
    for part, (rows, errors, tokens) in judged:
        progress.start(part)
        progress.report(len(rows), tokens)
        yield part, rows, errors


def _predict_here(
    plan: PredictionPlan, parts: Iterator[Part], progress: Progress
) -> Iterator[tuple[Part, list[Row], list[Row]]]:
    """By the model in this process, while a thread reads the next part."""
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(next, parts, None)
        predictor = Predictor(plan)
        while (part := following.result()) is not None:
            following = reader.submit(next, parts, None)
            progress.start(part)
            yield part, *predictor.predict(part.entries, progress.report)


def _predict_in_processes(plan: PredictionPlan, parts: Iterator[Part]) -> Iterator[tuple[Part, Judged]]:
    """By processes on this machine, each with a model, which share its threads and accelerators."""
    places = _CONTEXT.SimpleQueue()
    for place in range(plan.workers):
        places.put(place)
    threads = max(torch.get_num_threads() // plan.workers, 1)
    with ProcessPoolExecutor(plan.workers, _CONTEXT, _start_worker, (plan, threads, places)) as executor:
        try:
            yield from in_order(executor, _predict_there, parts, plan.workers)
        except BrokenProcessPool:
            raise ChildProcessError(
                "A worker was killed, perhaps for lack of memory. Run the command again with --resume to go on; fewer "
                "--workers or --batch-tokens need less memory."
            ) from None


_worker: Worker | None = None


def _start_worker(plan: PredictionPlan, threads: int, places: Any) -> None:
    """Make the worker of this process, which ends when the run does, whatever ends that."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = Worker(plan, threads, places.get())


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _predict_there(entries: Sequence[Entry]) -> Judged:
    if _worker is None:
        raise RuntimeError("The worker of this process was not started.")
    return _worker.predict(entries)
