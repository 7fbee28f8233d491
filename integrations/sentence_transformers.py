"""sentence-transformers: a checkpoint as a folder that `SentenceTransformer` loads, trains and saves.

    save_for_sentence_transformers("my-longformer", "my-embeddings")
    SentenceTransformer("my-embeddings").encode(documents)

The program that loads the folder imports `longformer_plus` first, or trusts the remote code that lies in it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import AutoTokenizer

from longformer_plus import LongformerPlusConfig
from longformer_plus.conversion.writing import check_output, new_folder, save
from longformer_plus.model.silence import silence

from .checkpoints import load_encoder
from .long_documents.embedding import POOLINGS

_MODES = {"mean": "mean", "first": "cls"}


def save_for_sentence_transformers(
    checkpoint: str | Path,
    save_to: str | Path,
    pooling: str = "mean",
    *,
    normalize: bool = False,
    max_length: int | None = None,
    overwrite: bool = False,
) -> SentenceTransformer:
    """Write the encoder of a checkpoint, or of adapters merged into their base, as sentence-transformers reads it.

    The first token attends globally where it is what is pooled, unless the checkpoint says which tokens do.

    Args:
        checkpoint: a folder, or a name on the hub.
        save_to: the new folder.
        pooling: "mean" of the tokens' last hidden states, or the "first" of them.
        normalize: give embeddings of length 1.
        max_length: the most tokens of a document, which is cut there; all that the model has positions for when None.
        overwrite: replace the checkpoint at `save_to`.

    Returns:
        The model that was written.

    Raises:
        FileExistsError: the folder exists, and overwriting was not asked for.
        OSError: there is no such checkpoint.
        ValueError: an option is not allowed, or the folder cannot be written.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling={pooling!r} is not allowed: it must be one of {', '.join(map(repr, POOLINGS))}.")
    check_output(save_to, overwrite)
    loaded: Any = load_encoder(checkpoint)
    model, tokenizer = loaded
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    config: LongformerPlusConfig = model.config
    if max_length is not None and not 0 < max_length <= config.max_tokens:
        raise ValueError(
            f"max_length={max_length} is not allowed: the model has positions for 1 to {config.max_tokens}."
        )
    if pooling == "first" and config.global_attention == "auto":
        config.global_attention = "cls"
    with silence(), tempfile.TemporaryDirectory() as plain, new_folder(save_to, overwrite) as draft:
        save(model, tokenizer, Path(plain) / "model", max_length=max_length)
        transformer = Transformer(str(Path(plain) / "model"))
        modules = [transformer, Pooling(config.hidden_size, _MODES[pooling]), *([Normalize()] if normalize else [])]
        SentenceTransformer(modules=modules, device="cpu").save(str(draft))
        # Beside the modules' own files, what `trust_remote_code=True` reads.
        model.save_pretrained(draft)
        AutoTokenizer.from_pretrained(Path(plain) / "model").save_pretrained(draft)
        _leave_pooler_out(draft / "sentence_bert_config.json")
    return SentenceTransformer(str(save_to))


def _leave_pooler_out(file: Path) -> None:
    """Let the encoder be loaded without a pooler, which nothing uses and whose weights would be random."""
    fields = {**json.loads(file.read_text(encoding="utf-8")), "model_kwargs": {"add_pooling_layer": False}}
    file.write_text(json.dumps(fields, indent=4) + "\n", encoding="utf-8")
