"""`longformer-plus demo`: the web demo."""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

from .precision_option import add_precision, announced_precision

_PACKAGES = ("gradio", "pypdf", "docx", "peft")
_TASKS = ("fill-mask", "question-answering", "text-classification", "token-classification")


def add(commands: Any) -> None:
    """Add the subcommand `demo`."""
    parser = commands.add_parser(
        "demo",
        help="see in the browser what a model looks at",
        description="Serve a page that shows what a model attends to in long documents, answers questions about them, "
        "and measures it. Needs the extra `demo`.",
    )
    where = "its folder, its name on the hub, shipped or shipped:TASK"
    parser.add_argument(
        "--model", help=f"a LongformerPlus or Longformer checkpoint ({where}); by default the one of the package"
    )
    for task in _TASKS:
        parser.add_argument(f"--{task}", metavar="MODEL", help=f"a checkpoint, or a PEFT adapter, for {task}")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all networks")
    parser.add_argument("--port", type=int, help="by default the first free one from 7860")
    parser.add_argument(
        "--auth", type=_name_and_password, metavar="NAME:PASSWORD", help="what visitors must enter to see the page"
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a host name under which the page may be opened, beside this machine's own and addresses in digits; may be"
        " given several times; * allows all",
    )
    add_precision(parser)
    parser.set_defaults(run=_run)


def _name_and_password(given: str) -> tuple[str, str]:
    name, _, password = given.partition(":")
    if not name or not password:
        raise argparse.ArgumentTypeError("give NAME:PASSWORD, neither of them empty")
    return name, password


def _run(options: argparse.Namespace) -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"Not installed: {', '.join(missing)}. Run `pip install longformer-plus[demo]`.")
    from ..shipped.names import SHIPPED, resolve_checkpoint

    # Before all that the page imports: a name that leads nowhere fails at once.
    named = {name: getattr(options, name) for name in ("model", *(task.replace("-", "_") for task in _TASKS))}
    found = {name: None if given in (None, SHIPPED) else resolve_checkpoint(given) for name, given in named.items()}
    from ..demo.app import launch
    from ..demo.checkpoints import Checkpoints

    precision = announced_precision(options.precision)
    launch(
        Checkpoints.find(**found, precision=precision),
        options.host,
        options.port,
        options.allowed_host,
        options.auth,
    )
