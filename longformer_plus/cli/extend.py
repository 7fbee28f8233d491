"""`longformer-plus extend`: positions for longer documents."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Give a Longformer positions for longer documents: copies of those that it has, one after another, as the paper makes
4096 of RoBERTa's 512. Up to the old length nothing changes; beyond it the model should be trained on a little text of
the new length.
"""

_EXAMPLES = """\
examples:
  longformer-plus extend allenai/longformer-base-4096 longformer-base-16384 --max-length 16384
  longformer-plus info longformer-base-16384 --length 16384
      what it needs of memory at that length
"""


def add(commands: Any) -> None:
    """Add the subcommand `extend`."""
    parser = commands.add_parser(
        "extend",
        help="give a Longformer positions for longer documents",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint",
        help="a LongformerPlus or Longformer checkpoint: its folder, its name on the hub, shipped or shipped:TASK",
    )
    parser.add_argument("output", type=Path, help="the folder to write; it appears when all is done")
    parser.add_argument(
        "--max-length", type=int, required=True, metavar="N", help="tokens of the longest document, such as 16384"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the checkpoint that is in the output folder")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from ..conversion import extend_positions
    from ..shipped.names import resolve_checkpoint
    from .info import summary

    model = extend_positions(
        resolve_checkpoint(options.checkpoint), options.max_length, options.output, overwrite=options.overwrite
    )
    print(f"Wrote {options.output}: {summary(model)}.")
