"""Tokens a second of `longformer-plus predict`, beside the bare forward of the model on the same batches.

python docs/results/prediction/throughput.py --documents 200
python docs/results/prediction/throughput.py --documents 20 --base     a base-size model with random weights
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from longformer_plus import LongformerPlusConfig, LongformerPlusModel, shipped_checkpoint
from longformer_plus.benchmark.measuring import circumstances
from longformer_plus.integrations.data.stretches import StretchReader
from longformer_plus.integrations.prediction import PredictionPlan, predict

_SAMPLE = shipped_checkpoint().parent / "samples" / "lighthouses.txt"


def write_corpus(path: Path, count: int) -> None:
    """Documents of 50 to 20,000 tokens, logarithms of lengths alike often, in random order."""
    generator = random.Random(0)
    words = _SAMPLE.read_text(encoding="utf-8").split()
    with path.open("w", encoding="utf-8") as file:
        for place in range(count):
            length = int(50 * 400 ** (place / max(count - 1, 1)) / 1.4)
            start = generator.randrange(len(words))
            text = " ".join((words[start:] + words * (length // len(words) + 1))[:length])
            file.write(json.dumps({"text": text}) + "\n")


def write_base_model(folder: Path) -> None:
    """A base-size encoder with random weights, and the tokenizer of the package."""
    tokenizer = AutoTokenizer.from_pretrained(shipped_checkpoint())
    LongformerPlusModel(LongformerPlusConfig(vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the clock, and of the processor, that some work takes."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--base", action="store_true", help="a base-size model with random weights")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    batches: list[dict[str, torch.Tensor]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_corpus(work / "corpus.jsonl", options.documents)
        checkpoint = shipped_checkpoint()
        if options.base:
            checkpoint = work / "base"
            write_base_model(checkpoint)
        model = LongformerPlusModel.from_pretrained(checkpoint, add_pooling_layer=False).eval()
        run = StretchReader._run

        def run_and_keep(reader: StretchReader, stretches: Any) -> Any:
            rows = [
                {"input_ids": each.encoding.ids, "attention_mask": each.encoding.attention_mask} for each in stretches
            ]
            batches.append(dict(reader.tokenizer.pad(rows, padding_side="right", return_tensors="pt")))
            return run(reader, stretches)

        def predict_into(name: str) -> None:
            predict(
                PredictionPlan(
                    "feature-extraction",
                    str(checkpoint),
                    [str(work / "corpus.jsonl")],
                    work / name,
                    precision="float32",
                )
            )

        StretchReader._run = run_and_keep  # type: ignore[method-assign]
        predict_into("kept")
        StretchReader._run = run  # type: ignore[method-assign]
        tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
        print(f"{options.documents} documents, {tokens:,} tokens in {len(batches)} batches; {circumstances()}")

        @torch.no_grad()
        def forward() -> None:
            for batch in batches:
                model(**batch)

        ratios: list[tuple[float, ...]] = []
        for repeat in range(options.repeats):
            bare, whole = timed(forward), timed(lambda name=f"{repeat}": predict_into(name))  # type: ignore[misc]
            ratios.append(tuple(one / other for one, other in zip(bare, whole, strict=True)))
            print(f"bare forward {tokens / bare[0]:,.0f} tokens/s, predict {tokens / whole[0]:,.0f} tokens/s")
        clock, processor = (sorted(each)[len(each) // 2] for each in zip(*ratios, strict=True))
        print(f"predict / bare forward, medians: {clock:.2f} by the clock, {processor:.2f} by the processor's time")


if __name__ == "__main__":
    main()
