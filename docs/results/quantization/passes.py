"""What int8 costs around its products: rounding, steps and biases, activation, residual.

python docs/results/quantization/passes.py RESULT.json

A layer of base size with random weights, one global token, without gradients. The products are replaced by tensors of
their shape that are there already, so that the rest of the time is seen on every processor. With `--with-products` the
operator multiplies, also where its sums overflow: the times are those of exact products, the numbers are not. Times are
of one thread on the processor, in turns: what other programs take is not in them.
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
from torch import Tensor
from torch.nn import functional as F

from longformer_plus.benchmark.measuring import environment
from longformer_plus.benchmark.workloads import Workload
from longformer_plus.model.layers import LongformerPlusLayer
from longformer_plus.ops import int8, quantize_once
from longformer_plus.ops.chunking import chunk_size


def main() -> None:
    """Measure and write, after each length."""
    parser = argparse.ArgumentParser()
    parser.add_argument("result", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--with-products", action="store_true")
    parser.add_argument("--float32-attention", action="store_true", help="also where the processor has bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    int8.onednn_is_exact = lambda: True
    int8.multiplies_bfloat16 = lambda: not options.float32_attention
    if not options.with_products:
        int8._multiply = Products()
    result = {**environment(), "products": options.with_products, "milliseconds": {}}
    for length in options.lengths:
        with torch.no_grad():
            seconds = in_turns(parts(length), options.repeats)
        result["milliseconds"][length] = {
            name: {"median": round(1e3 * statistics.median(times), 2), "least": round(1e3 * min(times), 2)}
            for name, times in seconds.items()
        }
        print(length, result["milliseconds"][length], flush=True)
        options.result.write_text(json.dumps(result, indent=1) + "\n")


def in_turns(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of the processor for each call; the first turn is not measured."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.thread_time()
            call()
            if turn:
                seconds[name].append(time.thread_time() - start)
    return seconds


class Products:
    """In place of the operator: the same tensor for each shape."""

    def __init__(self) -> None:
        self.made: dict[tuple[int, int], Tensor] = {}

    def __call__(self, values: Tensor, zero_point: int, packed: Tensor, weight_scale: Tensor) -> Tensor:
        """(R, I), (O) -> (R, O) float32."""
        shape = (len(values), len(weight_scale))
        if shape not in self.made:
            self.made[shape] = torch.randn(shape)
        return self.made[shape]


def parts(length: int) -> dict[str, Callable[[], object]]:
    """Calls of the parts of a layer around and in its products, by name."""
    workload = Workload(length, "forward", num_layers=1)
    layer: LongformerPlusLayer = workload.model("longformer_plus:int8").encoder.layer[0]
    states = torch.randn(1, length, layer.attention.output.dense.out_features)
    attention, size = layer.attention, chunk_size(states, layer.width, layer.intermediate, layer.output)
    wide = torch.randn(size, layer.width)
    return {
        "query, key and value": partial(project, layer, states),
        "of which rounding": partial(int8.quantize_rows, states),
        "output of attention": partial(attention.output.dense, states),
        "feed-forward, residual and LayerNorm": partial(in_chunks, layer.feed_forward, states, size),
        "of which GELU": partial(in_chunks, lambda chunk: F.gelu(wide), states, size),
        "residual and LayerNorm after attention": partial(attention.output.add, states, states),
    }


def project(layer: LongformerPlusLayer, states: Tensor) -> list[Tensor]:
    """(B, N, E) -> query, key and value, (B, N, E) each."""
    attention = layer.attention.self
    projections = (attention.query, attention.key, attention.value)
    shared = quantize_once(states, *projections)
    return [projection(shared) for projection in projections]


def in_chunks(call: Callable[[Tensor], Tensor], states: Tensor, size: int) -> None:
    """Call with (B, n, E) chunks of (B, N, E), as a layer does."""
    for chunk in states.split(size, dim=1):
        call(chunk)


if __name__ == "__main__":
    main()
