"""`longformer-plus merge`: adapters merged into their base, as a checkpoint of its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the subcommand `merge`."""
    parser = commands.add_parser(
        "merge",
        help="merge adapters into their base: a checkpoint that needs no PEFT",
        description="Merge PEFT's adapters into the checkpoint that they were trained on, and write the model with its "
        "head and its tokenizer. What is written loads as any checkpoint does, also in transformers' pipelines, and "
        "computes what the adapters compute, without their cost. Needs the extra `peft`.",
        epilog="example:\n  longformer-plus merge my-adapters my-tagger\n"
        '      then: import longformer_plus; pipeline("token-classification", "my-tagger")',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("adapters", help="their folder, as `longformer-plus train --lora` writes it")
    parser.add_argument("output", type=Path, help="the folder to write; it appears when all is done")
    parser.add_argument("--overwrite", action="store_true", help="replace the checkpoint that is in the output folder")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from ..integrations.adapters import merge_adapters
    from .info import summary

    model = merge_adapters(options.adapters, options.output, overwrite=options.overwrite)
    print(f"Wrote {options.output}: {summary(model)}.")
