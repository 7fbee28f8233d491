"""`longformer-plus bench`: time and memory beside other implementations."""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .precision_option import announced_precision

if TYPE_CHECKING:
    from ..benchmark.measuring import Plan

_DESCRIPTION = """\
Time base-size models with random weights side by side: in one process, in turns, medians. The Longformers have the
same weights. Before that the peak memory of each is measured in a process of its own; what fails there, or is killed
for want of memory, is reported in its row and not timed. Each row also times the floor: the linear layers alone, on
the valid tokens.

columns:
  tokens/s   of the model on the left, padding not counted
  faster     time of transformers / time of longformer_plus
  memory     memory of longformer_plus / memory of transformers
  of floor   time of longformer_plus / time of its linear layers alone
"""

_EXAMPLES = """\
examples:
  longformer-plus bench
      the default: forward and training at three lengths, beside transformers
  longformer-plus bench --work forward --lengths 4096 16384 65536 --limit transformers=16384 --json long.json
      long documents, transformers left out of the longest; long.json is written after every turn
  longformer-plus bench --models transformers longformer_plus modernbert bigbird roberta --batch 8 --mixed
      batches of mixed lengths, padded, beside other architectures
  longformer-plus bench --device cuda --dtype bfloat16 --backends sdpa flex_attention --tokens 131072 --profile \\
          --models transformers longformer_plus modernbert --lengths 1024 4096 16384 131072 --limit transformers=16384
      a GPU filled with 131,072 tokens, whatever the length, with both backends
  longformer-plus bench --work forward --lengths 512 2048 4096 --precision float32 bfloat16 int8 --no-memory \\
          --models transformers longformer_plus longformer_plus_onnx modernbert --profile --json precision.json
      what bfloat16 and int8 gain on this processor, beside transformers and ModernBERT, and in onnxruntime; and what
      their time goes to
  longformer-plus bench --from long.json --markdown --plot long.svg
      measure nothing: print what was recorded again and draw it
"""


def add(commands: Any) -> None:
    """Add the subcommand `bench`."""
    parser = commands.add_parser(
        "bench",
        help="measure time and memory beside transformers' own implementation",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    parser.set_defaults(run=_run)
    add(
        "--models",
        nargs="+",
        default=["transformers", "longformer_plus"],
        metavar="MODEL",
        help="of transformers, longformer_plus, modernbert, bigbird, roberta, longformer_plus_onnx, transformers_onnx; "
        "the first two by default; with :bfloat16 or :int8 in that precision",
    )
    add(
        "--precision",
        nargs="+",
        metavar="NAME",
        help="each model in each of float32, bfloat16, int8 that it can be in, side by side; auto: the fastest here",
    )
    add("--work", nargs="+", choices=["forward", "training"], default=["forward", "training"])
    add("--lengths", type=int, nargs="+", default=[128, 512, 4096], metavar="N", help="tokens of a document")
    add("--windows", type=int, nargs="+", default=[512], metavar="W", help="attention windows, total width in tokens")
    add("--backends", nargs="+", default=["sdpa"], metavar="NAME", help="attn_implementation of longformer_plus")
    add("--batch", type=int, default=1, metavar="B", help="documents in a batch")
    add("--tokens", type=int, metavar="T", help="tokens of a batch: as many documents as make them, instead of --batch")
    add("--mixed", action="store_true", help="documents of mixed lengths: normal around N / 2, at most N, padded to N")
    add("--global-tokens", type=int, default=1, metavar="G", help="tokens of each document that attend globally")
    add("--layers", type=int, metavar="L", help="layers of every model; its base checkpoint's by default")
    add("--dropout", type=float, default=0.0, metavar="P", help="probability of every dropout in training")
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of weights and activations")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--repeats", type=int, default=5, metavar="R", help="how often each time is measured")
    add(
        "--limit",
        nargs="+",
        type=_limit,
        default=[],
        metavar="MODEL=N",
        help="leave a model out of documents longer than N tokens",
    )
    add("--no-memory", action="store_true", help="time only")
    add(
        "--profile",
        action="store_true",
        help="print what longformer_plus, in each precision, spends its time with, by operation",
    )
    add("--json", type=Path, metavar="FILE", help="record in this new file what was measured, after every turn")
    add("--from", type=Path, nargs="+", dest="recorded", metavar="FILE", help="measure nothing, read recorded files")
    add("--markdown", action="store_true", help="print the table in Markdown")
    add(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw time per token against length into an .svg or .png; needs the extra `bench`",
    )


def _limit(text: str) -> tuple[str, int]:
    name, _, tokens = text.partition("=")
    if not name or not tokens.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not MODEL=N, such as roberta=8192")
    return name, int(tokens)


def _run(options: argparse.Namespace) -> None:
    from ..benchmark import report

    if options.plot:
        report.check_plot(options.plot)
    if options.recorded:
        if options.json:
            raise ValueError("--json records what is measured, but --from measures nothing. Leave one of them out.")
        recordings = [report.Recording.load(path) for path in options.recorded]
        tables = [report.markdown(each) if options.markdown else report.table(each) for each in recordings]
        print("\n\n".join(tables))
    else:
        recordings = [report.record(_plan(options), options.command_line, options.json)]
        if options.markdown:
            print(report.markdown(recordings[0]))
    if options.plot:
        report.plot(recordings, options.plot)


def _plan(options: argparse.Namespace) -> Plan:
    from ..benchmark.measuring import Plan
    from ..benchmark.workloads import Workload, in_precisions

    workloads = [
        Workload(
            length,
            work,
            window=window,
            num_layers=options.layers,
            backend=backend,
            batch_size=max(options.tokens // max(length, 1), 1) if options.tokens else options.batch,
            mixed=options.mixed,
            num_global=options.global_tokens,
            dropout=options.dropout,
            dtype=options.dtype,
            device=options.device,
        )
        for work, backend, window, length in product(options.work, options.backends, options.windows, options.lengths)
    ]
    models = options.models
    if options.precision:
        models = in_precisions(models, dict.fromkeys(map(announced_precision, options.precision)))
    return Plan(workloads, models, options.repeats, dict(options.limit), not options.no_memory, options.profile)
