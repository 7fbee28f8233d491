"""`longformer-plus character-lm`: the paper's character-level language models, small or large."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Train character-level language models as the paper's section 4.1 does: windows that grow with depth, two dilated heads
in each upper layer, and stages with ever longer documents. A model of the same size without dilation, and one with
full attention, are trained on as many characters beside it; all are compared in bits per character of held-out text.
"""

_EXAMPLES = """\
example:
  longformer-plus character-lm --train novels.train.jsonl.xz --eval novels.validation.jsonl.xz \\
      --length 512 --window 64 --stages 3 --steps 300 --json characters.json --plot characters.svg
      three stages, of documents of 512, 1024 and 2048 characters, and windows up to 64, 128 and 256 wide
"""


def add(commands: Any) -> None:
    """Add the subcommand `character-lm`."""
    parser = commands.add_parser(
        "character-lm",
        help="train character-level language models with growing windows and dilated heads",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    parser.set_defaults(run=_run)
    add("--train", type=Path, nargs="+", required=True, metavar="FILE", help='text, or .jsonl(.xz) with a field "text"')
    add("--eval", type=Path, nargs="+", required=True, metavar="FILE", help="held-out text, of the same formats")
    add("--eval-characters", type=int, default=100_000, metavar="N", help="how much of the held-out text is used")
    add(
        "--variants",
        nargs="+",
        default=["dilated", "undilated", "full attention"],
        metavar="NAME",
        help="what to train",
    )
    add(
        "--stages", type=int, default=3, metavar="S", help="stages; each doubles length and window, and halves the rate"
    )
    add("--length", type=int, default=512, metavar="N", help="characters of a document in the first stage")
    add("--window", type=int, default=64, metavar="W", help="the uppermost layer's window in the first stage")
    add("--full-length", type=int, default=1024, metavar="N", help="the longest documents with full attention")
    add("--steps", type=int, default=300, metavar="N", help="updates in each stage")
    add("--learning-rate", type=float, default=2e-3, metavar="R", help="of the first stage")
    add("--characters-per-step", type=int, default=4096, metavar="N")
    add("--layers", type=int, default=6, metavar="L")
    add("--heads", type=int, default=4, metavar="H")
    add("--hidden", type=int, default=128, metavar="E")
    add("--seed", type=int, default=0)
    add("--json", type=Path, metavar="FILE", help="record the results in this file, after each model")
    add("--plot", type=Path, metavar="FILE", help="draw the curves into an .svg or .png; needs the extra `bench`")


def _run(options: argparse.Namespace) -> None:
    from ..benchmark import report as benchmark_report
    from ..benchmark.measuring import environment
    from ..integrations.recipes import character_lm

    if options.plot:
        benchmark_report.check_plot(options.plot)
    recipe = character_lm.Recipe.growing(
        character_lm.Stage(options.length, options.window, options.steps, options.learning_rate),
        options.stages,
        layers=options.layers,
        heads=options.heads,
        hidden=options.hidden,
        characters_per_step=options.characters_per_step,
        full_length=options.full_length,
        seed=options.seed,
    )

    def save(content: dict[str, Any]) -> None:
        if options.json:
            options.json.write_text(json.dumps(content, indent=1) + "\n")

    record = {"command": options.command_line, **environment("cpu")}
    results = character_lm.run(
        recipe, options.variants, options.train, options.eval, options.eval_characters, record, save
    )
    print(character_lm.table(results))
    if options.plot:
        character_lm.plot(results, options.plot)
