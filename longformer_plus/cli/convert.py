"""`longformer-plus convert`: other checkpoints to LongformerPlus, and back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Convert a checkpoint of another kind to LongformerPlus, with its tokenizer. The kind is detected:

  RoBERTa, XLM-RoBERTa, CamemBERT, BERT, ELECTRA   made long: layers and head are kept, positions are copied one after
                                                   another, global projections are copies of the local ones
  Longformer                                       the same weights, as safetensors
  Longformer of AllenAI's first release            its one-sided windows counted on both sides
  LED                                              the encoder
  TFLongformer (tf_model.h5)                       without TensorFlow; needs the extra `tensorflow`

With --to, convert LongformerPlus back to transformers' Longformer, or to a short model. A model with features that the
target lacks (dilation, causal attention ...) is refused. With --to sentence-transformers, write the encoder of a
checkpoint, or of adapters, as SentenceTransformer(...) loads it; this needs the extra `sentence-transformers`.

A model that was made long computes what the short one did, wherever half the window reaches across the document. For
longer ones it should be trained on a little more text.
"""

_EXAMPLES = """\
examples:
  longformer-plus convert FacebookAI/xlm-roberta-base xlm-roberta-long
      a Longformer for a hundred languages: window 512, 4096 tokens
  longformer-plus convert my-bert my-bert-16k --attention-window 256 --max-length 16384
      256 is the whole window, 128 tokens on each side
  longformer-plus convert my-tf-longformer my-longformer
      a tf_model.h5 as safetensors
  longformer-plus convert my-longformer-plus my-longformer --to longformer
      for those who do not have this package
  longformer-plus convert xlm-roberta-long xlm-roberta-short --to xlm-roberta
      the first 512 positions, without the global projections
  longformer-plus convert my-longformer my-embeddings --to sentence-transformers --pooling mean --normalize
      then: import longformer_plus; SentenceTransformer("my-embeddings").encode(documents)
"""


def add(commands: Any) -> None:
    """Add the subcommand `convert`."""
    parser = commands.add_parser(
        "convert",
        help="make a short model long; convert Longformers of any kind, and back",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", help="its folder, its name on the hub, shipped or shipped:TASK")
    parser.add_argument("output", type=Path, help="the folder to write; it appears when all is done")
    parser.add_argument(
        "--to",
        default="longformer_plus",
        metavar="KIND",
        help="longformer_plus (the default), longformer, roberta, xlm-roberta, camembert, bert, electra or "
        "sentence-transformers",
    )
    parser.add_argument(
        "--pooling", default="mean", metavar="HOW", help="for sentence-transformers: mean (the default) or first"
    )
    parser.add_argument("--normalize", action="store_true", help="for sentence-transformers: vectors of length 1")
    parser.add_argument(
        "--attention-window",
        type=int,
        nargs="+",
        metavar="W",
        help="of a model made long: total width in tokens, half on each side; one for all layers or one for each; "
        "512 by default",
    )
    parser.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="tokens of the longest document: of a model made long 4096 by default, of one made short 512",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the checkpoint that is in the output folder")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    if options.to == "sentence-transformers":
        _write_embedder(options)
        return
    from ..conversion import convert_checkpoint
    from ..shipped.names import resolve_checkpoint
    from .info import summary

    if options.pooling != "mean" or options.normalize:
        raise ValueError("--pooling and --normalize go with --to sentence-transformers.")
    windows = options.attention_window
    model = convert_checkpoint(
        resolve_checkpoint(options.checkpoint),
        options.output,
        options.to,
        attention_window=windows[0] if windows and len(windows) == 1 else windows,
        max_length=options.max_length,
        overwrite=options.overwrite,
    )
    print(f"Wrote {options.output}: {summary(model)}.")


def _write_embedder(options: argparse.Namespace) -> None:
    from ..shipped.names import resolve_checkpoint

    try:
        from ..integrations.sentence_transformers import save_for_sentence_transformers
    except ModuleNotFoundError as error:
        if error.name != "sentence_transformers":
            raise
        raise ModuleNotFoundError(
            "sentence-transformers is needed: pip install 'longformer-plus[sentence-transformers]'.", name=error.name
        ) from error
    if options.attention_window is not None:
        raise ValueError(f"--attention-window is not for {options.to}: the checkpoint has its own.")
    model = save_for_sentence_transformers(
        resolve_checkpoint(options.checkpoint),
        options.output,
        options.pooling,
        normalize=options.normalize,
        max_length=options.max_length,
        overwrite=options.overwrite,
    )
    size, length = model.get_embedding_dimension(), model.max_seq_length
    print(f"Wrote {options.output}: {size} numbers for a document of up to {length:,} tokens.")
