"""The command `longformer-plus`, one module for each subcommand.

The function `add` of each defines its options. A subcommand imports what it needs only when it runs: that may need an
extra.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from . import (
    bench,
    character_lm,
    convert,
    demo,
    doctor,
    evaluate,
    export,
    extend,
    extras,
    info,
    merge,
    predict,
    quickstart,
    tokenizer,
    train,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: the command line without the program's name; that of the process when None.

    Returns:
        The exit status: 0; 1 where some documents of a corpus could not be read; or 2 where the command line or a file
        named in it is wrong.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="longformer-plus", description="LongformerPlus on the command line.")
    commands = parser.add_subparsers(dest="command", required=True)
    for subcommand in (
        quickstart,
        demo,
        convert,
        extend,
        tokenizer,
        train,
        evaluate,
        predict,
        merge,
        info,
        doctor,
        export,
        bench,
        character_lm,
    ):
        subcommand.add(commands)
    options = parser.parse_args(arguments)
    options.command_line = shlex.join([parser.prog, *arguments])
    try:
        return options.run(options) or 0
    except ModuleNotFoundError as error:
        parser.exit(2, f"{parser.prog}: error: {extras.named(error)}\n")
    except (OSError, ValueError) as error:
        # Without the usage, which does not help where a file is wrong.
        parser.exit(2, f"{parser.prog}: error: {error}\n")
