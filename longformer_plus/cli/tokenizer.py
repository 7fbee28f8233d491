"""`longformer-plus tokenizer`: a tokenizer for one's own text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .train import weighted_sources


def add(commands: Any) -> None:
    """Add the subcommand `tokenizer`."""
    parser = commands.add_parser(
        "tokenizer",
        help="train a tokenizer for a new model",
        description="Train a byte-level BPE tokenizer on text and write it to a folder. Needs the extra `train`.",
        epilog="example:\n"
        "  longformer-plus tokenizer novels.jsonl.xz=1 textbooks.jsonl.xz=2 --size 8192 --output my-tokenizer",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="files or hub data sets with a field text, as SOURCE or SOURCE=WEIGHT",
    )
    add("--size", type=int, default=16384, metavar="V", help="entries of the vocabulary (16384)")
    add("--max-length", type=int, default=4096, metavar="N", help="the longest input it cuts to (4096)")
    add("--characters", type=int, default=20_000_000, metavar="N", help="how much text is looked at (20,000,000)")
    add("--seed", type=int, default=0, help="which text is looked at")
    add("--output", type=Path, required=True, metavar="FOLDER", help="where it is written")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from ..integrations.data.tokenizer import train_tokenizer

    sources, weights = weighted_sources(options.sources)
    tokenizer = train_tokenizer(
        sources,
        options.size,
        max_length=options.max_length,
        weights=weights,
        num_characters=options.characters,
        seed=options.seed,
    )
    tokenizer.save_pretrained(options.output)
    print(f"Wrote a tokenizer of {len(tokenizer):,} entries to {options.output}.")
