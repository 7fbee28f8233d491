"""Processes that end, or hang, while others share a document with them."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as processes

from longformer_plus.integrations.context_parallel import exchange, split_sequence

from .checks import small_batch, small_model
from .processes import free_port

SIZE, LOST = 4, 2


def _lose(way: str, *_: Any) -> None:
    if way.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def _work(rank: int, port: int, way: str, folder: Path) -> None:
    """Two steps, in the second of which one process is lost before its second layer."""
    torch.set_num_threads(1)
    limit = timedelta(seconds=30)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=SIZE, timeout=limit)
    model, batch = small_model(), small_batch()
    layer = model.longformer.encoder.layer[1]
    for number in range(2):
        if rank == LOST and number:
            if way.endswith("backward"):
                layer.register_full_backward_pre_hook(lambda *_: _lose(way))
            else:
                layer.register_forward_pre_hook(lambda *_: _lose(way))
        try:
            with split_sequence(model, dist.group.WORLD):  # type: ignore[arg-type]
                loss = model(**batch).loss
            loss.backward()
        except RuntimeError as error:
            (folder / f"{rank}").write_text(f"step {number}: {error}")
    # The first process keeps the store that the others report to.
    time.sleep(5)
    os._exit(0)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["killed in the forward", "killed in the backward", "hangs in the forward"])
def test_a_process_that_is_lost_is_named_by_all_others(way: str, tmp_path: Path) -> None:
    port = free_port()
    start = processes.get_context("forkserver")
    workers = [start.Process(target=_work, args=(rank, port, way, tmp_path)) for rank in range(SIZE)]
    for worker in workers:
        worker.start()
    others = [rank for rank in range(SIZE) if rank != LOST]
    for rank in others:
        workers[rank].join(120)
    workers[LOST].kill()
    for rank in others:
        expected = f"step 1: Rank {rank} of the {SIZE} processes that share a document waited in vain for rank {LOST}:"
        assert (tmp_path / f"{rank}").read_text().startswith(expected)


def test_it_is_not_named_where_there_is_no_way_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store of the processes is not public."""
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        group: Any = dist.group.WORLD

        def failure() -> str:
            with pytest.raises(RuntimeError) as raised, exchange._named_failures(group):
                raise RuntimeError("connection closed")
            return str(raised.value)

        assert failure().startswith("Rank 0 of the 1 processes that share a document waited in vain for another one:")
        monkeypatch.delattr(dist.distributed_c10d, "_get_default_store")
        assert "for another one: it has ended, or is slower" in failure()
        assert failure().endswith("The failure was: connection closed")
    finally:
        dist.destroy_process_group()
