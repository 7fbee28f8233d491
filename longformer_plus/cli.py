"""The command `longformer-plus`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .benchmark import Plan

_BENCH = """\
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

_BENCH_EXAMPLES = """\
examples:
  longformer-plus bench
      the default: forward and training at three lengths, beside transformers
  longformer-plus bench --work forward --lengths 4096 16384 65536 --limit transformers=16384 --json long.json
      long documents, transformers left out of the longest; long.json is written after every row
  longformer-plus bench --models transformers longformer_plus modernbert bigbird roberta --batch 8 --mixed
      batches of mixed lengths, padded, beside other architectures
  longformer-plus bench --device cuda --dtype bfloat16 --windows 128 256 512 --backends sdpa eager
      every window with every backend, on a GPU
  longformer-plus bench --from long.json --markdown --plot long.svg
      measure nothing: print what was recorded again and draw it
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: the command line without the program's name; that of the process when None.

    Returns:
        The exit status: 0, or 2 where the command line or a file named in it is wrong.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="longformer-plus", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_quickstart(commands)
    _add_bench(commands)
    _add_export(commands)
    options = parser.parse_args(arguments)
    options.command_line = shlex.join([parser.prog, *arguments])
    try:
        options.run(options)
    except (ModuleNotFoundError, OSError, ValueError) as error:
        parser.error(str(error))
    return 0


def _add_quickstart(commands: Any) -> None:
    parser = commands.add_parser(
        "quickstart",
        help="run a long document through a Longformer checkpoint, beside transformers' own implementation",
        description="Run a document through a small Longformer checkpoint by the Auto classes, fill a mask in it, and "
        "time it beside transformers' implementation with the same weights.",
    )
    parser.add_argument("document", type=Path, help="a text file in UTF-8; up to 4096 of its tokens are used")
    parser.set_defaults(run=_quickstart)


def _add_bench(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure time and memory beside transformers' own implementation",
        description=_BENCH,
        epilog=_BENCH_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    parser.set_defaults(run=_bench)
    add(
        "--models",
        nargs="+",
        default=["transformers", "longformer_plus"],
        metavar="MODEL",
        help="of transformers, longformer_plus, modernbert, bigbird, roberta; the first two by default",
    )
    add("--work", nargs="+", choices=["forward", "training"], default=["forward", "training"])
    add("--lengths", type=int, nargs="+", default=[128, 512, 4096], metavar="N", help="tokens of a document")
    add("--windows", type=int, nargs="+", default=[512], metavar="W", help="attention windows, total width in tokens")
    add("--backends", nargs="+", default=["sdpa"], metavar="NAME", help="attn_implementation of longformer_plus")
    add("--batch", type=int, default=1, metavar="B", help="documents in a batch")
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
    add("--json", type=Path, metavar="FILE", help="record in this new file what was measured, after every row")
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


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="export a checkpoint to ONNX",
        description="Write one ONNX graph for every batch size, length and global attention mask, and compare it with "
        "torch in onnxruntime. Needs the extra `onnx`.",
    )
    parser.add_argument(
        "checkpoint", help="a LongformerPlus or Longformer checkpoint: its folder, or its name on the hub"
    )
    parser.add_argument("output", type=Path, help="the file to write, such as model.onnx")
    parser.add_argument("--task", help="a pipeline's name, such as fill-mask; by default what the checkpoint says")
    parser.add_argument(
        "--static", type=int, nargs="+", metavar="SIZE", help="one fixed shape: BATCH LENGTH, or BATCH CHOICES LENGTH"
    )
    parser.add_argument(
        "--max-global-tokens",
        type=int,
        metavar="G",
        help="with --static: the most global tokens of an input; no size in the graph then depends on the inputs",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.set_defaults(run=_export)


# Each room is imported when asked for: parsing a command line need not load torch.


def _quickstart(options: argparse.Namespace) -> None:
    if not options.document.is_file():
        raise ValueError(f"{options.document} is not a file. Name a text file in UTF-8.")
    from . import quickstart

    quickstart.run(options.document)


def _bench(options: argparse.Namespace) -> None:
    from . import benchmark_report as report

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
    from .benchmark import Plan
    from .benchmark_workloads import Workload

    workloads = [
        Workload(
            length,
            work,
            window=window,
            num_layers=options.layers,
            backend=backend,
            batch_size=options.batch,
            mixed=options.mixed,
            num_global=options.global_tokens,
            dropout=options.dropout,
            dtype=options.dtype,
            device=options.device,
        )
        for work, backend, window, length in product(options.work, options.backends, options.windows, options.lengths)
    ]
    return Plan(workloads, options.models, options.repeats, dict(options.limit), not options.no_memory)


def _export(options: argparse.Namespace) -> None:
    from .integrations.onnx_export import export_onnx

    done = export_onnx(
        options.checkpoint,
        options.output,
        options.task,
        static=options.static,
        max_global_tokens=options.max_global_tokens,
        overwrite=options.overwrite,
    )
    for batch in done.comparisons:
        print(f"inputs {batch.shape}, {batch.num_global} global tokens: differs by {batch.difference:.1e} from torch")
    print(f"Wrote {done.path}.")


if __name__ == "__main__":
    raise SystemExit(main())
