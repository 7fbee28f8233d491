"""Training on long stretches of novels: one process, several that share each document, and several that are killed.

python docs/results/context_parallel/train_novels.py --data novels.jsonl.xz --folder /tmp/novels --output novels.json

The checkpoint of the package gets positions for the length by `longformer-plus extend`, and is trained with the same
seed three times by `longformer-plus train`: in one process; with `--context-parallel`; and with `--context-parallel`,
killed after a step and resumed. Compared are the losses of all steps, and the weights at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file
from torch import Tensor

from longformer_plus.shipped import shipped_checkpoint

_COMMAND = "longformer_plus.cli"
# The softmax does not see it: its gradient is zero but for rounding, from which AdamW makes steps of full size.
_WITHOUT_GRADIENT = (".key.bias", ".key_global.bias")


def main() -> None:
    """Run what has not been run yet, compare, and print and write what was found."""
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    extended = options.folder / "extended"
    if not extended.exists():
        words = ["extend", shipped_checkpoint(), extended, "--max-length", options.tokens]
        subprocess.run(_command(1, words), check=True)  # noqa: S603
    runs = {
        name: _run(options, name, size, killed)
        for name, size, killed in (("one", 1, False), ("shared", options.processes, False), ("killed", 0, True))
    }
    found = {
        "tokens": options.tokens,
        "processes": options.processes,
        "threads_of_all_processes": options.threads,
        "killed_after_step": options.kill_after,
        "checkpoint_every": options.save_every,
        "torch": torch.__version__,
        "runs": runs,
        "shared_against_one": _compare(options.folder, runs, "shared", "one"),
        "killed_against_shared": _compare(options.folder, runs, "killed", "shared"),
    }
    print(json.dumps(found, indent=2))
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="files of novels, as `longformer-plus train` reads")
    parser.add_argument("--folder", type=Path, required=True, help="for the runs; what is in it is not run again")
    parser.add_argument("--output", type=Path, help="the file of the numbers")
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=4, help="of all processes together")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--kill-after", type=int, default=10, help="the step after which all processes are killed")
    parser.add_argument("--save-every", type=int, default=4)
    return parser.parse_args()


def _run(options: argparse.Namespace, name: str, size: int, killed: bool) -> dict[str, Any]:
    """Train in a folder of that name, and what it took; from its file where it has been run."""
    recorded = options.folder / f"{name}.json"
    if recorded.is_file():
        return json.loads(recorded.read_text())
    output = options.folder / name
    shutil.rmtree(output, ignore_errors=True)
    size = size or options.processes
    words = ["train", "--task", "fill-mask", "--model", options.folder / "extended", "--train", *options.data]
    words += ["--output", output, "--max-length", options.tokens, "--max-steps", options.steps, "--batch", 1]
    words += ["--log-every", 1, "--save-every", options.save_every, "--keep", 9, "--precision", "float32"]
    words += ["--context-parallel", size]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(options.threads // size, 1)), "CUDA_VISIBLE_DEVICES": ""}
    start, before = time.monotonic(), _seconds_of_children()
    if killed:
        _kill_after(_command(size, words), environment, options.kill_after, options.folder / "killed.log")
        words.append("--resume")
    with open(options.folder / f"{name}.log", "a") as log:
        subprocess.run(_command(size, words), check=True, env=environment, stdout=log, stderr=log)  # noqa: S603
    state = json.loads((output / "trainer_state.json").read_text())
    found = {
        "losses": [entry["loss"] for entry in state["log_history"] if "loss" in entry],
        "minutes": (time.monotonic() - start) / 60,
        "processor_minutes": (_seconds_of_children() - before) / 60,
    }
    recorded.write_text(json.dumps(found, indent=2) + "\n")
    return found


def _command(size: int, words: list[Any]) -> list[str]:
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", size, "-m"] if size > 1 else []
    return [sys.executable, "-m", *map(str, [*launch, _COMMAND, *words])]


def _seconds_of_children() -> float:
    """Processor time of all processes that have ended; those that are killed by others are not counted."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _kill_after(command: list[str], environment: dict[str, str], step: int, log: Path) -> None:
    """Start a run, and kill all of its processes, its launcher too, as soon as it reports a step."""
    with open(log, "w") as file:
        run = subprocess.Popen(command, env=environment, stdout=file, stderr=file)  # noqa: S603
    while not re.search(rf"step {step} of", log.read_text()):
        if run.poll() is not None:
            raise RuntimeError(f"The run ended before step {step}: see {log}.")
        time.sleep(0.2)
    for process in [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]:
        process.kill()
    run.wait()


def _compare(folder: Path, runs: Mapping[str, Mapping[str, Any]], one: str, other: str) -> dict[str, float]:
    """The largest differences between two runs."""
    losses = zip(runs[one]["losses"], runs[other]["losses"], strict=True)
    mine, yours, start = (load_file(folder / name / "model.safetensors") for name in (one, other, "extended"))
    return {
        "largest_difference_of_losses": max(abs(here - there) for here, there in losses),
        "largest_difference_of_weights": _largest_difference(mine, yours),
        "largest_change_of_weights_by_training": _largest_difference(yours, start),
    }


def _largest_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    names = [name for name in one if not name.endswith(_WITHOUT_GRADIENT)]
    return max(float((one[name] - other[name]).abs().max()) for name in names)


if __name__ == "__main__":
    main()
