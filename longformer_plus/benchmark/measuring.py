"""Measuring models side by side: the median time, with the models taking turns in one process; memory in one each."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
import transformers
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from transformers import PreTrainedModel

from ..attention import ALL_ATTENTION_FUNCTIONS
from ..model.silence import silence
from ..ops.processor import processor_features
from ..version import __version__
from .workloads import Workload, check_models, check_names

IMPLEMENTATIONS = ("transformers", "longformer_plus")
FLOOR = "floor"


@dataclass(frozen=True)
class Point:
    """The measurements of one workload.

    Attributes:
        workload: the work.
        num_valid: T, the valid tokens of the batch.
        seconds: of every repeat, by model; "floor" is among them.
        memory: bytes at the peak beyond what was held before, by model.
        failures: why a model has no seconds, by model.
        profile: by model of this package, the share of its time by operation, the largest first; empty without
            profiling.
    """

    workload: Workload
    num_valid: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    profile: dict[str, dict[str, float]] = field(default_factory=dict)

    def median(self, name: str) -> float | None:
        """Seconds of a model or of the floor, if they were measured."""
        return statistics.median(self.seconds[name]) if name in self.seconds else None


def time_in_turns(calls: Mapping[str, Callable[[], object]], repeats: int = 5) -> dict[str, float]:
    """Median seconds of each call; see `repeat_in_turns`."""
    return {name: statistics.median(measured) for name, measured in repeat_in_turns(calls, repeats).items()}


def repeat_in_turns(
    calls: Mapping[str, Callable[[], object]],
    repeats: int = 5,
    failures: dict[str, str] | None = None,
    keep: Callable[[dict[str, list[float]]], object] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each call. The calls take turns, so that a slow moment of the machine strikes all alike.

    Args:
        calls: what to time, by name. Each is called once before, unmeasured.
        repeats: how often each is measured.
        failures: if given, a call that raises is not repeated, and the reason is stored here.
        keep: called with the seconds so far after each measured turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name in list(seconds):
            with _noting(failures, name):
                start = time.perf_counter()
                calls[name]()
                if turn:
                    seconds[name].append(time.perf_counter() - start)
        seconds = {name: measured for name, measured in seconds.items() if name not in (failures or {})}
        if turn and keep is not None:
            keep(seconds)
    return seconds


def seconds(
    workload: Workload,
    repeats: int = 5,
    models: Sequence[str] = IMPLEMENTATIONS,
    failures: dict[str, str] | None = None,
    keep: Callable[[dict[str, list[float]]], object] | None = None,
) -> dict[str, list[float]]:
    """Seconds of every repeat of each model and of the floor, in turns. The Longformers have the same weights.

    Args:
        workload: the work.
        repeats: how often each is measured.
        models: names from `MODELS`, with a precision or without; see `Workload.model`.
        failures: as for `repeat_in_turns`.
        keep: as for `repeat_in_turns`.
    """
    built: dict[str, PreTrainedModel] = {}
    calls: dict[str, Callable[[], object]] = {}
    for name in models:
        with _noting(failures, name):
            built[name] = workload.model(name)
            calls[name] = partial(workload.run, built[name], workload.inputs(built[name]))
    if set(IMPLEMENTATIONS) <= calls.keys():
        theirs, ours = (built[name] for name in IMPLEMENTATIONS)
        ours.load_state_dict(theirs.state_dict())
    if calls:
        with _noting(failures, FLOOR):
            calls[FLOOR] = workload.floor()
    return repeat_in_turns(calls, repeats, failures, keep)


def profile(workload: Workload, name: str = "longformer_plus", most: int = 12) -> dict[str, float]:
    """The share of the device's time of each operation of a model in the work, the `most` largest."""
    model = workload.model(name)
    inputs = workload.inputs(model)
    workload.run(model, inputs)
    on_gpu = workload.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        workload.run(model, inputs)
    times = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiler.key_averages()
        if not on_gpu or event.device_type == DeviceType.CUDA
    }
    total = sum(times.values())
    return {name: times[name] / total for name in sorted(times, key=times.__getitem__, reverse=True)[:most]}


def memory(
    workload: Workload, models: Sequence[str] = IMPLEMENTATIONS, failures: dict[str, str] | None = None
) -> dict[str, int]:
    """Bytes that the work needs with each model beyond what the process held before, at its peak.

    On a CPU each is measured in a process of its own (Linux only); on a GPU the allocator counts in this one.

    Args:
        workload: the work.
        models: names from `MODELS`, with a precision or without; see `Workload.model`.
        failures: as for `repeat_in_turns`; a process that was killed is a failure too.
    """
    measured = {}
    context = get_context("forkserver") if workload.device == "cpu" else None
    if context is not None:
        context.set_forkserver_preload([__name__])  # so that each process starts with what this one has imported
    for name in models:
        with _noting(failures, name):
            if workload.device == "cuda":
                measured[name] = _memory_of(workload, name)
                torch.cuda.empty_cache()
                continue
            with ProcessPoolExecutor(1, mp_context=context, initializer=_kill_this_first) as pool:
                measured[name] = pool.submit(_memory_of, workload, name).result()
    return measured


def _kill_this_first() -> None:
    """If memory runs out, let Linux kill this process and not its parent."""
    Path("/proc/self/oom_score_adj").write_text("1000")


def _memory_of(workload: Workload, name: str) -> int:
    with silence():
        return _peak_of(workload, workload.model(name))


def _peak_of(workload: Workload, model: PreTrainedModel) -> int:
    inputs = workload.inputs(model)
    if workload.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        workload.run(model, inputs)
        return torch.cuda.max_memory_allocated() - held
    return peak_beyond(lambda: workload.run(model, inputs))


def peak_beyond(run: Callable[[], object]) -> int:
    """Bytes of the process's memory at the peak of a call beyond what was held before. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is held now
    held = _peak_bytes()
    run()
    return _peak_bytes() - held


def _peak_bytes() -> int:
    """Not by `getrusage`, whose peak starts at the size of the parent process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@contextmanager
def _noting(failures: dict[str, str] | None, name: str) -> Iterator[None]:
    """Store the reason of an error in `failures` and go on; raise it if `failures` is None."""
    try:
        yield
    except Exception as error:
        if failures is None:
            raise
        failures[name] = _reason(error)


def _reason(error: Exception) -> str:
    if isinstance(error, BrokenProcessPool):
        return "killed: the process ended without an answer, most likely for want of memory"
    first_line = _first_line(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return f"out of memory: {first_line}"
    because = ""
    if isinstance(error, torch.onnx.OnnxExporterError):  # it says only that it failed
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        because = f" ({type(cause).__name__}: {_first_line(cause)})"
    return f"{type(error).__name__}: {first_line}{because}"


def _first_line(error: BaseException) -> str:
    """Without the codes that colour it in a terminal."""
    return re.sub(r"\x1b\[[\d;]*m", "", (str(error).splitlines() or [""])[0])


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        workloads: the work, one point each.
        models: names from `MODELS`, with a precision or without; see `Workload.model`.
        repeats: how often each model's time is measured.
        limits: the most tokens of a document that a model is measured with; absent models have no limit.
        with_memory: measure memory too. It is measured first, so that what does not fit is not tried in this process.
        with_profile: profile the operations of longformer_plus, in each of its precisions.

    Raises:
        ValueError: a name is unknown, or this machine cannot do it.
    """

    workloads: Sequence[Workload]
    models: Sequence[str] = IMPLEMENTATIONS
    repeats: int = 5
    limits: Mapping[str, int] = field(default_factory=dict)
    with_memory: bool = True
    with_profile: bool = False

    def __post_init__(self) -> None:
        check_models(self.models)
        alone = {"work": "training", "device": "cuda"}  # what int8 and ONNX are not for
        if any(getattr(work, name) == value for work in self.workloads for name, value in alone.items()):
            for model in self.models:
                if model.endswith(":int8") or "_onnx" in model:
                    raise ValueError(f"{model} is for inference on a CPU: give work forward and device cpu.")
        check_names(self.limits, self.models, "limit")
        check_names((workload.backend for workload in self.workloads), ALL_ATTENTION_FUNCTIONS.valid_keys(), "backend")
        if self.repeats < 1:
            raise ValueError(f"repeats={self.repeats} is not allowed: it must be at least 1.")
        devices = {workload.device for workload in self.workloads}
        if "cuda" in devices and not torch.cuda.is_available():
            raise ValueError('device="cuda" is not possible: torch sees no CUDA device here. Use "cpu".')
        if self.with_memory and "cpu" in devices and not Path("/proc/self/clear_refs").exists():
            raise ValueError("Memory on a CPU can be measured on Linux only. Leave it out: --no-memory.")

    def models_of(self, workload: Workload) -> list[str]:
        """The models that are within their limits."""
        return [name for name in self.models if workload.num_tokens <= self.limits.get(name, workload.num_tokens)]

    def cost(self, workload: Workload) -> int:
        """How long the work takes, roughly: tokens times layers, training three times a forward, over all models."""
        passes = 3 if workload.work == "training" else 1
        return passes * sum(workload.lengths()) * (workload.num_layers or 12) * len(self.models_of(workload))

    def measure(self, workload: Workload, keep: Callable[[Point], object] | None = None) -> Point:
        """Measure memory, then time. What fails is noted in the point.

        Args:
            workload: the work.
            keep: called with the point so far after each turn.
        """
        failures: dict[str, str] = {}
        models = self.models_of(workload)
        peaks = memory(workload, models, failures) if self.with_memory else {}
        left = [name for name in models if name not in failures]
        point = partial(Point, workload, sum(workload.lengths()), memory=peaks, failures=failures)
        shares: dict[str, dict[str, float]] = {}
        with silence():
            keep_seconds = None if keep is None else lambda so_far: keep(point(seconds=so_far))
            measured = seconds(workload, self.repeats, left, failures, keep_seconds)
            for name in measured if self.with_profile else ():
                if name.partition(":")[0] == "longformer_plus":
                    with _noting(failures, f"profile of {name}"):
                        shares[name] = profile(workload, name)
        if workload.device == "cuda":
            torch.cuda.empty_cache()
        return point(seconds=measured, profile=shares)


def environment(device: str = "cpu") -> dict[str, str | int]:
    """What a measured number depends on: processor, threads, versions, date."""
    return {
        "processor": _processor(),
        "features": ", ".join(name for name, is_there in processor_features().items() if is_there) or "none",
        **({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "longformer_plus": __version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }


def circumstances() -> str:
    """One line with what a measured number depends on: processor, threads, versions, date."""
    return describe(environment())


def describe(environment: Mapping[str, str | int]) -> str:
    """One line of an `environment`."""
    parts = [str(environment[name]) for name in ("gpu", "processor") if name in environment]
    if "features" in environment:
        parts[-1] += f" (of VNNI, AVX512-BF16, AMX: {environment['features']})"
    versions = [f"{name} {environment[name]}" for name in ("torch", "transformers", "longformer_plus", "python")]
    return ", ".join([*parts, f"{environment['threads']} threads", *versions, str(environment["date"])])


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
