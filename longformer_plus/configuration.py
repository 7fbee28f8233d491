"""LongformerPlusConfig: every option of the model, checked where it is given, never changed by the model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import LongformerConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.utils import CONFIG_NAME

from .global_attention import check_policy
from .remote_code import auto_map, is_own, write_fields, write_module

LONGFORMER_MODEL_TYPE = LongformerConfig.model_type

_POSITIVE_INTEGERS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
_PROBABILITIES = ("hidden_dropout_prob", "attention_probs_dropout_prob")


class LongformerPlusConfig(PreTrainedConfig):
    """Configuration of the LongformerPlus models.

    It has every field of `transformers.LongformerConfig`, with the same defaults, and these of its own.

    Args:
        attention_window: total width of the local window in tokens, half of it on each side. An even int for all
            layers, or one even int per layer; widths need not divide one another.
        attention_dilation: step between the keys of the window, 1 for none. An int, one int per layer, or one list
            of ints (one per head) per layer. The paper's section 3.1.
        is_causal: whether a token attends only to itself and earlier tokens.
        global_attention: which tokens attend globally when the caller gives no `global_attention_mask`: "auto" (what
            the head needs), "cls", "question", "choice", "separators", "none", or a list of token ids.
        unpad_inputs: whether padding is taken out of a batch before the layers and put back after them:
            None where it saves time, True wherever it is possible, False never.
        sparse_prediction: whether a masked language model in training computes the logits of the labelled tokens only,
            (labelled tokens, V). This saves most of the LM head's work. The name is ModernBERT's.
        onnx_export: a field of Longformer's configurations, kept without effect: every model here can be exported.

    Raises:
        ValueError: a field has a value that the model cannot have. The message names the field, the value given and
            the values allowed.
    """

    model_type = "longformer_plus"
    keys_to_ignore_at_inference = ["attentions", "global_attentions", "hidden_states"]

    attention_window: list[int] | int = 512
    attention_dilation: list[Any] | int = 1
    is_causal: bool = False
    global_attention: str | list[int] = "auto"
    unpad_inputs: bool | None = None
    sparse_prediction: bool = False
    sep_token_id: int | None = 2
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    onnx_export: bool = False
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if is_own(kwargs.get("auto_map")):
            # The entry is for programs that have not imported this package.
            del kwargs["auto_map"]
        super().__post_init__(**kwargs)
        self.check()

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except StrictDataclassError as error:
            raise ValueError(f"{name}={value!r} is not allowed: {error}") from error

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a configuration file; one written for Longformer is read as one of LongformerPlus."""
        config_dict, kwargs = super().get_config_dict(*args, **kwargs)
        if config_dict.get("model_type") == LONGFORMER_MODEL_TYPE:
            config_dict = {**config_dict, "model_type": cls.model_type}
        return config_dict, kwargs

    @classmethod
    def from_longformer(cls, config: PreTrainedConfig) -> LongformerPlusConfig:
        """The LongformerPlus configuration that means the same as `config`, a `transformers.LongformerConfig`.

        A LongformerPlusConfig is returned as it is.

        Raises:
            TypeError: `config` is of another model.
        """
        if isinstance(config, cls):
            return config
        if config.model_type != LONGFORMER_MODEL_TYPE:
            raise TypeError(
                f"A LongformerPlus model takes a LongformerPlusConfig or a LongformerConfig, not a "
                f"{type(config).__name__} (model_type {config.model_type!r})."
            )
        fields = config.to_dict()
        del fields["model_type"]
        fields.pop("transformers_version", None)
        converted = cls(**fields)
        converted._name_or_path = config._name_or_path
        converted._attn_implementation = config._attn_implementation
        return converted

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write the configuration; for a checkpoint's config.json, also write what `trust_remote_code=True` needs.

        That is an `auto_map` in the file, and the module that it names beside the file. Models save their configuration
        by this method, before they upload anything.

        Args:
            json_file_path: the file; in a checkpoint it is called config.json.
            use_diff: leave out fields that have the default of transformers' base class.
        """
        path = Path(json_file_path)
        if path.name != CONFIG_NAME or self.model_type != LongformerPlusConfig.model_type:
            super().to_json_file(json_file_path, use_diff)
            return
        fields = json.loads(self.to_json_string(use_diff))
        write_module(path.parent)
        write_fields(path, {**fields, "auto_map": {**auto_map(), **fields.get("auto_map", {})}})

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Do nothing: saving must not copy the files of an installed package into the checkpoint."""

    @property
    def windows(self) -> list[int]:
        """The total window width of each layer, in tokens."""
        if isinstance(self.attention_window, int):
            return [self.attention_window] * self.num_hidden_layers
        return list(self.attention_window)

    @property
    def dilations(self) -> list[list[int]]:
        """The dilation of each layer and head."""
        dilation = self.attention_dilation
        layers = dilation if isinstance(dilation, (list, tuple)) else [dilation] * self.num_hidden_layers
        return [
            list(layer) if isinstance(layer, (list, tuple)) else [layer] * self.num_attention_heads for layer in layers
        ]

    @property
    def max_tokens(self) -> int:
        """The longest document that the position table has rows for: positions start after the padding index."""
        return self.max_position_embeddings - self.pad_token_id - 1  # type: ignore[operator]

    def check(self) -> None:
        """Raise a ValueError for the first field whose value no model can have."""
        for name in _POSITIVE_INTEGERS:
            _require(_is_integer(getattr(self, name)) and getattr(self, name) > 0, self, name, "a positive int")
        for name in _PROBABILITIES:
            value = getattr(self, name)
            is_probability = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1
            _require(is_probability, self, name, "a number from 0 up to, not including, 1")
        for name in ("layer_norm_eps", "initializer_range"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
            _require(is_number, self, name, "a number not below 0")
        for name in ("is_causal", "tie_word_embeddings", "onnx_export"):
            _require(isinstance(getattr(self, name), bool), self, name, "True or False")
        _require(self.unpad_inputs in (None, True, False), self, "unpad_inputs", "True, False or None (where it pays)")
        _require(self.hidden_act in ACT2FN, self, "hidden_act", f"one of {', '.join(sorted(ACT2FN))}")
        chunk = self.chunk_size_feed_forward
        _require(
            _is_integer(chunk) and chunk >= 0, self, "chunk_size_feed_forward", "an int not below 0 (0: one piece)"
        )
        self._check_tokens()
        self._check_windows()
        self._check_dilations()
        check_policy(self.global_attention)
        if getattr(self, "is_decoder", False):
            raise ValueError(
                "is_decoder=True is not allowed: LongformerPlus models are encoders. Leave is_decoder out or set it to "
                "False."
            )

    def check_for_model(self) -> None:
        """Raise a ValueError if no model can be built: a field is wrong by `check`, or sizes do not fit together.

        `check` itself does not compare sizes, so that they can be set one after the other.
        """
        self.check()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}. "
                "Choose sizes so that each head gets the same number of features."
            )

    def _check_tokens(self) -> None:
        rows = min(self.vocab_size, self.max_position_embeddings)
        pad = self.pad_token_id
        _require(
            _is_integer(pad) and 0 <= pad < rows,  # type: ignore[operator]
            self,
            "pad_token_id",
            f"an int from 0 to {rows - 1}, a row of both the word and the position table",
        )
        sep = self.sep_token_id
        _require(sep is None or (_is_integer(sep) and sep >= 0), self, "sep_token_id", "an int not below 0, or None")

    def _check_windows(self) -> None:
        window = self.attention_window
        if isinstance(window, (list, tuple)):
            if len(window) != self.num_hidden_layers:
                raise ValueError(
                    f"attention_window={window!r} has {len(window)} entries, but num_hidden_layers is "
                    f"{self.num_hidden_layers}. Give one width per layer, or a single int for all layers."
                )
            widths = list(window)
        else:
            widths = [window]
        allowed = "a positive even int (the total width, half on each side), or a list of them, one per layer"
        for width in widths:
            _require(_is_integer(width) and width > 0 and width % 2 == 0, self, "attention_window", allowed)

    def _check_dilations(self) -> None:
        dilation = self.attention_dilation
        allowed = "an int not below 1, a list with one such int per layer, or a list with one list of ints per layer"
        if not isinstance(dilation, (list, tuple)):
            _require(_is_integer(dilation) and dilation >= 1, self, "attention_dilation", allowed)
            return
        if len(dilation) != self.num_hidden_layers:
            raise ValueError(
                f"attention_dilation={dilation!r} has {len(dilation)} entries, but num_hidden_layers is "
                f"{self.num_hidden_layers}. Give one entry per layer, or a single int for all layers."
            )
        for layer in dilation:
            if isinstance(layer, (list, tuple)) and len(layer) != self.num_attention_heads:
                raise ValueError(
                    f"attention_dilation={dilation!r} has a layer with {len(layer)} entries, but num_attention_heads "
                    f"is {self.num_attention_heads}. Give one int per head, or a single int for all heads of the layer."
                )
            for step in layer if isinstance(layer, (list, tuple)) else [layer]:
                _require(_is_integer(step) and step >= 1, self, "attention_dilation", allowed)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(condition: bool, config: LongformerPlusConfig, name: str, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name}={getattr(config, name)!r} is not allowed: it must be {allowed}.")
