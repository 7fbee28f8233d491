"""Checks that run in several processes, all of one module in one start: starting takes longer than checking."""

from __future__ import annotations

import json
import socket
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist
from torch import multiprocessing as processes
from torch.distributed import ProcessGroup

# A name, and what is run in a group of the first processes.
Check = tuple[int, Callable[[ProcessGroup], None]]


def run(checks: Mapping[str, Check], size: int, folder: Path, backend: str = "gloo") -> dict[str, list[str]]:
    """Run checks in `size` processes, each with a GPU of its own where the backend is NCCL.

    Returns:
        What went wrong in each check, by process.
    """
    port = free_port()
    # What is imported is imported once, and the processes start with it.
    needed = [f"{__package__}.checks"]
    processes.get_context("forkserver").set_forkserver_preload(needed)
    processes.start_processes(
        _work, (dict(checks), size, port, folder, backend), nprocs=size, start_method="forkserver"
    )
    failures: dict[str, list[str]] = {name: [] for name in checks}
    for rank in range(size):
        for name, failure in json.loads((folder / f"{rank}.json").read_text()).items():
            failures[name].append(f"rank {rank}: {failure}")
    return failures


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _work(rank: int, checks: dict[str, Check], size: int, port: int, folder: Path, backend: str) -> None:
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    limit = timedelta(minutes=40)  # processes wait for those with more checks
    dist.init_process_group(backend, f"tcp://127.0.0.1:{port}", rank=rank, world_size=size, timeout=limit)
    failures = {}
    groups = {number: dist.new_group(range(number), timeout=limit) for number in range(1, size + 1)}
    for name, (number, check) in checks.items():
        if rank < number:
            try:
                check(groups[number])
            except Exception:
                failures[name] = traceback.format_exc()
    (folder / f"{rank}.json").write_text(json.dumps(failures))
    dist.barrier()
    dist.destroy_process_group()
