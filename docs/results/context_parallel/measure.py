"""What one document over several processes takes: a training step of the checkpoint of the package, on this machine.

python docs/results/context_parallel/measure.py --tokens 16384 65536 --processes 1 4 --output measured.json

Each process has one thread. Random ids, masked language modelling of 15% of the tokens, one global token.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import distributed as dist
from torch import multiprocessing as processes
from torch.utils.flop_counter import FlopCounterMode

from longformer_plus import LongformerPlusForMaskedLM
from longformer_plus.benchmark.measuring import peak_beyond
from longformer_plus.integrations.context_parallel import average_gradients, split_sequence
from longformer_plus.shipped import shipped_checkpoint


def main() -> None:
    """Measure every length with every number of processes, and print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[16384, 65536])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--count-operations", action="store_true", help="with the products of torch's own library")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found = []
    for tokens in options.tokens:
        for size in options.processes:
            found.append(measure(tokens, size, options.count_operations))
            print(json.dumps(found[-1]), flush=True)
            if options.output is not None:
                options.output.write_text(json.dumps(found, indent=2) + "\n")


def measure(tokens: int, size: int, counts: bool) -> dict[str, Any]:
    """A training step of so many tokens over so many processes, the largest number of any process each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = processes.get_context("spawn").SimpleQueue()
    processes.start_processes(_work, (tokens, size, port, counts, queue), nprocs=size, start_method="spawn")
    each = [queue.get() for _ in range(size)]
    most = {name: max(one[name] for one in each) for name in each[0]}
    return {"tokens": tokens, "processes": size, **most, "torch": torch.__version__, "cores": os.cpu_count()}


def _work(rank: int, tokens: int, size: int, port: int, counts: bool, queue: Any) -> None:
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = not counts  # whose products the counter does not know
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    model = LongformerPlusForMaskedLM.from_pretrained(shipped_checkpoint())
    model.resize_position_embeddings(tokens + 2)
    model.config.sparse_prediction = True
    model.train()
    torch.manual_seed(0)
    ids = torch.randint(5, model.config.vocab_size, (1, tokens))
    labels = torch.where(torch.rand(1, tokens) < 0.15, ids, -100)
    is_global = torch.zeros_like(ids)
    is_global[:, 0] = 1
    batch = {"input_ids": ids, "global_attention_mask": is_global, "labels": labels}
    found: dict[str, float] = {}

    def step() -> None:
        start = time.perf_counter()
        if size == 1:
            loss = model(**batch).loss
            loss.backward()
        else:
            with split_sequence(model, dist.group.WORLD):
                loss = model(**batch).loss
            loss.backward()
            average_gradients(model, dist.group.WORLD)
        found["seconds"] = time.perf_counter() - start
        found["loss"] = float(loss.detach())

    with mock.patch.object(dist, "all_to_all_single", wraps=dist.all_to_all_single) as calls:
        if counts:
            with FlopCounterMode(display=False) as counter:
                step()
            found["operations"] = counter.get_total_flops()
        else:
            found["peak_bytes"] = peak_beyond(step)
    sent = [_bytes_to_others(*call.args[1:4:2], rank) for call in calls.call_args_list]
    found["bytes_sent_per_layer_forward_and_backward"] = sum(sent) / model.config.num_hidden_layers
    queue.put(found)
    dist.barrier()
    dist.destroy_process_group()


def _bytes_to_others(rows: torch.Tensor, sends: list[int], rank: int) -> int:
    return (sum(sends) - sends[rank]) * (rows[0].numel() if len(rows) else 0) * rows.element_size()


if __name__ == "__main__":
    main()
