"""`longformer-plus train`: fine-tuning for every task, and pretraining."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from .task_help import TaskHelp

_DESCRIPTION = """\
Train a model for a task on long documents: fine-tune a checkpoint, all its weights or LoRA adapters, or pretrain a new
one. Writes the model, its tokenizer, scores.json and a plot of the losses. Needs the extra `train`, LoRA also `peft`.

data: files of .jsonl, .json (a list), .csv, .tsv or .parquet, or for text alone .txt, .md, .pdf or .docx, also packed
as .gz, .bz2, .xz or .zst; folders of them, patterns, - for standard input; or data sets of the hub, as NAME:SPLIT or
NAME:CONFIGURATION:SPLIT. All rows are checked before training starts. Their columns, by task:
{columns}
"""

_EXAMPLES = """\
examples:
  longformer-plus train --task text-classification --model my-longformer --train reviews.jsonl --eval held-out.jsonl \\
      --output classifier
      fine-tune all weights; accuracy and F1 at the end
  longformer-plus train --task question-answering --model my-longformer --lora 16 --learning-rate 5e-4 \\
      --train squad.jsonl.xz --eval squad-dev.jsonl.xz --join-by title --output answers
      train adapters on whole articles, each cut into overlapping stretches that fit the model
  longformer-plus train --task text-classification --model allenai/longformer-base-4096 --output imdb \\
      --train stanfordnlp/imdb:train --eval stanfordnlp/imdb:test --gradient-checkpointing --batch 1 --accumulate 16
      from the hub, in little memory
  longformer-plus train --task fill-mask --train novels.jsonl.xz=1 textbooks.jsonl.xz=2 --eval held-out.jsonl.xz \\
      --tokenizer my-tokenizer --config '{"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4,
      "intermediate_size": 1024, "max_position_embeddings": 4098, "attention_window": 256, "type_vocab_size": 1}' \\
      --max-steps 20000 --learning-rate 5e-4 --output my-longformer
      pretrain a new model: rows full of documents, two thirds of the tokens from textbooks
      (`longformer-plus tokenizer` trains the tokenizer)
  longformer-plus train --task text-generation --model my-longformer --train novels.jsonl.xz --eval held-out.jsonl.xz \\
      --max-steps 5000 --output writer
      a causal model from a masked one, or with --config a new one; pipeline("text-generation", "writer")("It was a")
  longformer-plus train --task fill-mask --model writer --config '{"is_causal": false}' --train novels.jsonl.xz \\
      --eval held-out.jsonl.xz --max-steps 20000 --output reader
      the other way round: a small model leaves the frequencies of tokens behind far sooner as a causal one
  longformer-plus train ... --eval held-out.jsonl --eval-every 100 --metric-for-best-model f1 --early-stopping 3
      evaluate every 100 steps, end after three evaluations without a better F1, and save the best checkpoint
  longformer-plus train ... --output my-longformer --resume
      the same command again: go on from the last checkpoint, as if nothing had happened
  accelerate launch --config_file docs/examples/accelerate/ddp.yaml -m longformer_plus.cli train ...
      on several devices or machines
  accelerate launch --config_file docs/examples/accelerate/ddp.yaml --num_processes 4 -m longformer_plus.cli train \\
      --context-parallel 4 --batch 1 --max-length 65536 ...
      the same, but each document over four devices: longer ones than one of them holds
"""


def add(commands: Any) -> None:
    """Add the subcommand `train`."""
    parser = commands.add_parser(
        "train",
        help="fine-tune for a task, all weights or LoRA, or pretrain",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=TaskHelp,
        usage="longformer-plus train --task TASK --train SOURCE ... [--eval SOURCE ...] --output FOLDER\n"
        "                             (--model CHECKPOINT | --config JSON --tokenizer FOLDER) [options]",
    )
    parser.set_defaults(run=_run)
    _add_what(parser.add_argument_group("what").add_argument)
    _add_documents(parser.add_argument_group("documents").add_argument)
    _add_how(parser.add_argument_group("how").add_argument)
    _add_when(parser.add_argument_group("reports and checkpoints").add_argument)


def _add_what(add: Any) -> None:
    add(
        "--task",
        required=True,
        metavar="TASK",
        help="one of those above; masked-lm is fill-mask, causal-lm is text-generation",
    )
    add(
        "--train",
        required=True,
        nargs="+",
        metavar="SOURCE",
        help="files or hub data sets; for fill-mask and text-generation, SOURCE=WEIGHT says how many of the tokens "
        "come from each",
    )
    add("--eval", nargs="+", default=[], dest="evaluation", metavar="SOURCE", help="what is evaluated on")
    add(
        "--output", required=True, type=Path, metavar="FOLDER", help="where everything is written; must be new or empty"
    )
    add(
        "--model",
        metavar="CHECKPOINT",
        help="where to start from: a folder, also one of adapters, a name on the hub, shipped or shipped:TASK",
    )
    add(
        "--config",
        type=_json,
        metavar="JSON",
        help="of a new model, or what changes in that of --model: a file, or the JSON",
    )
    add("--tokenizer", metavar="FOLDER", help="the checkpoint's by default; a new model needs one")
    add("--lora", type=int, nargs="?", const=8, metavar="RANK", help="train LoRA adapters, of rank 8 by default")
    add("--lora-targets", nargs="+", metavar="LAYER", help="PEFT's names of what they adapt, or all-linear")
    add(
        "--columns",
        nargs="+",
        type=pair,
        default=[],
        metavar="FIELD=COLUMN",
        help="where the data call a field otherwise, such as text=review",
    )


def _add_documents(add: Any) -> None:
    add("--max-length", type=int, metavar="N", help="tokens of an input; as many as the model has positions by default")
    add(
        "--overlap",
        "--stride",
        type=int,
        default=128,
        metavar="N",
        help="tokens that stretches of a document share (128)",
    )
    add(
        "--join-by",
        metavar="FIELD",
        help="for question answering: join the paragraphs with the same FIELD, such as title, to one article",
    )
    add(
        "--unanswered-share",
        type=float,
        default=1.0,
        metavar="P",
        help="for question answering: of the stretches without the answer, the share that is trained on (1)",
    )
    add("--masked-share", type=float, default=0.15, metavar="P", help="share of tokens that fill-mask hides (0.15)")
    add(
        "--global-attention",
        metavar="POLICY",
        help="auto, cls, question, choice, separators or none; the checkpoint's by default",
    )
    add(
        "--max-train-rows",
        type=int,
        metavar="N",
        help="use no more rows, drawn at random; for tasks with rows of documents",
    )
    add(
        "--max-eval-rows",
        type=int,
        metavar="N",
        help="the same in evaluation; for fill-mask and text-generation so many rows full of tokens (64)",
    )


def _add_how(add: Any) -> None:
    add("--epochs", type=float, default=3.0, metavar="N", help="times that all data are gone through (3)")
    add("--max-steps", type=int, metavar="N", help="optimizer steps, in place of --epochs")
    add("--batch", type=int, default=4, dest="batch_size", metavar="B", help="inputs of a batch on each device (4)")
    add("--accumulate", type=int, default=1, dest="accumulation", metavar="N", help="batches that a step adds up (1)")
    add("--learning-rate", type=float, default=5e-5, metavar="RATE", help="5e-5; LoRA and new models want more")
    add("--schedule", default="linear", metavar="NAME", help="linear, cosine, constant_with_warmup, ... (linear)")
    add("--warmup", type=float, default=0.06, metavar="P", help="share of the steps in which the rate rises (0.06)")
    add("--weight-decay", type=float, default=0.01, metavar="D", help="of AdamW (0.01)")
    add("--precision", default="auto", metavar="NAME", help="float32, bfloat16, or auto: bfloat16 where it pays")
    add("--gradient-checkpointing", action="store_true", help="save memory, take a third longer")
    add("--group-by-length", action="store_true", help="batches of documents of like lengths: less padding")
    add(
        "--class-weights",
        default="none",
        metavar="HOW",
        help="balanced: rare classes count for more in the loss, so that all count alike; none (the default)",
    )
    add("--attn-implementation", metavar="NAME", help="eager, sdpa or flex_attention; the fastest by default")
    add("--seed", type=int, default=0, metavar="N", help="of everything random (0)")
    add(
        "--context-parallel",
        type=int,
        default=1,
        metavar="N",
        help="processes that share each document in training, each a slice of its tokens (1)",
    )
    add("--workers", type=int, default=0, metavar="N", help="processes that prepare batches (0)")


def _add_when(add: Any) -> None:
    add("--log-every", type=int, default=10, metavar="N", help="steps between reports (10)")
    add("--eval-every", type=int, metavar="N", help="steps between evaluations; only at the end by default")
    add("--save-every", type=int, default=500, metavar="N", help="steps between checkpoints (500)")
    add("--keep", type=int, default=2, metavar="N", help="checkpoints that are kept (2)")
    add(
        "--metric-for-best-model",
        metavar="SCORE",
        help="save the checkpoint with the best SCORE, such as f1 or loss, and not the last; there is then a "
        "checkpoint of every evaluation",
    )
    add(
        "--early-stopping",
        type=int,
        metavar="PATIENCE",
        help="stop after so many evaluations without a better score; of the loss, without --metric-for-best-model",
    )
    add(
        "--report-to",
        nargs="+",
        default=[],
        metavar="TRACKER",
        help="tensorboard, wandb, trackio, mlflow, ... as of transformers' Trainer",
    )
    add("--push-to-hub", metavar="NAME", help="share the model on the hub at the end, with a card")
    add("--resume", action="store_true", help="go on from the last checkpoint in the output folder, if there is one")


def pair(text: str) -> tuple[str, str]:
    """FIELD=COLUMN -> (field, column), as `argparse` wants its types."""
    field, _, column = text.partition("=")
    if not field or not column:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=COLUMN, such as text=review")
    return field, column


def _json(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is neither JSON nor a file of it: {error}") from None
    if not isinstance(fields, dict):
        raise argparse.ArgumentTypeError(f"{text!r:.80} holds no JSON object")
    return fields


def weighted_sources(texts: list[str]) -> tuple[list[str], list[float] | None]:
    """SOURCE or SOURCE=WEIGHT, one after another -> the sources and their weights, None where none are given.

    Raises:
        ValueError: only some sources have a weight, or a weight is not a number.
    """
    parts = [text.rpartition("=") if "=" in text else (text, "", "") for text in texts]
    sources = [source for source, _, _ in parts]
    given = [weight for _, _, weight in parts if weight]
    if not given:
        return sources, None
    try:
        weights = [float(weight) for weight in given]
    except ValueError as error:
        raise ValueError(f"A weight of {' '.join(texts)} is no number: {error}.") from None
    if len(weights) < len(sources):
        raise ValueError(f"Give every source a weight or none: {' '.join(texts)}.")
    return sources, weights


def _run(options: argparse.Namespace) -> int:
    from torch import distributed

    from ..integrations.tasks import task_named
    from ..integrations.training import TrainingPlan, TrainingStopped, train
    from ..shipped.names import resolve_checkpoint

    given = {each.name: getattr(options, each.name) for each in fields(TrainingPlan) if hasattr(options, each.name)}
    given["columns"] = dict(options.columns)
    for name in ("model", "tokenizer"):
        if given[name] is not None:
            given[name] = resolve_checkpoint(given[name])
    if task_named(options.task).is_packed:
        given["train"], given["weights"] = weighted_sources(options.train)
    try:
        train(TrainingPlan(**given))
    except TrainingStopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal_number
    if distributed.is_initialized():
        distributed.destroy_process_group()  # left over, it can keep Python from ending
    return 0
