"""`longformer-plus evaluate`: a checkpoint's scores on held-out data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .precision_option import add_precision, announced_precision
from .task_help import TaskHelp
from .train import pair


def add(commands: Any) -> None:
    """Add the subcommand `evaluate`."""
    parser = commands.add_parser(
        "evaluate",
        help="score a checkpoint on held-out data, beside simple baselines",
        description="Score a checkpoint, or adapters, on whole documents of held-out data, beside baselines that only "
        "count words. Needs the extra `train`, adapters also `peft`.\n\n"
        "{evaluations}",
        epilog="examples:\n"
        "  longformer-plus evaluate --task fill-mask --model my-longformer --eval novels.jsonl.xz\n"
        "      what reading 4096 tokens at once gains over reading 512\n"
        "  longformer-plus evaluate --task question-answering --model answers --eval squad.jsonl.xz --join-by title\n"
        "      questions about whole articles\n"
        "  longformer-plus evaluate --task fill-mask --model my-longformer --prompts 'He opened the <mask>.'\n"
        "      the five likeliest words\n"
        "  longformer-plus evaluate --task fill-mask --model my-short-model --eval novels.jsonl.xz\n"
        "      the same hidden tokens for a model of 512 tokens, to be compared with a longer one",
        formatter_class=TaskHelp,
    )
    add = parser.add_argument
    add("--task", required=True, metavar="TASK", help="one of those above")
    add("--model", required=True, metavar="CHECKPOINT", help="a folder, a name on the hub, shipped or shipped:TASK")
    add("--eval", dest="evaluation", nargs="+", default=[], metavar="SOURCE", help="files, folders or hub data sets")
    add("--train", nargs="+", default=[], metavar="SOURCE", help="what the baselines learn from")
    add("--prompts", nargs="+", default=[], metavar="TEXT", help="for fill-mask: sentences with one <mask>")
    add(
        "--columns",
        nargs="+",
        type=pair,
        default=[],
        metavar="FIELD=COLUMN",
        help="names of fields in the data, if other",
    )
    add("--join-by", metavar="FIELD", help="join the paragraphs with the same FIELD to one article, such as title")
    add("--contexts", nargs="+", type=int, default=[512, 4096], metavar="N", help="for fill-mask (512 4096)")
    add("--max-length", type=int, metavar="N", help="for other tasks: tokens read at once; all that the model can")
    add("--max-rows", type=int, metavar="N", help="use no more rows of a source, drawn at random")
    add("--batch", dest="batch_size", type=int, default=4, metavar="B", help="stretches read at once (4)")
    add("--seed", type=int, default=0, help="of which rows are drawn and which tokens are hidden")
    add_precision(parser)
    add("--json", type=Path, metavar="FILE", help="write the scores, too")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from ..integrations.checkpoints import load_checkpoint
    from ..integrations.evaluation import EvaluationPlan, evaluate_checkpoint
    from ..integrations.tasks.fill_mask import TASK as FILL_MASK
    from ..integrations.tasks.fill_mask import fill_prompts
    from ..shipped.names import resolve_checkpoint

    if not options.evaluation and not options.prompts:
        raise ValueError("There is nothing to evaluate on: give --eval, or --prompts for fill-mask.")
    model = resolve_checkpoint(options.model)
    precision = announced_precision(options.precision)
    results: dict[str, Any] = {"command": options.command_line, "precision": precision}
    if options.prompts:
        results["prompts"] = fill_prompts(*load_checkpoint(FILL_MASK.name, model, precision), options.prompts)
        for prompt, words in results["prompts"].items():
            print(f"{prompt}  {', '.join(words)}")
    if options.evaluation:
        plan = EvaluationPlan(
            options.task,
            model,
            options.evaluation,
            train=options.train,
            columns=dict(options.columns),
            join_by=options.join_by,
            contexts=options.contexts,
            max_length=options.max_length,
            max_rows=options.max_rows,
            batch_size=options.batch_size,
            seed=options.seed,
            precision=precision,
        )
        results["scores"] = evaluate_checkpoint(plan)
        for name, scores in results["scores"].items():
            formatted = (f"{score.replace('_', ' ')} {value:.4g}" for score, value in scores.items())
            print(f"{name}: {', '.join(formatted)}")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
