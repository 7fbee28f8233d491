"""Measuring models side by side: in one process, in turns, medians."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date

import torch
import transformers


def time_in_turns(calls: Mapping[str, Callable[[], object]], repeats: int = 5) -> dict[str, float]:
    """Median seconds of each call. The calls take turns, so that a slow moment of the machine strikes all alike.

    Args:
        calls: what to time, by name. Each is called once before, unmeasured.
        repeats: how often each is measured.
    """
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def circumstances() -> str:
    """One line with what a measured number depends on: processor, threads, versions, date."""
    return (
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, {date.today().isoformat()}"
    )
