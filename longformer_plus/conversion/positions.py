"""Longer position tables: 16,384 tokens, 65,536, 131,072."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..model.pretrained import LongformerPlusPreTrainedModel
from .longformer import load_longformer_plus
from .reading import Checkpoint
from .writing import check_output, save


def extend_positions(
    model_or_path: PreTrainedModel | Checkpoint,
    max_length: int,
    save_to: Checkpoint | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overwrite: bool = False,
) -> LongformerPlusPreTrainedModel:
    """Positions for longer documents: copies of those that the model has, one after another (the paper's section 5).

    Up to the old length nothing changes; beyond it a little training is needed. `resize_position_embeddings` of the
    model does the same to a table's number of rows.

    Args:
        model_or_path: a LongformerPlus or Longformer model, or the folder or name on the hub of one. A LongformerPlus
            model is changed in place.
        max_length: the most tokens of a document.
        save_to: a new folder for the model and its tokenizer; by default nothing is written.
        tokenizer: to be saved with it; read from the folder if that is given.
        overwrite: replace the checkpoint at `save_to`.

    Returns:
        The model.

    Raises:
        CheckpointError: the folder's files are damaged, unsafe or incomplete.
        FileExistsError: `save_to` exists.
        TypeError: the model is of another kind.
        ValueError: `max_length` is not above the number of positions of the model.
    """
    check_output(save_to, overwrite)
    model, tokenizer = load_longformer_plus(model_or_path, tokenizer)
    config = model.config
    if not isinstance(max_length, int) or max_length <= config.max_tokens:
        raise ValueError(
            f"max_length={max_length!r} is not allowed: it must be an int above {config.max_tokens}, the positions "
            "that the model has. For fewer use model.resize_position_embeddings."
        )
    model.resize_position_embeddings(max_length + config.max_position_embeddings - config.max_tokens)
    if save_to is not None:
        save(model, tokenizer, save_to, overwrite)
    return model
