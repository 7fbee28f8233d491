"""What pays on a CPU: threads, bfloat16, int8 and torch.compile, beside float32. One process, in turns, medians.

python docs/results/benchmarks/cpu_choices.py RESULT.json

Base size with fewer layers, random weights, one global token. What fails is noted, and left out from there on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from longformer_plus.benchmark.measuring import environment, repeat_in_turns
from longformer_plus.benchmark.workloads import Workload
from longformer_plus.ops.int8 import onednn_is_exact

WAYS = ("float32", "bfloat16", "int8", "compiled")


def main() -> None:
    """Measure and write, after each length."""
    parser = argparse.ArgumentParser()
    parser.add_argument("result", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    result = {**environment(), "int8 on oneDNN": onednn_is_exact(), "layers": options.layers, "rows": []}
    for length in options.lengths:
        workload = Workload(length, "forward", num_layers=options.layers)
        calls = {way: call_of(workload, way) for way in options.ways}
        for threads in options.threads:
            torch.set_num_threads(threads)
            failures: dict[str, str] = {}
            first = first_calls(calls, failures)
            seconds = repeat_in_turns({way: calls[way] for way in first}, options.repeats, failures)
            row = {
                "tokens": length,
                "threads": threads,
                "median seconds": {way: statistics.median(times) for way, times in seconds.items()},
                "seconds of the first call": first,
                "failures": failures,
            }
            result["rows"].append(row)
            print(row, flush=True)
            options.result.write_text(json.dumps(result, indent=1) + "\n")


def call_of(workload: Workload, way: str) -> Callable[[], None]:
    """A forward of the package's model in one of `WAYS`."""
    model = workload.model("longformer_plus" if way in ("float32", "compiled") else f"longformer_plus:{way}")
    inputs = workload.inputs(model)
    runnable: Callable[..., object] | PreTrainedModel = torch.compile(model) if way == "compiled" else model
    return partial(workload.run, runnable, inputs)  # type: ignore[arg-type]


def first_calls(calls: dict[str, Callable[[], None]], failures: dict[str, str]) -> dict[str, float]:
    """Seconds of the first call of each, in which torch.compile compiles."""
    seconds = {}
    for way, call in calls.items():
        start = time.perf_counter()
        try:
            call()
        except Exception as error:
            failures[way] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        else:
            seconds[way] = time.perf_counter() - start
    return seconds


if __name__ == "__main__":
    main()
