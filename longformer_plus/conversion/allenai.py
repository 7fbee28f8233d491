"""AllenAI's own releases of Longformer, from before transformers had it.

They are RoBERTa's layout with global projections. Their `attention_window` counts one side of the window, where
transformers and this package count both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase, RobertaConfig

from ..configuration import LongformerPlusConfig
from ..model.encoder import LongformerPlusModel
from ..model.heads import LongformerPlusForMaskedLM
from ..model.pretrained import LongformerPlusPreTrainedModel
from .assembling import assemble, drop, rename, with_global_projections
from .reading import Checkpoint, CheckpointError, find_checkpoint, guarded, load_tokenizer, read_config, read_weights
from .to_long import POSITIONS, SHARED_FIELDS
from .writing import check_output, save

# A field that only the config.json of their releases has.
SIGN = "attention_mode"

# RoBERTa's, and fixed in their code whatever the configuration says.
_PADDING_INDEX = 1


def convert_from_allenai(
    path: Checkpoint,
    save_to: Checkpoint | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overwrite: bool = False,
) -> LongformerPlusPreTrainedModel:
    """A LongformerPlus model from a folder of AllenAI's release (`longformer-base-4096.tar.gz`, unpacked).

    If the weights include an LM head, it is a LongformerPlusForMaskedLM, else a LongformerPlusModel. Use
    `convert_from_led` for their LED releases.

    Args:
        path: the folder, with config.json and pytorch_model.bin; or a repository of that layout.
        save_to: a new folder for the model and its tokenizer; by default nothing is written.
        tokenizer: to be saved with the model; by default that of the folder, if any. Their releases have none: they use
            RoBERTa's.
        overwrite: replace the checkpoint at `save_to`.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: the folder's files are damaged, unsafe, incomplete, or not of that layout.
        FileExistsError: `save_to` exists.
    """
    check_output(save_to, overwrite)
    folder = find_checkpoint(path)
    fields = read_config(folder)
    if SIGN not in fields or "hidden_size" not in fields:
        raise CheckpointError(f"{folder} is no Longformer of AllenAI's release: its config.json has no {SIGN!r}.")
    weights = drop(rename(read_weights(folder), [("roberta.", "")]), ["embeddings.position_ids"])
    if not any(".query_global." in name for name in weights):
        weights = with_global_projections(weights)
    model = _assemble(folder, fields, weights)
    if save_to is not None:
        save(model, tokenizer or load_tokenizer(folder), save_to, overwrite)
    return model


def attention_fields(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Convert the attention options of their configuration to those of LongformerPlusConfig.

    Raises:
        CheckpointError: the windows are missing.
    """
    one_sided = fields.get("attention_window")
    if not isinstance(one_sided, list) or not all(isinstance(width, int) for width in one_sided):
        raise CheckpointError(
            f"{folder} says attention_window={one_sided!r}: a list of ints, one per layer, is expected."
        )
    return {
        "attention_window": [2 * width for width in one_sided],
        "attention_dilation": fields.get("attention_dilation") or 1,
        "is_causal": bool(fields.get("autoregressive", False)),
    }


def _assemble(folder: Path, fields: dict[str, Any], weights: dict[str, Tensor]) -> LongformerPlusPreTrainedModel:
    if POSITIONS not in weights:
        raise CheckpointError(f"{folder} has no weights for {POSITIONS}, as RoBERTa's layout names it.")
    config = guarded(folder / "config.json", lambda: _config(folder, fields, weights[POSITIONS].shape[0]))
    if not any(name.startswith("lm_head.") for name in weights):
        return assemble(LongformerPlusModel, config, weights, add_pooling_layer="pooler.dense.weight" in weights)
    # RoBERTa's LM of that time had a pooler that nothing used.
    encoder = [(name, f"longformer.{name}") for name in ("embeddings.", "encoder.")]
    return assemble(LongformerPlusForMaskedLM, config, rename(drop(weights, ["pooler."]), encoder))


def _config(folder: Path, fields: dict[str, Any], num_positions: int) -> LongformerPlusConfig:
    roberta = RobertaConfig(**{name: fields[name] for name in SHARED_FIELDS if name in fields})
    return LongformerPlusConfig(
        **{
            **{name: getattr(roberta, name) for name in SHARED_FIELDS},
            **attention_fields(fields, folder),
            "max_position_embeddings": num_positions,
            "pad_token_id": _PADDING_INDEX,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "sep_token_id": 2,
        }
    )
