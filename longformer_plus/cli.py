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
    options = parser.parse_args(arguments)
    if not options.document.is_file():
        parser.error(f"{options.document} is not a file. Name a text file in UTF-8.")
    # Imported when asked: parsing a command line need not load torch.
    from . import quickstart as room

    room.run(options.document)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
