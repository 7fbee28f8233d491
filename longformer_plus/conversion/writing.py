"""Writing checkpoints: a folder appears only when it is complete, and replaces another only with `overwrite`."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase, RobertaTokenizer

from ..model.pretrained import LongformerPlusPreTrainedModel
from ..tokenization import LongformerPlusTokenizer
from .reading import Checkpoint


def check_output(path: Checkpoint | None, overwrite: bool) -> None:
    """Check, before any work is done, that a checkpoint can be written to `path`.

    Raises:
        FileExistsError: it exists, and `overwrite` is False.
        ValueError: it is a file or a folder that is no checkpoint, or its parent folder does not exist.
    """
    if path is None:
        return
    output = Path(path)
    if not output.absolute().parent.is_dir():
        raise ValueError(f"{output.parent} is not a folder: make it first.")
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise ValueError(f"{output} is not a folder: give the name of a new one.")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(
            f"{output} exists: choose another name, or ask for overwriting (overwrite=True, --overwrite)."
        )
    if not (output / "config.json").is_file() or any(path.is_dir() for path in output.iterdir()):
        raise ValueError(
            f"{output} is not overwritten: it has no config.json, or folders of its own, and may hold more than a "
            "checkpoint. Choose another name."
        )


@contextmanager
def new_folder(path: Checkpoint, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write a checkpoint into, which takes its place at `path` when the block ends without an error.

    Until then it stands beside it under a hidden name that ends in ".partial", and is removed if an error is raised.

    Raises:
        FileExistsError, ValueError: as `check_output`.
    """
    check_output(path, overwrite)
    output = Path(path).absolute()
    draft = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.", suffix=".partial"))
    try:
        yield draft
        draft.chmod(0o777 & ~_umask())  # mkdtemp makes it readable to its owner only
        _publish(draft, output)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    path: Checkpoint,
    overwrite: bool = False,
    max_length: int | None = None,
) -> None:
    """Write a model, and its tokenizer if there is one, to a folder that appears when both are written.

    A RoBERTa tokenizer of a LongformerPlus model becomes the tokenizer of this package, which gives the same ids; of
    another model it becomes RoBERTa's again.

    Args:
        model: the model.
        tokenizer: it is not changed; the written copy gets the model's `model_max_length`.
        path: a new folder.
        overwrite: replace the checkpoint that is there.
        max_length: the most tokens of a document; what a LongformerPlus model has positions for when None.
    """
    is_plus = isinstance(model, LongformerPlusPreTrainedModel)
    with new_folder(path, overwrite) as folder:
        model.save_pretrained(folder)
        if tokenizer is None:
            return
        tokenizer = _tokenizer_for(tokenizer, is_plus)
        tokenizer.model_max_length = model.config.max_tokens if max_length is None else max_length
        tokenizer.save_pretrained(folder)


def _tokenizer_for(tokenizer: PreTrainedTokenizerBase, is_plus: bool) -> PreTrainedTokenizerBase:
    """A copy of a tokenizer, of the class that goes with a LongformerPlus model or another."""
    of_plus = isinstance(tokenizer, LongformerPlusTokenizer)
    if of_plus == is_plus or not (of_plus or type(tokenizer) is RobertaTokenizer):
        return copy.deepcopy(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        other = (LongformerPlusTokenizer if is_plus else RobertaTokenizer).from_pretrained(folder)
    other.init_kwargs.pop("auto_map", None)
    return other


def _publish(draft: Path, output: Path) -> None:
    """Move a complete draft to its place; an existing folder is kept until the draft has its name."""
    if not output.exists():
        draft.replace(output)
        return
    aside = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.", suffix=".old"))
    output.replace(aside / output.name)
    try:
        draft.replace(output)
    except BaseException:
        (aside / output.name).replace(output)
        raise
    finally:
        shutil.rmtree(aside)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
