"""The command `longformer-plus`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: the command line without the program's name; that of the process when None.

    Returns:
        The exit status: 0, or 2 where the command line or a file named in it is wrong.
    """
    parser = argparse.ArgumentParser(prog="longformer-plus", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    quickstart = commands.add_parser(
        "quickstart",
        help="run a long document through a Longformer checkpoint, beside transformers' own implementation",
        description="Run a document through a small Longformer checkpoint by the Auto classes, fill a mask in it, and "
        "time it beside transformers' implementation with the same weights.",
    )
    quickstart.add_argument("document", type=Path, help="a text file in UTF-8; up to 4096 of its tokens are used")
    bench = commands.add_parser(
        "bench",
        help="measure time and memory beside transformers' own implementation",
        description="Time a base-size model with random weights beside transformers' implementation: time in one "
        "process, in turns, medians; memory in a process for each. Batch 1, float32, no dropout, one global token.",
    )
    bench.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 4096], help="tokens of a document")
    bench.add_argument("--work", nargs="+", choices=["forward", "training"], default=["forward", "training"])
    bench.add_argument("--window", type=int, default=512, help="attention window, total width in tokens")
    bench.add_argument("--layers", type=int, default=12, help="layers of the model")
    bench.add_argument("--repeats", type=int, default=5, help="how often each is measured")
    bench.add_argument("--backend", choices=["sdpa", "eager"], default="sdpa", help="attn_implementation")
    export = commands.add_parser(
        "export",
        help="export a checkpoint to ONNX",
        description="Write one ONNX graph for every batch size, length and global attention mask, and compare it with "
        "torch in onnxruntime. Needs the extra `onnx`.",
    )
    export.add_argument(
        "checkpoint", help="a LongformerPlus or Longformer checkpoint: its folder, or its name on the hub"
    )
    export.add_argument("output", type=Path, help="the file to write, such as model.onnx")
    export.add_argument("--task", help="a pipeline's name, such as fill-mask; by default what the checkpoint says")
    export.add_argument(
        "--static", type=int, nargs="+", metavar="SIZE", help="one fixed shape: BATCH LENGTH, or BATCH CHOICES LENGTH"
    )
    export.add_argument("--overwrite", action="store_true", help="replace existing files")
    options = parser.parse_args(arguments)
    if options.command == "quickstart":
        if not options.document.is_file():
            parser.error(f"{options.document} is not a file. Name a text file in UTF-8.")
        _quickstart(options)
    elif options.command == "export":
        try:
            _export(options)
        except (ModuleNotFoundError, OSError, ValueError) as error:
            parser.error(str(error))
    else:
        _bench(options)
    return 0


# Each room is imported when asked for: parsing a command line need not load torch.


def _quickstart(options: argparse.Namespace) -> None:
    from . import quickstart

    quickstart.run(options.document)


def _bench(options: argparse.Namespace) -> None:
    from . import benchmark

    row = "{:10} {:>8} {:>18} {:>18} {:>8} {:>8}"
    print(row.format("work", "tokens", *benchmark.IMPLEMENTATIONS, "faster", "memory"))
    for work in options.work:
        for length in options.lengths:
            workload = benchmark.Workload(length, work, options.window, options.layers, options.backend)
            seconds, memory = benchmark.seconds(workload, options.repeats), benchmark.memory(workload)
            cells = [f"{seconds[name]:.2f} s, {memory[name] / 2**30:.2f} GiB" for name in benchmark.IMPLEMENTATIONS]
            faster = seconds["transformers"] / seconds["longformer_plus"]
            share = memory["longformer_plus"] / max(memory["transformers"], 1)
            print(row.format(work, length, *cells, f"{faster:.2f}x", f"{share:.2f}"), flush=True)
    print(
        f"base size, {options.layers} layers, window {options.window}, {options.backend}, batch 1, float32, no "
        f"dropout, one global token; medians of {options.repeats} in turns; peak memory beyond what was held before, a "
        f"process for each; {benchmark.circumstances()}"
    )


def _export(options: argparse.Namespace) -> None:
    from .integrations.onnx_export import export_onnx

    done = export_onnx(
        options.checkpoint, options.output, options.task, static=options.static, overwrite=options.overwrite
    )
    for batch in done.comparisons:
        print(f"inputs {batch.shape}, {batch.num_global} global tokens: differs by {batch.difference:.1e} from torch")
    print(f"Wrote {done.path}.")


if __name__ == "__main__":
    raise SystemExit(main())
