"""Ray: actors that hold the model, on this machine or on a cluster, and predict parts for this process."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from ..data.files import load
from ..data.sources import Entry
from .plan import PredictionPlan
from .progress import Part
from .workers import Judged, Worker, in_order

# An actor that dies is started again, on another machine if need be, and predicts its part again. A part of which it
# dies so often is too large for it.
_MOST_RETRIES = 5
_SECONDS_TO_CONNECT = 10


def predict_with_ray(plan: PredictionPlan, parts: Iterator[Part]) -> Iterator[tuple[Part, Judged]]:
    """The parts with their predictions by Ray's actors, in order. Errors are those of `predict_parts`."""
    ray = load("ray", "for engine 'ray'", "ray")
    with _connected(ray, plan.ray_address), ThreadPoolExecutor(plan.workers) as executor:
        actors = _start_actors(ray, plan)
        free: SimpleQueue[Any] = SimpleQueue()
        for actor in actors:
            free.put(actor)

        def predict(entries: Sequence[Entry]) -> Judged:
            actor = free.get()
            try:
                return ray.get(actor.predict.remote(entries))
            finally:
                free.put(actor)

        try:
            yield from in_order(executor, predict, parts, plan.workers)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayActorError as error:
            raise ChildProcessError(
                f"A Ray actor died {_MOST_RETRIES + 1} times over one part, perhaps for lack of memory: "
                f"{str(error).splitlines()[0]} Run the command again with --resume to go on; fewer --workers or "
                "--batch-tokens need less memory."
            ) from None
        finally:
            for actor in actors:
                ray.kill(actor)


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """A connection to the cluster at an address; without one to that of this machine, started if there is none."""
    if ray.is_initialized():  # by the program that calls
        yield
        return
    try:
        if address is not None:
            _reach(address)
        ray.init(address, log_to_driver=False, logging_level="warning")
    except Exception as error:  # Ray raises a bare one where a node does not start in time.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if address is not None:
            raise ConnectionError(f"There is no Ray cluster at {address}: {reason}") from error
        raise ConnectionError(
            f"Ray did not start on this machine: {reason} Run the command again with --resume where the machine has "
            "less other work, or choose --engine local."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise an OSError where nothing answers at "host:port". Ray would try for two minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_CONNECT).close()


def _start_actors(ray: Any, plan: PredictionPlan) -> list[Any]:
    """An actor for each worker, with its share of the cluster's processors and accelerators."""
    machines = [each["Resources"] for each in ray.nodes() if each["Alive"]]
    cpus, gpus = shares(
        [int(each.get("CPU", 0)) for each in machines], [int(each.get("GPU", 0)) for each in machines], plan.workers
    )
    options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": _MOST_RETRIES}
    remote = ray.remote(**options)(Worker)
    return [remote.remote(plan, cpus) for _ in range(plan.workers)]


def shares(cpus: Sequence[int], gpus: Sequence[int], workers: int) -> tuple[int, float]:
    """The processors, and the GPUs or part of one, that each worker gets.

    Args:
        cpus: those of each machine.
        gpus: those of each machine; where there are some, every worker gets one or a part of one.
        workers: how many workers there are.

    Raises:
        ValueError: the machines have too few processors.
    """
    if total := sum(gpus):
        return 1, 1 / math.ceil(workers / total)
    fitting = [count for count in range(1, max(cpus, default=0) + 1) if sum(each // count for each in cpus) >= workers]
    if not fitting:
        raise ValueError(f"workers={workers} is not allowed: the Ray cluster has {sum(cpus)} processors.")
    return fitting[-1], 0.0
