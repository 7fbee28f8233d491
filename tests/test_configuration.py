"""The configuration refuses values that no model can have, and reads Longformer's."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from transformers import AutoConfig, BertConfig, LongformerConfig

from longformer_plus import LongformerPlusConfig, LongformerPlusModel

from .cases import small_config


def test_every_field_of_longformer_with_its_default() -> None:
    theirs, ours = LongformerConfig(), LongformerPlusConfig()
    for field in fields(LongformerConfig):
        if field.name not in ("model_type", "transformers_version"):
            assert getattr(ours, field.name) == getattr(theirs, field.name), field.name


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("attention_window", 7, "even"),
        ("attention_window", 0, "positive"),
        ("attention_window", -2, "positive"),
        ("attention_window", 8.0, "int"),
        ("attention_window", "8", "int"),
        ("attention_window", [8], "num_hidden_layers"),
        ("attention_window", [8, 9], "even"),
        ("attention_window", [8, None], "even"),
        ("attention_dilation", 0, "not below 1"),
        ("attention_dilation", [1, 2, 3], "num_hidden_layers"),
        ("attention_dilation", [1, [1, 2]], "num_attention_heads"),
        ("attention_dilation", [1, [1, 2, 0]], "not below 1"),
        ("attention_dilation", 1.5, "int"),
        ("is_causal", 1, "True or False"),
        ("global_attention", "all", "'question'"),
        ("global_attention", [], "token id"),
        ("global_attention", [-1], "token id"),
        ("global_attention", None, "token id"),
        ("vocab_size", 0, "positive"),
        ("vocab_size", "many", "positive"),
        ("hidden_size", -1, "positive"),
        ("num_hidden_layers", 0, "positive"),
        ("intermediate_size", None, "positive"),
        ("max_position_embeddings", True, "positive"),
        ("type_vocab_size", 0, "positive"),
        ("hidden_act", "mish2", "gelu"),
        ("hidden_dropout_prob", 1.0, "0"),
        ("attention_probs_dropout_prob", -0.1, "0"),
        ("layer_norm_eps", "small", "number"),
        ("initializer_range", -1, "number"),
        ("pad_token_id", None, "position table"),
        ("pad_token_id", 60, "position table"),
        ("sep_token_id", -3, "None"),
        ("tie_word_embeddings", "yes", "True or False"),
        ("chunk_size_feed_forward", -1, "not below 0"),
        ("chunk_size_feed_forward", "x", "chunk_size_feed_forward"),
        ("is_decoder", True, "encoders"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: Any, allowed: str) -> None:
    fields = small_config().to_dict()
    del fields["model_type"]
    with pytest.raises(ValueError, match=name) as error:
        LongformerPlusConfig(**{**fields, name: value})
    assert allowed in str(error.value)
    assert str(value) in str(error.value)


def test_a_value_that_is_spoilt_later_is_found_when_a_model_is_made() -> None:
    config = LongformerPlusConfig.from_longformer(small_config())
    config.attention_window = 3
    with pytest.raises(ValueError, match="attention_window=3"):
        LongformerPlusModel(config)


def test_sizes_that_do_not_fit_together_are_refused_by_the_model_alone() -> None:
    assert LongformerConfig(hidden_size=32).hidden_size == LongformerPlusConfig(hidden_size=32).hidden_size == 32
    for config in (LongformerConfig(hidden_size=32), LongformerPlusConfig(hidden_size=32)):
        with pytest.raises(ValueError, match=r"hidden_size=32 .* num_attention_heads=12\. Choose sizes"):
            LongformerPlusModel(config)


@pytest.mark.parametrize("window", [512, [8, 16], [6, 10]])
def test_the_window_is_kept_as_given(window: int | list[int], tmp_path: Any) -> None:
    config = LongformerPlusConfig(
        hidden_size=24, num_attention_heads=3, num_hidden_layers=2, intermediate_size=8, attention_window=window
    )
    model = LongformerPlusModel(config)
    assert model.config.attention_window == window
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).attention_window == window
    widths = [layer.attention.self.window for layer in model.encoder.layer]
    assert widths == ([window] * 2 if isinstance(window, int) else window)


def test_longformer_configurations_are_converted_and_left_alone() -> None:
    native = small_config(problem_type="regression", num_labels=1)
    before = native.to_dict()
    model = LongformerPlusModel(native)
    assert native.to_dict() == before
    assert isinstance(model.config, LongformerPlusConfig)
    assert model.config.model_type == "longformer_plus"
    for name, value in before.items():
        if name not in ("model_type", "transformers_version", "dtype"):
            assert model.config.to_dict()[name] == value, name


def test_configurations_of_other_models_are_refused() -> None:
    with pytest.raises(TypeError, match="BertConfig"):
        LongformerPlusModel(BertConfig())
