"""The encoder of LED, transformers' or of AllenAI's own release, as a LongformerPlusModel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LEDConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.led.modeling_led import LEDEncoder, LEDPreTrainedModel

from ..configuration import LongformerPlusConfig
from ..model.encoder import LongformerPlusModel
from . import allenai
from .assembling import assemble
from .reading import Checkpoint, CheckpointError, find_checkpoint, guarded, load_tokenizer, read_config, read_weights
from .to_long import POSITIONS
from .writing import check_output, save

# BART's position table starts with two rows that are not for tokens; the table of transformers' LED does not.
_RESERVED_BY_BART = 2

_WORDS = "embeddings.word_embeddings.weight"
_NAMES = {
    r"embed_tokens\.": "embeddings.word_embeddings.",
    r"embed_positions\.": "embeddings.position_embeddings.",
    r"layernorm_embedding\.": "embeddings.LayerNorm.",
    r"layers\.(\d+)\.self_attn\.longformer_self_attn\.": r"encoder.layer.\1.attention.self.",
    r"layers\.(\d+)\.self_attn\.output\.": r"encoder.layer.\1.attention.output.dense.",
    r"layers\.(\d+)\.self_attn_layer_norm\.": r"encoder.layer.\1.attention.output.LayerNorm.",
    r"layers\.(\d+)\.fc1\.": r"encoder.layer.\1.intermediate.dense.",
    r"layers\.(\d+)\.fc2\.": r"encoder.layer.\1.output.dense.",
    r"layers\.(\d+)\.final_layer_norm\.": r"encoder.layer.\1.output.LayerNorm.",
}
# BART's options that AllenAI's releases can set, and the values for which the encoder computes the same as Longformer.
_NEEDED = {
    "normalize_before": False,
    "add_final_layer_norm": False,
    "normalize_embedding": True,
    "scale_embedding": False,
    "static_position_embeddings": False,
}


def convert_from_led(
    model_or_path: PreTrainedModel | Checkpoint,
    save_to: Checkpoint | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overwrite: bool = False,
) -> LongformerPlusModel:
    """A LongformerPlusModel with the weights of LED's encoder; the decoder is left behind.

    In LED padding takes up positions: to compare the two, pad on the right.

    Args:
        model_or_path: an LED model of transformers, or the folder or name on the hub of one, of AllenAI's release too.
        save_to: a new folder for the model and its tokenizer; by default nothing is written.
        tokenizer: to be saved with it; read from the folder if that is given.
        overwrite: replace the checkpoint at `save_to`.

    Returns:
        The model, without a pooler, in evaluation mode.

    Raises:
        CheckpointError: the folder's files are damaged, unsafe, incomplete, or not of LED.
        FileExistsError: `save_to` exists.
        TypeError: the model is of another kind.
        ValueError: the encoder uses an option that Longformer does not have.
    """
    check_output(save_to, overwrite)
    if isinstance(model_or_path, PreTrainedModel):
        if not isinstance(model_or_path, LEDPreTrainedModel):
            raise TypeError(f"A {type(model_or_path).__name__} is no LED model.")
        source, fields, weights = Path("the model"), model_or_path.config.to_dict(), model_or_path.state_dict()
        if isinstance(model_or_path, LEDEncoder):
            weights = {f"encoder.{key}": tensor for key, tensor in weights.items()}
    else:
        source = find_checkpoint(model_or_path)
        tokenizer = tokenizer or load_tokenizer(source)
        fields, weights = read_config(source), read_weights(source)
    model = _assemble(source, fields, _encoder_weights(weights, source))
    if save_to is not None:
        save(model, tokenizer, save_to, overwrite)
    return model


def _encoder_weights(weights: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """LED's weights -> those of its encoder, under Longformer's names."""
    renamed: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        key = re.sub(r"^(led|model)\.", "", key)
        if key == "shared.weight":
            renamed.setdefault(_WORDS, tensor)
        if key.startswith("encoder."):
            key = key.removeprefix("encoder.")
            pattern = next((pattern for pattern in _NAMES if re.match(pattern, key)), None)
            renamed[key if pattern is None else re.sub(f"^{pattern}", _NAMES[pattern], key)] = tensor
    if POSITIONS not in renamed:
        raise CheckpointError(f"{source} has no weights of an encoder, as LED's layout names them.")
    return renamed


def _assemble(source: Path, fields: dict[str, Any], weights: dict[str, Tensor]) -> LongformerPlusModel:
    for option, value in _NEEDED.items():
        if fields.get(option, value) != value:
            raise ValueError(f"{option}={fields[option]!r} of {source} has no equal in Longformer.")
    table = weights[POSITIONS]
    if allenai.SIGN in fields:
        table = table[_RESERVED_BY_BART:]
    config = guarded(source / "config.json", lambda: _config(source, fields, table.shape[0]))
    reserved = config.max_position_embeddings - config.max_tokens
    weights = {
        **weights,
        POSITIONS: torch.cat([table.new_zeros(reserved, table.shape[1]), table]),
        "embeddings.token_type_embeddings.weight": table.new_zeros(1, table.shape[1]),
    }
    return assemble(LongformerPlusModel, config, weights, add_pooling_layer=False)


def _config(source: Path, fields: dict[str, Any], num_positions: int) -> LongformerPlusConfig:
    known = LEDConfig().to_dict().keys() - {"model_type", "architectures", "transformers_version"}
    led = LEDConfig(**{option: value for option, value in fields.items() if option in known})
    attention: dict[str, Any] = {"attention_window": led.attention_window}
    if allenai.SIGN in fields:
        attention = allenai.attention_fields(fields, source)
    return LongformerPlusConfig(
        vocab_size=led.vocab_size,
        hidden_size=led.d_model,
        num_hidden_layers=led.encoder_layers,
        num_attention_heads=led.encoder_attention_heads,
        intermediate_size=led.encoder_ffn_dim,
        hidden_act=led.activation_function,
        hidden_dropout_prob=led.dropout,
        attention_probs_dropout_prob=led.attention_dropout,
        initializer_range=led.init_std,
        layer_norm_eps=1e-5,
        type_vocab_size=1,
        max_position_embeddings=num_positions + led.pad_token_id + 1,  # type: ignore[operator]
        pad_token_id=led.pad_token_id,
        bos_token_id=led.bos_token_id,
        eos_token_id=led.eos_token_id,
        sep_token_id=led.eos_token_id,  # type: ignore[arg-type]
        **attention,
    )
