"""The tab Speed: time and memory of the backends and of transformers' Longformer on this machine, measured while one
looks."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from typing import Any

import gradio as gr

from longformer_plus.attention import ALL_ATTENTION_FUNCTIONS
from longformer_plus.benchmark.backends import reason_against_forward
from longformer_plus.benchmark.measuring import Plan, Point, circumstances
from longformer_plus.benchmark.workloads import Workload

from .inputs import InputError
from .viewer import viewer
from .visitors import stamped, told

THEIRS = "transformers"
FLEX = "flex_attention"
LENGTHS = (256, 512, 1024, 2048, 4096)
LAYERS = 2
REPEATS = 3
# One at a time: two measurements at once would measure one another.
_MEASURING = threading.Lock()


def contenders() -> list[str]:
    """The backends that are there, and transformers' Longformer."""
    wanted = ("eager", "sdpa", FLEX)
    return [*(name for name in wanted if name in ALL_ATTENTION_FUNCTIONS.valid_keys()), THEIRS]


def measure(names: list[str], longest: int, with_memory: bool) -> Generator[dict[str, Any], None, None]:
    """Measure, shortest first, and give the curves after every point.

    Args:
        names: of `contenders`.
        longest: tokens.
        with_memory: memory too, each in a process of its own, which takes longer.

    Raises:
        InputError: nothing to measure is chosen, or someone else is measuring.
    """
    chosen = [name for name in contenders() if name in names]
    lengths = [length for length in LENGTHS if length <= longest]
    if not chosen or not lengths:
        raise InputError("Choose at least one implementation.")
    if not _MEASURING.acquire(blocking=False):
        raise InputError("Another visitor is measuring: two at once would disturb one another. Try again in a minute.")
    try:
        notes: list[str] = []
        if FLEX in chosen:
            yield _view({}, notes, 0.0, f"compiling {FLEX}, the first time for tens of seconds on a CPU")
            if reason := reason_against_forward(FLEX):
                chosen.remove(FLEX)
                notes.append(f"{FLEX} cannot run here and is left out: {reason}. sdpa would do its work.")
        curves: dict[str, list[list[float | None]]] = {name: [] for name in chosen}
        steps = [(length, name) for length in lengths for name in chosen]
        for done, (length, name) in enumerate(steps):
            slowly = ", compiled for it first" if name == FLEX else ""
            yield _view(curves, notes, done / len(steps), f"measuring {name} at {length:,} tokens{slowly}")
            point = _measure_one(name, length, with_memory)
            seconds, memory = point.median(_model(name)), point.memory.get(_model(name))
            curves[name].append([length, seconds, None if memory is None else memory / 2**20])
            notes += [f"{name} failed at {length:,} tokens: {reason}" for reason in point.failures.values()]
        yield _view(curves, notes, 1.0, "done")
    finally:
        _MEASURING.release()


def _model(name: str) -> str:
    return THEIRS if name == THEIRS else "longformer_plus"


def _measure_one(name: str, length: int, with_memory: bool) -> Point:
    backend = "sdpa" if name == THEIRS else name
    workload = Workload(length, "forward", num_layers=LAYERS, backend=backend)
    return Plan([workload], [_model(name)], REPEATS, with_memory=with_memory).measure(workload)


def _view(curves: dict[str, list[list[float | None]]], notes: list[str], share: float, doing: str) -> dict[str, Any]:
    return {
        "curves": curves,
        "notes": list(notes),
        "share": share,
        "doing": doing,
        "where": f"Forward of {LAYERS} base-size layers, window 512, one global token, batch 1, float32, medians of "
        f"{REPEATS}. {circumstances()}",
    }


def speed_tab() -> None:
    """The tab's components and what they do."""
    gr.Markdown("Random weights: time and memory do not depend on what a model has learnt.")
    with gr.Row():
        names = gr.CheckboxGroup(
            contenders(),
            value=[name for name in contenders() if name != FLEX],
            label="Measured",
            info=f"{FLEX} is compiled before it is measured: on a CPU that takes tens of seconds the first time.",
            elem_id="speed-names",
        )
        longest = gr.Dropdown(list(LENGTHS), value=2048, label="Up to, in tokens")
        with_memory = gr.Checkbox(False, label="Memory too", info="Each in a process of its own: takes longer.")
    with gr.Row():
        start = gr.Button("Measure", variant="primary", elem_id="speed-run")
        stop = gr.Button("Stop", variant="stop", elem_id="speed-stop")
    shown = viewer("curves", "speed-shown")

    def on_start(names: list[str], longest: int, with_memory: bool) -> Iterator[dict[str, Any]]:
        views = measure(names, longest, with_memory)
        try:
            while (view := told(lambda: next(views, None))) is not None:
                yield stamped(view)
        finally:
            views.close()

    running = start.click(
        on_start,
        [names, longest, with_memory],
        shown,
        concurrency_limit=2,
        show_progress="hidden",
        api_visibility="private",
    )
    stop.click(lambda: stamped({"stopped": True}), None, shown, cancels=[running], api_visibility="private")
