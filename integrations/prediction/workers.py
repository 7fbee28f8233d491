"""A worker that holds the model of a run, and the parts that several of them predict, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future

import torch

from ..data.sources import Entry, Row
from .plan import PredictionPlan
from .predictors import Predictor
from .progress import Part

# The predictions for some documents, what is wrong with those that there are none for, and the tokens that were read.
Judged = tuple[list[Row], list[Row], int]


def in_order(
    executor: Executor, predict: Callable[[Sequence[Entry]], Judged], parts: Iterator[Part], workers: int
) -> Iterator[tuple[Part, Judged]]:
    """The parts with what `predict` gives for them, in order; as many again as there are workers wait for them."""
    waiting: deque[tuple[Part, Future[Judged]]] = deque()
    try:
        for part in parts:
            waiting.append((part, executor.submit(predict, part.entries)))
            if len(waiting) > 2 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


class Worker:
    """The model of a plan in a process of its own, loaded for the first part.

    Args:
        plan: what is predicted.
        threads: how many threads it computes with.
        place: which of the workers of its machine it is; each takes the next accelerator.
    """

    def __init__(self, plan: PredictionPlan, threads: int, place: int = 0) -> None:
        torch.set_num_threads(threads)
        if torch.accelerator.is_available():
            torch.accelerator.set_device_index(place % torch.accelerator.device_count())
        self._plan = plan
        self._predictor: Predictor | None = None

    def predict(self, entries: Sequence[Entry]) -> Judged:
        """The predictions for some documents, their errors and their tokens."""
        # Not loaded where the worker is made: from there no error would come back as it is.
        self._predictor = self._predictor or Predictor(self._plan)
        tokens = 0

        def count(_: float, of_batch: int) -> None:
            nonlocal tokens
            tokens += of_batch

        rows, errors = self._predictor.predict(entries, count)
        return rows, errors, tokens
