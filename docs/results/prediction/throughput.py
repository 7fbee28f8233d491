"""Tokens a second of `longformer-plus predict`, of the bare forward on the same batches, and of transformers' pipeline.

python docs/results/prediction/throughput.py --documents 2000
python docs/results/prediction/throughput.py --documents 2000 --model base --device cuda --precision bfloat16

The documents have lengths as those of news groups have: logarithms are normal, from 50 to 20,000 tokens. They are read
in rounds. In each, predict reads all of them, then the bare forward runs on the batches that predict made, then the
pipeline of transformers' own Longformer classifies a random sample of them, one by one and in padded batches as they
come, cut to the 4,096 tokens that it can read. So other work on the machine slows all of them alike. Predict counts
with all that it does, but for loading the model, whose seconds stand apart; the bare forward has its batches on the
device.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch
from transformers import AutoTokenizer, LongformerForSequenceClassification, pipeline
from transformers.utils.logging import disable_progress_bar

from longformer_plus import LongformerPlusConfig, LongformerPlusForSequenceClassification, shipped_checkpoint
from longformer_plus.benchmark.measuring import describe, environment
from longformer_plus.conversion import convert_checkpoint
from longformer_plus.integrations.data.stretches import Stretch, StretchReader
from longformer_plus.integrations.prediction import PredictionPlan, predict, predictors
from longformer_plus.model.silence import silence

_SAMPLE = shipped_checkpoint().parent / "samples" / "lighthouses.txt"
_LONGEST_OF_PIPELINE = 4096
# Tokens of the middle document, and the spread of the logarithms. So one of 2,000 has 20,000 tokens.
_MEDIAN, _SPREAD = 280, 1.23
_WARM_UP = 32
_TOKENS_OF_A_WORD = 1.4

Batch = dict[str, torch.Tensor]


@dataclass
class Spent:
    """Seconds of the clock and of the processor, and the documents and tokens that were read in them."""

    clock: float = 0.0
    processor: float = 0.0
    documents: int = 0
    tokens: int = 0

    def time(self, work: Callable[[], Any], documents: int = 0, tokens: int = 0) -> Any:
        """Do some work and count it."""
        clock, processor = time.perf_counter(), time.process_time()
        result = work()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.clock += time.perf_counter() - clock
        self.processor += time.process_time() - processor
        self.documents += documents
        self.tokens += tokens
        return result


def texts(count: int, longest: int = 20_000) -> list[str]:
    """Documents of 50 to so many tokens, about, in random order."""
    generator = random.Random(0)
    words = _SAMPLE.read_text(encoding="utf-8").split()
    made = []
    for place in range(count):
        tokens = _MEDIAN * math.exp(_SPREAD * NormalDist().inv_cdf((place + 0.5) / count))
        length = int(min(max(tokens, 50), longest) / _TOKENS_OF_A_WORD)
        start = generator.randrange(len(words))
        made.append(" ".join((words[start:] + words * (length // len(words) + 1))[:length]))
    generator.shuffle(made)
    return made


def write_corpus(path: Path, documents: Sequence[str]) -> None:
    """Write documents as JSON lines."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")


def write_checkpoint(folder: Path, size: str) -> None:
    """A classifier of base size with random weights, or the shipped encoder with a new head."""
    tokenizer = AutoTokenizer.from_pretrained(shipped_checkpoint())
    if size == "base":
        config = LongformerPlusConfig(vocab_size=len(tokenizer), max_position_embeddings=4098)
        model = LongformerPlusForSequenceClassification(config)
    else:
        with silence():
            model = LongformerPlusForSequenceClassification.from_pretrained(shipped_checkpoint())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass
class Measurement:
    """What reading some documents costs, with a checkpoint, and one converted to transformers' Longformer beside it.

    Args:
        folder: where both are, as "model" and "native", and where predictions go.
        device: "cpu" or "cuda".
        precision: "float32" or "bfloat16", of all.
        part_size: documents of a part of predict's output.
        sizes: those of the pipeline's batches.
    """

    folder: Path
    device: str
    precision: str
    part_size: int
    sizes: Sequence[int]
    predicted: Spent = field(default_factory=Spent)
    loading: Spent = field(default_factory=Spent)
    bare: Spent = field(default_factory=Spent)
    piped: dict[int, Spent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options: dict[str, Any] = {"dtype": getattr(torch, self.precision)}
        model = LongformerPlusForSequenceClassification.from_pretrained(self.folder / "model", **options)
        self._model: Any = model.to(self.device).eval()  # type: ignore[arg-type]
        self._native = LongformerForSequenceClassification.from_pretrained(self.folder / "native", **options)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(self.folder / "model")
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        self.predicted, self.loading, self.bare = Spent(), Spent(), Spent()
        self.piped = {size: Spent() for size in self.sizes}
        self._rounds = 0

    def read(self, documents: Sequence[str], sample: Sequence[str]) -> None:
        """One round: all documents by predict and the bare forward, a sample by the pipeline."""
        batches = self._predict(documents)
        with torch.inference_mode():
            self.bare.time(lambda: [self._model(**batch) for batch in batches], len(documents))
        self.bare.tokens += self._count(batches)
        for size, spent in self.piped.items():
            self._classify(sample, size, spent)

    def _predict(self, documents: Sequence[str]) -> list[Batch]:
        """Predict for documents, and the batches that were made for it."""
        self._rounds += 1
        source = self.folder / "corpus.jsonl"
        write_corpus(source, documents)
        output = self.folder / f"out{len(list(self.folder.glob('out*')))}"
        plan = PredictionPlan("text-classification", str(self.folder / "model"), [str(source)], output)
        plan.precision, plan.part_size = self.precision, self.part_size
        with self._watched() as made:
            self.predicted.time(lambda: predict(plan), len(documents))
        batches = [self._padded(stretches) for stretches in made]
        self.predicted.tokens += self._count(batches)
        return batches

    @contextmanager
    def _watched(self) -> Iterator[list[Sequence[Stretch]]]:
        """The stretches of each batch that predict makes; what loading takes is counted apart."""
        made: list[Sequence[Stretch]] = []
        run, load = StretchReader._run, predictors.load_checkpoint
        before = Spent(**asdict(self.loading))

        def run_and_note(reader: StretchReader, stretches: Sequence[Stretch]) -> Any:
            made.append(stretches)
            return run(reader, stretches)

        StretchReader._run = run_and_note  # type: ignore[method-assign]
        predictors.load_checkpoint = lambda *of: self.loading.time(lambda: load(*of))
        try:
            yield made
        finally:
            StretchReader._run = run  # type: ignore[method-assign]
            predictors.load_checkpoint = load
        self.predicted.clock -= self.loading.clock - before.clock
        self.predicted.processor -= self.loading.processor - before.processor

    def _padded(self, stretches: Sequence[Stretch]) -> Batch:
        rows = [{"input_ids": each.encoding.ids, "attention_mask": each.encoding.attention_mask} for each in stretches]
        return dict(self._tokenizer.pad(rows, padding_side="right", return_tensors="pt").to(self.device))

    def _classify(self, documents: Sequence[str], size: int, spent: Spent) -> None:
        limits = {"truncation": True, "max_length": _LONGEST_OF_PIPELINE}
        classify = pipeline("text-classification", self._native, tokenizer=self._tokenizer, device=self.device)
        tokens = sum(map(len, self._tokenizer(list(documents), **limits)["input_ids"]))
        spent.time(lambda: classify(list(documents), batch_size=size, **limits), len(documents), tokens)

    @staticmethod
    def _count(batches: Sequence[Batch]) -> int:
        return sum(int(batch["attention_mask"].sum()) for batch in batches)

    def report(self) -> dict[str, Any]:
        """All numbers: tokens a second of each, and how many times as many predict reads."""
        spent = {"predict": self.predicted, "bare forward": self.bare}
        spent |= {f"pipeline, batches of {size}": each for size, each in self.piped.items()}
        rows = {name: {**asdict(each), "tokens_per_second": each.tokens / each.clock} for name, each in spent.items()}
        speeds = {name: row["tokens_per_second"] for name, row in rows.items()}
        by_processor = {name: each.tokens / each.processor for name, each in spent.items()}
        others = [name for name in spent if name != "predict"]
        return {
            "spent": rows,
            "loading_seconds": self.loading.clock / self._rounds,
            "predict_over": {name: speeds["predict"] / speeds[name] for name in others},
            "predict_over_by_processor": {name: by_processor["predict"] / by_processor[name] for name in others},
        }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make checkpoints and documents, warm up, and read the documents in rounds."""
    generator = random.Random(1)
    documents = texts(options.documents, options.longest)
    sizes, share = options.pipeline_batch, min(options.sample / options.documents, 1.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder / "model", options.model)
        convert_checkpoint(folder / "model", folder / "native", to="longformer")
        work = Measurement(folder, options.device, options.precision, options.part_size, sizes)
        work.read(documents[:_WARM_UP], documents[:2])
        work.forget()
        for number in range(options.rounds):
            chosen = documents[number :: options.rounds]
            work.read(chosen, generator.sample(chosen, max(round(share * len(chosen)), 1)))
            print(f"round {number + 1} of {options.rounds}: {work.predicted.documents:,} documents", flush=True)
        return work.report()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--documents", type=int, default=200)
    add("--longest", type=int, default=20_000, help="tokens of the longest; the shortest has 50")
    add("--model", choices=("shipped", "base"), default="shipped", help="base has random weights")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--precision", choices=("float32", "bfloat16"), default="float32", help="of all three")
    add("--part-size", type=int, default=256, help="documents of a part of predict's output")
    add("--rounds", type=int, default=4, help="turns that the three take")
    add("--sample", type=int, default=200, help="documents that the pipeline reads, chosen at random")
    add("--pipeline-batch", type=int, nargs="+", default=[1, 8], help="documents in a batch of the pipeline")
    add("--json", metavar="FILE", help="write all numbers there")
    options = parser.parse_args()
    disable_progress_bar()
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # predict takes the accelerator that it finds
    elif not torch.cuda.is_available():
        parser.error("--device cuda is not possible: PyTorch finds no GPU.")
    given = {name: value for name, value in vars(options).items() if name != "json"}
    report = {"options": given, "environment": environment(options.device), **measure(options)}
    print(f"{options.documents:,} documents, {options.model}, {options.precision}; {describe(report['environment'])}")
    for name, row in report["spent"].items():
        print(f"{name}: {row['documents']:,} documents, {row['tokens_per_second']:,.0f} tokens/s")
    for name, ratio in report["predict_over"].items():
        by_processor = report["predict_over_by_processor"][name]
        print(f"predict / {name}: {ratio:.2f} by the clock, {by_processor:.2f} by the processor's time")
    print(f"loading: {report['loading_seconds']:.1f} s")
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
