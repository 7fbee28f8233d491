"""What a training run says: its progress, and a plot of its losses."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments

# What every evaluation says and few want to read while they wait.
_LEFT_OUT = ("runtime", "samples_per_second", "steps_per_second", "tokens_per_second", "num_input_tokens_seen", "epoch")


class Progress(ProgressCallback):
    """transformers' progress bar, with a readable line for each report: loss, tokens/s and the time left."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the bar and the clock."""
        super().on_train_begin(args, state, control, **kwargs)
        self._start = time.monotonic(), state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line above the bar."""
        if not state.is_world_process_zero or self.training_bar is None or logs is None:
            return
        if "loss" in logs:
            self.training_bar.write(self._training_line(state, logs))
        elif any(name.startswith("eval_") for name in logs):
            self.training_bar.write(f"step {state.global_step}: evaluation: {scores_line(logs)}")

    def _training_line(self, state: TrainerState, logs: Mapping[str, Any]) -> str:
        since, first = self._start
        done = max(state.global_step - first, 1)
        left = (time.monotonic() - since) / done * (state.max_steps - state.global_step)
        parts = [f"step {state.global_step} of {state.max_steps}: loss {float(logs['loss']):.4f}"]
        if "train_tokens_per_second" in logs:
            parts.append(f"{float(logs['train_tokens_per_second']):,.0f} tokens/s")
        parts.append(f"{duration(left)} left")
        return ", ".join(parts)


def scores_line(metrics: Mapping[str, Any]) -> str:
    """The scores among what an evaluation gives, on a line."""
    scores = {name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")}
    kept = {name: value for name, value in scores.items() if name not in _LEFT_OUT}
    return ", ".join(f"{name.replace('_', ' ')} {float(value):.4g}" for name, value in kept.items())


def check_trackers(names: Iterable[str]) -> None:
    """See that a run can be reported to trackers.

    Args:
        names: as in `report_to` of `TrainingArguments`.

    Raises:
        ModuleNotFoundError: the library of one is not installed.
        ValueError: there is no such tracker.
    """
    from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise ValueError(f"report_to={name!r} is not allowed: it must be some of {known}.")
        if name not in get_available_reporting_integrations():
            library = name.replace("_", "-")
            raise ModuleNotFoundError(f"The library of {name} is not installed: pip install {library}.", name=name)


def duration(seconds: float) -> str:
    """Seconds for people: "45 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def plot_losses(history: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Draw the losses of `trainer.state.log_history` into a file: training, and evaluation where there is some."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(7, 4), layout="constrained")).add_subplot()
    for name, label, style in (("loss", "training", "-"), ("eval_loss", "evaluation", "o-")):
        points = [(entry["step"], float(entry[name])) for entry in history if name in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def is_first_process() -> bool:
    """Whether this is the process of several that speaks and writes."""
    return int(os.environ.get("RANK", 0)) == 0


def say(text: str) -> None:
    """Print a line, once where there are several processes."""
    if is_first_process():
        print(text, flush=True)
