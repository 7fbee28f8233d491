"""Long models back to short ones of transformers' other families."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..model.embeddings import tile_positions
from ..model.pretrained import LongformerPlusPreTrainedModel
from .assembling import assemble, drop, rename, without_global_projections
from .longformer import load_longformer_plus, refuse_what_only_longformer_plus_has
from .reading import Checkpoint
from .short_models import ELECTRA, HEADS, Family, Head
from .to_long import ENCODER, POSITIONS, SHARED_FIELDS
from .writing import check_output, save


def convert_to_short(
    model_or_path: LongformerPlusPreTrainedModel | Checkpoint,
    model_type: str,
    max_length: int = 512,
    save_to: Checkpoint | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overwrite: bool = False,
) -> PreTrainedModel:
    """A short model of transformers from a LongformerPlus model, the inverse of `convert_to_long`.

    The global projections and the positions beyond `max_length` are dropped. Every token of the short model sees every
    other. So the two compute the same if half the window reaches across the document and the global projections equal
    the local ones.

    Args:
        model_or_path: a LongformerPlus model, or the folder or name on the hub of one, or of a Longformer.
        model_type: "roberta", "xlm-roberta", "camembert", "bert" or "electra".
        max_length: the most tokens of a document.
        save_to, tokenizer, overwrite: as for `convert_to_long`.

    Returns:
        The short model, in evaluation mode.

    Raises:
        CheckpointError, FileExistsError: as for `convert_to_long`.
        ValueError: the model has what the short one cannot have (dilation, causal attention, a head), or an argument
            is not allowed.
    """
    check_output(save_to, overwrite)
    model, tokenizer = load_longformer_plus(model_or_path, tokenizer)
    refuse_what_only_longformer_plus_has(model.config, f"A model of type {model_type!r}")
    family, class_name, head = _class_for(model, model_type)
    if not isinstance(max_length, int) or not 1 <= max_length <= model.config.max_tokens:
        raise ValueError(
            f"max_length={max_length!r} is not allowed: it must be an int from 1 to {model.config.max_tokens}, the "
            "positions of the long model."
        )
    config = _short_config(model, model_type, family, head, max_length)
    weights = _short_weights(model, family, head, max_length)
    options: dict[str, bool] = {}
    if class_name.endswith("Model") and family.has_pooler:
        options["add_pooling_layer"] = "pooler.dense.weight" in weights
    short = assemble(getattr(transformers, class_name), config, weights, **options)
    if save_to is not None:
        save(short, tokenizer, save_to, overwrite, max_length)
    return short


def _class_for(model: LongformerPlusPreTrainedModel, model_type: str) -> tuple[Family, str, Head]:
    """The family of a model type, and its class and head for those of `model`."""
    prefixes = {kind: name for family in HEADS for kind, name in zip(family.model_types, family.names, strict=True)}
    if model_type not in prefixes:
        raise ValueError(f"model_type={model_type!r} is not allowed: it must be one of {', '.join(prefixes)}.")
    family = next(family for family in HEADS if model_type in family.model_types)
    for name, head in HEADS[family].items():
        if isinstance(model, head.target) and name != "ForPreTraining":
            return family, prefixes[model_type] + name, head
    raise ValueError(
        f"{prefixes[model_type]} models have no head that computes what {type(model).__name__}'s does. Convert the "
        "encoder alone: pass model.longformer."
    )


def _short_config(
    model: LongformerPlusPreTrainedModel, model_type: str, family: Family, head: Head, max_length: int
) -> Any:
    long = model.config
    fields = {name: getattr(long, name) for name in SHARED_FIELDS}
    fields.update(head.needs)
    if "hidden_act" in dict(head.needs) and long.hidden_act != fields["hidden_act"]:
        raise ValueError(
            f"hidden_act={long.hidden_act!r} has no equal in a {model_type!r} model with this head: its head would "
            f"have it too, and Longformer's has {fields['hidden_act']!r}."
        )
    if family is ELECTRA:
        fields["embedding_size"] = long.hidden_size
    reserved = long.max_position_embeddings - long.max_tokens if family.has_reserved_positions else 0
    return AutoConfig.for_model(model_type, **fields, max_position_embeddings=max_length + reserved)


def _short_weights(model: LongformerPlusPreTrainedModel, family: Family, head: Head, max_length: int) -> dict[str, Any]:
    reserved = model.config.max_position_embeddings - model.config.max_tokens
    weights = without_global_projections(rename(model.state_dict(), [("longformer.", "")]))
    table = tile_positions(weights[POSITIONS], reserved, reserved + max_length)
    weights[POSITIONS] = table if family.has_reserved_positions else table[reserved:]
    if family is ELECTRA:
        weights = drop(weights, ["lm_head.bias"])  # it is that of the decoder
    weights = rename(weights, [(here, there) for there, here in head.renamed])
    if model.base_model is model:
        return weights if family.has_pooler else drop(weights, ["pooler."])
    return rename(weights, [(part, f"{family.prefix}.{part}") for part in ENCODER])
