"""The option --precision of inference."""

from __future__ import annotations

import argparse
import sys


def add_precision(parser: argparse.ArgumentParser, default: str = "float32") -> None:
    """Add the option to a subcommand's parser."""
    parser.add_argument(
        "--precision",
        default=default,
        metavar="NAME",
        help=f"float32, bfloat16, int8 (on CPUs), or auto: the fastest here whose loss of quality is small ({default})",
    )


def announced_precision(precision: str) -> str:
    """What "auto" is on this machine, said with its reason on standard error; any other precision as it is.

    Raises:
        ValueError: it is not allowed.
    """
    from ..integrations.precision import choose_precision

    chosen = choose_precision(precision)
    if precision == "auto":
        print(f"Precision {chosen.name}: {chosen.reason}.", file=sys.stderr)
    return chosen.name
