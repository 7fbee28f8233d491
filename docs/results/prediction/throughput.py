"""Tokens a second of `longformer-plus predict`, of the bare forward on the same batches, and of transformers' pipeline.

python docs/results/prediction/throughput.py --documents 2000
python docs/results/prediction/throughput.py --documents 20 --base     a base-size model with random weights
python docs/results/prediction/throughput.py --pipeline-batch 8        the pipeline with padded batches

The three take turns batch by batch, so that other work on the machine slows all of them alike. The pipeline classifies
a sample of the documents, cut to what the model reads, one by one or in batches as they come.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LongformerForSequenceClassification, pipeline

from longformer_plus import LongformerPlusConfig, LongformerPlusForSequenceClassification, shipped_checkpoint
from longformer_plus.benchmark.measuring import circumstances
from longformer_plus.conversion import convert_checkpoint
from longformer_plus.integrations.data.stretches import StretchReader
from longformer_plus.integrations.prediction import PredictionPlan, predict

_SAMPLE = shipped_checkpoint().parent / "samples" / "lighthouses.txt"


@dataclass
class Spent:
    """Seconds of the clock and of the processor, and the tokens that were read in them."""

    clock: float = 0.0
    processor: float = 0.0
    tokens: int = 0

    def time(self, work: Callable[[], Any], tokens: int = 0) -> Any:
        """Do some work and count it."""
        clock, processor = time.perf_counter(), time.process_time()
        result = work()
        self.clock += time.perf_counter() - clock
        self.processor += time.process_time() - processor
        self.tokens += tokens
        return result

    def without(self, *others: Spent) -> Spent:
        """What is left without what others spent."""
        clock = self.clock - sum(each.clock for each in others)
        return Spent(clock, self.processor - sum(each.processor for each in others), self.tokens)


def texts(count: int, longest: int = 20_000) -> list[str]:
    """Documents of 50 to so many tokens, logarithms of lengths alike often, in random order."""
    generator = random.Random(0)
    words = _SAMPLE.read_text(encoding="utf-8").split()
    made = []
    for place in range(count):
        length = int(50 * (longest / 50) ** (place / max(count - 1, 1)) / 1.4)
        start = generator.randrange(len(words))
        made.append(" ".join((words[start:] + words * (length // len(words) + 1))[:length]))
    generator.shuffle(made)
    return made


def write_corpus(path: Path, documents: list[str]) -> None:
    """Write documents as JSON lines."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")


def write_checkpoint(folder: Path, is_base: bool) -> None:
    """A classifier of base size, or the shipped encoder, with a new head."""
    tokenizer = AutoTokenizer.from_pretrained(shipped_checkpoint())
    if is_base:
        config = LongformerPlusConfig(vocab_size=len(tokenizer), max_position_embeddings=4098)
        model = LongformerPlusForSequenceClassification(config)
    else:
        model = LongformerPlusForSequenceClassification.from_pretrained(shipped_checkpoint())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--longest", type=int, default=20_000, help="tokens of the longest; the shortest has 50")
    parser.add_argument("--base", action="store_true", help="a base-size model with random weights")
    parser.add_argument("--sample", type=int, default=20, help="documents that the pipeline reads")
    parser.add_argument("--pipeline-batch", type=int, default=1, help="documents in a batch of the pipeline")
    parser.add_argument("--precision", default="float32", help="of predict and the bare forward: float32 or bfloat16")
    options = parser.parse_args()
    documents = texts(options.documents, options.longest)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_checkpoint(work / "model", options.base)
        convert_checkpoint(work / "model", work / "native", to="longformer")
        write_corpus(work / "corpus.jsonl", documents)
        sample = documents[:: max(len(documents) // options.sample, 1)]
        whole, bare, piped = measure(work, sample, options.pipeline_batch, options.precision)
    model = "base size" if options.base else "shipped"
    lengths = f"{options.documents} documents of 50 to {options.longest:,} tokens, {bare.tokens:,} in all"
    print(f"{lengths}, {model}, {options.precision}; {circumstances()}")
    print(f"pipeline: {len(sample)} documents, {piped.tokens:,} tokens, in batches of {options.pipeline_batch}")
    for name, spent in (("bare forward", bare), ("predict", whole), ("transformers' pipeline", piped)):
        print(f"{name}: {spent.tokens / spent.clock:,.0f} tokens/s, {spent.tokens / spent.processor:,.0f} by processor")
    for name, other in (("bare forward", bare), ("transformers' pipeline", piped)):
        clock = whole.tokens / whole.clock / (other.tokens / other.clock)
        processor = whole.tokens / whole.processor / (other.tokens / other.processor)
        print(f"predict / {name}: {clock:.2f} by the clock, {processor:.2f} by the processor's time")


def measure(work: Path, sample: list[str], size: int, precision: str) -> tuple[Spent, Spent, Spent]:
    """What predict spends, all in all; the bare forward on its batches; and the pipeline on a sample of documents."""
    whole, bare, piped = Spent(), Spent(), Spent()
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    model = LongformerPlusForSequenceClassification.from_pretrained(work / "model", dtype=kind).eval()
    native = LongformerForSequenceClassification.from_pretrained(work / "native")
    tokenizer = AutoTokenizer.from_pretrained(work / "model")
    classify = pipeline("text-classification", model=native, tokenizer=tokenizer, truncation=True, max_length=4096)
    run, waiting = StretchReader._run, iter([sample[place : place + size] for place in range(0, len(sample), size)])

    @torch.no_grad()
    def forward(batch: dict[str, torch.Tensor]) -> None:
        model(**batch)

    def run_pipeline(chunk: list[str]) -> None:
        tokens = sum(map(len, tokenizer(chunk, truncation=True, max_length=4096)["input_ids"]))
        piped.time(lambda: classify(chunk, batch_size=size), tokens)

    def run_in_turns(reader: StretchReader, stretches: Any) -> Any:
        rows = [{"input_ids": each.encoding.ids, "attention_mask": each.encoding.attention_mask} for each in stretches]
        tokens = sum(len(each["input_ids"]) for each in rows)
        batch = others.time(lambda: dict(tokenizer.pad(rows, padding_side="right", return_tensors="pt")))
        bare.time(lambda: forward(batch), tokens)
        if chunk := next(waiting, []):
            others.time(lambda: run_pipeline(chunk))
        return run(reader, stretches)

    others = Spent()
    source = [str(work / "corpus.jsonl")]
    plan = PredictionPlan("text-classification", str(work / "model"), source, work / "out", precision=precision)
    StretchReader._run = run_in_turns  # type: ignore[method-assign]
    whole.time(lambda: predict(plan))
    StretchReader._run = run  # type: ignore[method-assign]
    whole = whole.without(bare, others)
    whole.tokens = bare.tokens
    for chunk in waiting:
        run_pipeline(chunk)
    return whole, bare, piped


if __name__ == "__main__":
    main()
