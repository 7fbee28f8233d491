"""`longformer-plus export`: a checkpoint as ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the subcommand `export`."""
    parser = commands.add_parser(
        "export",
        help="export a checkpoint to ONNX",
        description="Write one ONNX graph for every batch size, length and global attention mask, and compare it with "
        "torch in onnxruntime. Needs the extra `onnx`.",
    )
    parser.add_argument(
        "checkpoint",
        help="a LongformerPlus or Longformer checkpoint: its folder, its name on the hub, shipped or shipped:TASK",
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
    parser.add_argument("--int8", action="store_true", help="quantise the layers' weights and activations")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from ..integrations.onnx_export import export_onnx
    from ..shipped.names import resolve_checkpoint

    done = export_onnx(
        resolve_checkpoint(options.checkpoint),
        options.output,
        options.task,
        static=options.static,
        max_global_tokens=options.max_global_tokens,
        overwrite=options.overwrite,
        int8=options.int8,
    )
    for batch in done.comparisons:
        print(f"inputs {batch.shape}, {batch.num_global} global tokens: differs by {batch.difference:.1e} from torch")
    print(f"Wrote {done.path}.")
