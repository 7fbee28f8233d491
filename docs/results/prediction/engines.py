"""Seconds that a document costs with processes of this machine and with Ray's actors, as many of each.

python docs/results/prediction/engines.py --workers 2

Counted from the first part that is written to the last, so that starting does not count. The engines take turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import ray
from throughput import texts, write_corpus

from longformer_plus import shipped_checkpoint
from longformer_plus.benchmark.measuring import circumstances
from longformer_plus.integrations.prediction import PredictionPlan, predict


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--longest", type=int, default=1000, help="tokens of the longest; the shortest has 50")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    costs: dict[str, list[float]] = {"local": [], "ray": []}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        write_corpus(corpus, texts(options.documents, options.longest))
        for repeat in range(options.repeats):
            for engine, seconds in costs.items():
                output = Path(folder) / f"{engine}{repeat}"
                plan = PredictionPlan("feature-extraction", str(shipped_checkpoint()), [str(corpus)], output)
                plan.engine, plan.workers, plan.part_size = engine, options.workers, 16
                predict(plan)
                seconds.append(seconds_per_document(output, plan.part_size * options.workers))
    print(f"{options.documents} documents, {options.workers} workers; ray {ray.__version__}, {circumstances()}")
    for engine, seconds in costs.items():
        print(f"{engine}: {1000 * statistics.median(seconds):.1f} ms for a document, the median of {len(seconds)}")
    ratios = [one / other for one, other in zip(costs["ray"], costs["local"], strict=True)]
    print(f"ray / local: {statistics.median(ratios):.2f}, the median of {len(ratios)} pairs")


def seconds_per_document(output: Path, skip: int) -> float:
    """From the times at which parts were written, without those that were there first, one from each worker."""
    parts = sorted(output.glob("part-*.jsonl"))
    parts = [path for path in parts if "errors" not in path.name]
    sizes = [sum(1 for _ in path.open("rb")) for path in parts]
    first = next(place for place in range(len(parts)) if sum(sizes[: place + 1]) >= skip)
    return (parts[-1].stat().st_mtime - parts[first].stat().st_mtime) / sum(sizes[first + 1 :])


if __name__ == "__main__":
    main()
