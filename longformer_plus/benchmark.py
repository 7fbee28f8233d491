"""Measuring models side by side: time in one process, in turns, medians; memory in a process for each."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
import transformers
from transformers import LongformerConfig, LongformerModel, PreTrainedModel

from .modeling import LongformerPlusModel

IMPLEMENTATIONS = ("transformers", "longformer_plus")
WORK = ("forward", "training")


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


@dataclass(frozen=True)
class Workload:
    """What is measured: base size with random weights, batch 1, float32, no dropout, the first token global.

    Attributes:
        num_tokens: length of the document.
        work: "forward" (without gradients) or "training" (forward and backward).
        window: the attention window, total width.
        num_layers: layers of the model.
        backend: the `attn_implementation` of LongformerPlus.

    Raises:
        ValueError: `work` is neither of the two.
    """

    num_tokens: int
    work: str
    window: int = 512
    num_layers: int = 12
    backend: str = "sdpa"

    def __post_init__(self) -> None:
        if self.work not in WORK:
            raise ValueError(f"work={self.work!r} is not allowed: it must be one of {', '.join(map(repr, WORK))}.")

    def model(self, implementation: str) -> PreTrainedModel:
        """A model of "transformers" or "longformer_plus", ready for the work."""
        config = LongformerConfig(
            vocab_size=50265,
            type_vocab_size=1,
            max_position_embeddings=self.num_tokens + 2,
            attention_window=self.window,
            num_hidden_layers=self.num_layers,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        if implementation == "transformers":
            return LongformerModel(config).train(self.work == "training")
        ours = LongformerPlusModel._from_config(config, attn_implementation=self.backend)
        return ours.train(self.work == "training")

    def run(self, model: PreTrainedModel) -> None:
        """Do the work once."""
        ids = torch.full((1, self.num_tokens), 3)
        is_global = torch.zeros_like(ids)
        is_global[:, 0] = 1
        with torch.set_grad_enabled(self.work == "training"):
            state = model(ids, global_attention_mask=is_global).last_hidden_state
            if self.work == "training":
                model.zero_grad()
                state.square().mean().backward()


def seconds(workload: Workload, repeats: int = 5) -> dict[str, float]:
    """Median seconds of each of `IMPLEMENTATIONS`, with the same weights, in turns."""
    models = {name: workload.model(name) for name in IMPLEMENTATIONS}
    models["longformer_plus"].load_state_dict(models["transformers"].state_dict())
    return time_in_turns({name: partial(workload.run, model) for name, model in models.items()}, repeats)


def memory(workload: Workload) -> dict[str, int]:
    """Bytes that the work of each of `IMPLEMENTATIONS` needs beyond what the process held before, at its peak.

    Each is measured in a process of its own. Linux only.
    """
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return {name: pool.apply(_memory_of, (workload, name)) for name in IMPLEMENTATIONS}


def _memory_of(workload: Workload, implementation: str) -> int:
    model = workload.model(implementation)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is held now
    before = _peak_bytes()
    workload.run(model)
    return _peak_bytes() - before


def _peak_bytes() -> int:
    """Not `getrusage`: what that reports begins at the size of the process that started this one."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def circumstances() -> str:
    """One line with what a measured number depends on: processor, threads, versions, date."""
    return (
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, {date.today().isoformat()}"
    )
