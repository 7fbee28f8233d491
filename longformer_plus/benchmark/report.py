"""Benchmark results: recorded as JSON, printed as a table, drawn as curves."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from tqdm.auto import tqdm

from .measuring import FLOOR, Plan, Point, describe, environment
from .workloads import Workload

PLOT_FORMATS = (".svg", ".png")

# The fields of a workload that affect only some models. All other fields affect every model.
_ONLY_FOR = {
    "window": ("transformers", "longformer_plus"),
    "num_global": ("transformers", "longformer_plus"),
    "backend": ("longformer_plus",),
}


@dataclass
class Recording:
    """The points of one run and the circumstances they were measured in.

    Attributes:
        circumstances: see `benchmark.environment`; and the command line.
        models: the names of what was measured side by side.
        repeats: how often each was measured.
        points: what was measured so far.
    """

    circumstances: dict[str, Any]
    models: list[str]
    repeats: int
    points: list[Point] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write JSON atomically: the file is complete whenever this process is killed."""
        unfinished = path.with_name(path.name + ".part")
        unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n")
        os.replace(unfinished, path)

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what `save` has written.

        Raises:
            OSError: there is no such file.
            ValueError: it holds something else.
        """
        try:
            content = json.loads(path.read_text())
            points = [Point(**{**point, "workload": Workload(**point["workload"])}) for point in content.pop("points")]
            return cls(**content, points=points)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a recording of `longformer-plus bench --json`: {error!r}.") from error


def record(plan: Plan, command: str = "", path: Path | None = None) -> Recording:
    """Measure a plan: a row in the terminal after each point, and what was measured in the file after each turn.

    Args:
        plan: what to measure.
        command: the command line, to be recorded.
        path: the JSON file, if any.

    Raises:
        OSError: the file cannot be written.
        ValueError: there is such a file already.
    """
    if path is not None and path.exists():
        raise ValueError(f"{path} exists already. Name another file, or remove it.")
    device = plan.workloads[0].device
    recording = Recording({**environment(device), "command": command}, list(plan.models), plan.repeats)
    if path is not None:
        recording.save(path)  # what cannot be written fails before hours of measuring

    def keep(begun: Point) -> None:
        if path is not None:
            replace(recording, points=[*recording.points, begun]).save(path)

    print(_aligned(headings(recording)), flush=True)
    costs = [plan.cost(workload) for workload in plan.workloads]
    bar = "{percentage:3.0f}% |{bar:20}| {elapsed} so far, about {remaining} to go; now {desc}"
    with tqdm(total=sum(costs), bar_format=bar, smoothing=0, disable=None) as progress:
        for workload, cost in zip(plan.workloads, costs, strict=True):
            progress.set_description_str(f"{workload.work}, {workload.num_tokens} tokens, window {workload.window}")
            recording.points.append(plan.measure(workload, keep))
            if path is not None:
                recording.save(path)
            with progress.external_write_mode():
                print(_aligned(cells(recording.points[-1], recording.models)), flush=True)
                if recording.points[-1].profile:
                    print(profile(recording.points[-1]), flush=True)
            progress.update(cost)
    print(notes(recording), flush=True)
    return recording


def headings(recording: Recording) -> list[str]:
    """The columns of the table; see `cells`."""
    models = [title for name in recording.models for title in (name, "tokens/s")]
    return ["work", "tokens", "window", "backend", *models, "faster", "memory", "of floor"]


def cells(point: Point, models: Sequence[str]) -> list[str]:
    """A row of the table.

    "tokens/s" are valid tokens, "faster" is transformers' median time over that of longformer_plus, "memory" the share
    of memory the other way round, "of floor" the time of longformer_plus over that of its linear layers alone.
    """
    theirs, ours, floor = (point.median(name) for name in ("transformers", "longformer_plus", FLOOR))
    peaks = [point.memory.get(name) for name in ("transformers", "longformer_plus")]
    work = point.workload
    return [
        work.work,
        str(work.num_tokens),
        str(work.window),
        work.backend,
        *(cell for name in models for cell in _model_cells(point, name)),
        f"{theirs / ours:.2f}x" if theirs and ours else "-",
        f"{peaks[1] / peaks[0]:.2f}" if peaks[0] and peaks[1] is not None else "-",
        f"{ours / floor:.2f}x" if ours and floor else "-",
    ]


def _model_cells(point: Point, name: str) -> tuple[str, str]:
    if name in point.failures:
        return point.failures[name].partition(":")[0], "-"
    seconds = point.median(name)
    if seconds is None:
        return "-", "-"
    time = f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1e3:.1f} ms"
    memory = f", {point.memory[name] / 2**30:.2f} GiB" if name in point.memory else ""
    return time + memory, f"{point.num_valid / seconds:.0f}"


def profile(point: Point) -> str:
    """The operations of each model that was profiled by share of its time, the largest first; a line for each."""
    lines = []
    for model, shares in point.profile.items():
        operations = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)
        lines.append(f"  {model}: {operations}")
    return "\n".join(lines)


def _aligned(row: Sequence[str]) -> str:
    """Widths are fixed: rows are printed as they are measured."""
    num_models = (len(row) - 7) // 2
    widths = [8, 7, 6, 7, *[19, 8] * num_models, 8, 7, 9]
    first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return " ".join([first.strip().ljust(widths[0]), *others])


def table(recording: Recording) -> str:
    """The table as text, aligned, and its notes."""
    rows = [headings(recording), *(cells(point, recording.models) for point in recording.points)]
    return "\n".join([*map(_aligned, rows), notes(recording)])


def markdown(recording: Recording) -> str:
    """The table in Markdown, and its notes."""
    titles = headings(recording)
    rows = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    rows += [cells(point, recording.models) for point in recording.points]
    return "\n".join([*("| " + " | ".join(row) + " |" for row in rows), "", notes(recording)])


def notes(recording: Recording) -> str:
    """What failed and why, then all that the numbers depend on."""
    lines = [
        f"{name}, {point.workload.work}, {point.workload.num_tokens} tokens: {reason}"
        for point in recording.points
        for name, reason in point.failures.items()
    ]
    lines += [line for point in recording.points for line in _ratios(point)]
    if recording.points:
        work = recording.points[0].workload
        layers = f"{work.num_layers} layers" if work.num_layers else "12 layers (ModernBERT 22)"
        lengths = " of mixed lengths" if work.mixed else ""
        batches = sorted({point.workload.batch_size for point in recording.points})
        batch = f"{batches[0]}" if len(batches) == 1 else f"{batches[0]} to {batches[-1]}"
        memory = "; memory is the peak beyond what was held before, in a process for each"
        lines.append(
            f"base size, {layers}, batch {batch}{lengths}, {work.dtype}, dropout {work.dropout}, "
            f"global tokens {work.num_global}; medians of {recording.repeats} in turns"
            f"{memory if any(point.memory for point in recording.points) else ''}; {describe(recording.circumstances)}"
        )
    return "\n".join(lines)


def _ratios(point: Point) -> list[str]:
    """How much faster models in another precision or as graphs are, each in a line."""
    lines = []
    for name in point.seconds:
        own = point.median(name)
        if not own or not (":" in name or "_onnx" in name):
            continue
        times = {other: point.median(other) for other in ("longformer_plus", "transformers")}
        ratios = [f"{time / own:.2f}x {other}" for other, time in times.items() if time]
        if ratios:
            lines.append(f"{name}, {point.workload.num_tokens} tokens: {', '.join(ratios)}")
    return lines


def check_plot(path: Path) -> None:
    """Check, before hours of measuring, that the plot can be drawn afterwards.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: the file's name ends in none of `PLOT_FORMATS`, or its folder does not exist.
    """
    if path.suffix not in PLOT_FORMATS:
        raise ValueError(f"{path} is no plot's name: it must end in {' or '.join(PLOT_FORMATS)}.")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is not a folder. Name a file in one that exists.")
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("Plots need matplotlib: pip install 'longformer-plus[bench]'.")


def plot(recordings: Sequence[Recording], path: Path) -> None:
    """Draw the time per valid token against the length, a curve for each model and setting that was varied.

    Args:
        recordings: what was measured; all of it is drawn into one picture.
        path: the file, .svg or .png.

    Raises:
        ModuleNotFoundError, ValueError: see `check_plot`; or nothing was measured.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    points = [point for recording in recordings for point in recording.points if point.seconds]
    if not points:
        raise ValueError("Nothing to draw: no time was measured.")
    works = list(dict.fromkeys(point.workload.work for point in points))
    varied = _varied(points)
    curves = {work: _curves([point for point in points if point.workload.work == work], varied) for work in works}
    labels = list(dict.fromkeys(label for each in curves.values() for label in each))
    figure = Figure(figsize=(5 * len(works) + 3, 4.5), layout="constrained")
    drawn = {}
    for axes, work in zip(figure.subplots(1, len(works), squeeze=False)[0], works, strict=True):
        for label, curve in curves[work].items():
            color = "grey" if label.startswith(FLOOR) else f"C{labels.index(label)}"
            style = "--" if label.startswith(FLOOR) else "o-"
            (drawn[label],) = axes.plot(*zip(*sorted(curve.items()), strict=True), style, color=color)
        ticks = sorted({num_tokens for curve in curves[work].values() for num_tokens in curve})
        axes.set(title=work, xlabel="tokens of a document", ylabel="microseconds per token", xscale="log", yscale="log")
        axes.set_xticks(ticks, map(str, ticks), rotation=45)
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
    figure.legend([drawn[label] for label in labels], labels, loc="outside right upper", fontsize="small")
    figure.savefig(path)


def _curves(points: Iterable[Point], varied: Iterable[str]) -> dict[str, dict[int, float]]:
    """Microseconds per valid token by number of tokens, for each label; points with the same label are pooled."""
    measured: dict[tuple[str, int], list[float]] = defaultdict(list)
    for point in points:
        for model, seconds in point.seconds.items():
            settings = [_setting(point.workload, name) for name in varied if _has(model, name)]
            label = ", ".join([model, *settings])
            measured[label, point.workload.num_tokens] += [1e6 * second / point.num_valid for second in seconds]
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for (label, num_tokens), times in measured.items():
        curves[label][num_tokens] = median(times)
    return curves


def _has(model: str, name: str) -> bool:
    """Whether a field of a workload affects a model."""
    return name not in _ONLY_FOR or model.partition(":")[0].removesuffix("_onnx") in _ONLY_FOR[name]


def _varied(points: Sequence[Point]) -> list[str]:
    """The fields in which the points' workloads differ, besides length and work."""
    names = [each.name for each in fields(Workload) if each.name not in ("num_tokens", "work")]
    return [name for name in names if len({getattr(point.workload, name) for point in points}) > 1]


def _setting(workload: Workload, name: str) -> str:
    value = getattr(workload, name)
    return value if isinstance(value, str) else f"{name.replace('_', ' ')} {value}"
