"""`longformer-plus quickstart`: a document through a checkpoint, beside transformers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the subcommand `quickstart`."""
    parser = commands.add_parser(
        "quickstart",
        help="run a long document through a Longformer checkpoint, beside transformers' own implementation",
        description="Run a document through a small Longformer checkpoint by the Auto classes, fill a mask in it, and "
        "time it beside transformers' implementation with the same weights.",
    )
    parser.add_argument("document", type=Path, help="a text file in UTF-8; up to 4096 of its tokens are used")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    if not options.document.is_file():
        raise ValueError(f"{options.document} is not a file. Name a text file in UTF-8.")
    from .. import quickstart

    quickstart.run(options.document)
