"""`longformer-plus predict`: a model's predictions for files, folders and whole corpora."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from typing import Any

from .precision_option import add_precision, announced_precision
from .train import pair

_DESCRIPTION = """\
Predict for all documents of some files, folders, patterns or hub data sets, each of any length: one longer than the
model is read in overlapping stretches and judged as a whole.

  text-classification   label, score, scores of all labels
  token-classification  entities, with their characters in the document
  question-answering    answers, with their characters in the document
  fill-mask             what may stand in place of each <mask>
  feature-extraction    an embedding: the mean of the tokens' vectors, or the first token's

input: .txt, .md, .pdf, .docx (each file is a document); .jsonl, .json (a list), .csv, .tsv, .parquet (each row is one);
also packed as .gz, .bz2, .xz or .zst; folders with all that is below them; patterns; NAME:SPLIT of the hub; - for
standard input. Parquet, PDF and Word need the extra `files`, adapters `peft`.

output: a folder of parts, part-00000.jsonl and so on, each written whole or not at all; errors.jsonl with the
documents that could not be read, and why; predict.json, the options. The exit status is 1 where errors.jsonl has some.
"""

_EXAMPLES = """\
examples:
  longformer-plus predict --task text-classification --model my-classifier --input letters/ --output labels
      a folder of .txt, .pdf and .docx files
  longformer-plus predict --task token-classification --model shipped:token-classification --input novels.jsonl.xz \\
      --output names
      with the checkpoint that comes with the package
  longformer-plus predict --task question-answering --model my-answers --input 'contracts/*.pdf' --output dates \\
      --question 'When does the contract end?'
      one question for all documents; without --question each row has its own
  longformer-plus predict --task feature-extraction --model my-longformer --input articles.parquet \\
      --columns text=body --normalize --format parquet --output vectors
      embeddings, to be compared by their dot products
  longformer-plus predict ... --output labels --workers 8 --engine ray --ray-address 10.0.0.1:6379
      on a cluster; without --ray-address and --engine in eight processes on this machine
  longformer-plus predict ... --output labels --resume
      the same command again: go on with a run that was stopped or killed, as if nothing had happened
"""


def add(commands: Any) -> None:
    """Add the subcommand `predict`."""
    parser = commands.add_parser(
        "predict",
        help="classify, tag, question or embed all documents of files and folders",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--task", required=True, metavar="TASK", help="one of those above")
    add("--model", required=True, metavar="CHECKPOINT", help="a folder, a name on the hub, shipped or shipped:TASK")
    add("--input", required=True, nargs="+", metavar="SOURCE", help="what is read")
    add("--output", required=True, metavar="FOLDER", help="where the predictions go; must be new or empty")
    add("--columns", nargs="+", type=pair, default=[], metavar="FIELD=COLUMN", help="such as text=review")
    add("--question", metavar="TEXT", help="for question-answering: what all documents are asked")
    add("--pooling", default="mean", metavar="HOW", help="for feature-extraction: mean (the default) or first")
    add("--normalize", action="store_true", help="for feature-extraction: vectors of length 1")
    add("--format", default="jsonl", metavar="NAME", help="jsonl (the default) or parquet")
    add("--max-length", type=int, metavar="N", help="tokens of a stretch; all that the model can by default")
    add("--batch-tokens", type=int, default=16384, metavar="N", help="tokens of a batch, padding included (16384)")
    add("--part-size", type=int, default=256, metavar="N", help="documents of a part (256)")
    add_precision(parser, default="auto")
    add("--workers", type=int, default=1, metavar="N", help="processes that share the work, each with a model (1)")
    add("--engine", default="local", metavar="NAME", help="local (the default), or ray: workers are its actors")
    add("--ray-address", metavar="ADDRESS", help="where the Ray cluster is; on this machine by default")
    add("--resume", action="store_true", help="go on with the run in the output folder, if there is one")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..integrations.prediction import PredictionPlan, predict
    from ..integrations.prediction.run import last_line
    from ..shipped.names import resolve_checkpoint

    given = {each.name: getattr(options, each.name) for each in fields(PredictionPlan)}
    given |= {"columns": dict(options.columns), "model": resolve_checkpoint(options.model)}
    plan = PredictionPlan(**{**given, "precision": announced_precision(options.precision)})
    try:
        summary = predict(plan)
    except KeyboardInterrupt:
        print(f"Stopped. Run the same command with --resume to go on with {plan.output}.", file=sys.stderr)
        return 130
    print(last_line(plan, summary))
    return 1 if summary.errors else 0
