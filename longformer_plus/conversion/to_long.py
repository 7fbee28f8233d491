"""Making the short models of `short_models` long."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..configuration import LongformerPlusConfig
from ..model.embeddings import tile_positions
from ..model.encoder import LongformerPlusModel
from ..model.pretrained import LongformerPlusPreTrainedModel
from .assembling import assemble, drop, rename, with_global_projections
from .reading import Checkpoint, find_checkpoint, load_model, load_tokenizer, read_config
from .short_models import ELECTRA, ENCODER_ALONE, ROBERTA, Family, Head, class_named, place_of
from .writing import check_output, save

logger = logging.get_logger(__name__)

POSITIONS = "embeddings.position_embeddings.weight"
ENCODER = ("embeddings.", "encoder.", "pooler.")

SHARED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "id2label",
    "label2id",
    "problem_type",
)


def convert_to_long(
    model_or_path: PreTrainedModel | Checkpoint,
    attention_window: int | list[int] = 512,
    max_length: int = 4096,
    save_to: Checkpoint | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overwrite: bool = False,
) -> LongformerPlusPreTrainedModel:
    """A LongformerPlus model from a short one, with the weights of its layers and its head: the paper's section 5.

    Positions are copies of the short model's, one after another; `*_global` projections are copies of the local ones.
    Up to the short model's length the two compute the same where half the window reaches across the document (a window
    of twice its length does). For longer ones a little training is needed, and a window of at most the short model's
    length: a wider one holds copied positions twice, of which a warning is given. In BERT and ELECTRA padding takes
    positions: pad to the right to compare with them.

    Args:
        model_or_path: a RoBERTa, XLM-RoBERTa, CamemBERT, BERT or ELECTRA model of transformers, or the folder or name
            on the hub of one.
        attention_window: TOTAL width of the local window in tokens, half on each side; for all layers, or for each.
        max_length: the most tokens of a document.
        save_to: a new folder for the model and its tokenizer; by default nothing is written.
        tokenizer: of the short model; read from its folder if that is given. Its separator is what the policies
            of global attention look for.
        overwrite: replace the checkpoint at `save_to`.

    Returns:
        The long model, in evaluation mode, in the precision of the short one, sharing no memory with it.

    Raises:
        CheckpointError: the folder's files are damaged, unsafe or incomplete.
        FileExistsError: `save_to` exists.
        TypeError: the model is of another kind.
        ValueError: the model has a feature that Longformer lacks, or an argument is not allowed.
    """
    check_output(save_to, overwrite)
    if isinstance(model_or_path, PreTrainedModel):
        model = model_or_path
    else:
        folder = find_checkpoint(model_or_path)
        tokenizer = tokenizer or load_tokenizer(folder)
        model = load_model(class_named(read_config(folder).get("architectures"), folder), folder)
    family, head = place_of(model)
    _check_short(model.config, family, head)
    config = _long_config(model.config, family, attention_window, max_length, tokenizer)
    _warn_of_repeated_positions(config, short_length(model.config, family))
    converted = _with_weights_of(model, family, head, config)
    if save_to is not None:
        save(converted, tokenizer, save_to, overwrite)
    return converted


def _check_short(config: PreTrainedConfig, family: Family, head: Head) -> None:
    """Raise a ValueError for what a LongformerPlus model cannot compute."""
    for name, value in head.needs:
        if (given := getattr(config, name, value)) != value:
            raise ValueError(
                f"A head with {name}={given!r} has no equal in {head.target.__name__}, which computes what "
                f"{name}={value!r} does. {ENCODER_ALONE}"
            )
    needed: dict[str, tuple[object, str]] = {
        "is_decoder": (False, "load the model with is_decoder=False, if that is what it was trained as"),
        "add_cross_attention": (False, "there is no place for the weights of attention to another model"),
        "position_embedding_type": ("absolute", "there is no place for distances between tokens in attention"),
    }
    if family is ELECTRA:
        reason = "small models and generators project narrower embeddings, base and large discriminators do not"
        needed["embedding_size"] = (config.hidden_size, reason)
    for name, (value, reason) in needed.items():
        if (given := getattr(config, name, value)) != value:
            raise ValueError(
                f"{name}={given!r} has no equal in Longformer, which computes what {name}={value!r} does: {reason}."
            )


def _long_config(
    config: PreTrainedConfig,
    family: Family,
    attention_window: int | list[int],
    max_length: int,
    tokenizer: PreTrainedTokenizerBase | None,
) -> LongformerPlusConfig:
    if config.pad_token_id is None:
        raise ValueError("pad_token_id=None is not allowed: positions start after it. Set it in the model's config.")
    short = short_length(config, family)
    if not isinstance(max_length, int) or max_length < short:
        raise ValueError(
            f"max_length={max_length!r} is not allowed: it must be an int, at least {short} (the short model's)."
        )
    separator = getattr(tokenizer, "sep_token_id", None)
    if separator is None:
        separator = getattr(config, "sep_token_id", None)
    if separator is None and family is ROBERTA:
        separator = config.eos_token_id if isinstance(config.eos_token_id, int) else None
    return LongformerPlusConfig(
        **{name: getattr(config, name) for name in SHARED_FIELDS},
        sep_token_id=separator,
        attention_window=attention_window,
        max_position_embeddings=max_length + config.pad_token_id + 1,
    )


def _warn_of_repeated_positions(config: LongformerPlusConfig, short: int) -> None:
    """Warn if a window is so wide that it will contain the same copied position twice."""
    widest = max(config.windows)
    if widest > short < config.max_tokens:
        logger.warning(
            f"attention_window={widest} is wider than the {short} positions of the short model, which are copied one "
            f"after another: in documents of over {short} tokens a window will hold some positions twice, which little "
            f"training does not mend. For such documents take attention_window={short // 2 * 2} or less."
        )


def short_length(config: PreTrainedConfig, family: Family) -> int:
    """The most tokens that the short model reads."""
    return config.max_position_embeddings - num_reserved(config, family)


def num_reserved(config: PreTrainedConfig, family: Family) -> int:
    """How many rows of the short model's position table are not for tokens."""
    return config.pad_token_id + 1 if family.has_reserved_positions else 0


def _with_weights_of(
    model: PreTrainedModel, family: Family, head: Head, config: LongformerPlusConfig
) -> LongformerPlusPreTrainedModel:
    weights = rename(model.state_dict(), [(f"{family.prefix}.", "")])
    if left := sorted(weights.keys() - drop(weights, head.left_behind).keys()):
        logger.warning(f"Longformer has no place for {', '.join(left)}: left behind.")
    weights = rename(drop(weights, head.left_behind), head.renamed)
    if "lm_head.decoder.bias" in weights:
        weights.setdefault("lm_head.bias", weights["lm_head.decoder.bias"])
    weights[POSITIONS] = _long_table(weights[POSITIONS], num_reserved(model.config, family), config)
    weights = with_global_projections(weights)
    if head.target is LongformerPlusModel:
        return assemble(head.target, config, weights, add_pooling_layer="pooler.dense.weight" in weights)
    return assemble(head.target, config, rename(weights, [(part, f"longformer.{part}") for part in ENCODER]))


def _long_table(table: Tensor, reserved: int, config: LongformerPlusConfig) -> Tensor:
    """The position table of the long model. Its rows that are not for tokens are zero if the short model has none."""
    wanted = config.max_position_embeddings - config.max_tokens
    if reserved != wanted:
        table = torch.cat([table.new_zeros(wanted, table.shape[1]), table[reserved:]])
    return tile_positions(table, wanted, config.max_position_embeddings)
