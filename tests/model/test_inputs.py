"""Bad input gets one clear error; unusual good input works."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from longformer_plus import LongformerPlusForMultipleChoice, LongformerPlusForQuestionAnswering, LongformerPlusModel

from ..cases import BACKENDS, small_config

IDS = torch.arange(3, 33).view(2, 15)


@pytest.fixture(scope="module")
def model() -> LongformerPlusModel:
    return LongformerPlusModel(small_config(max_position_embeddings=42, type_vocab_size=1)).eval()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "neither"),
        ({"input_ids": IDS, "inputs_embeds": torch.zeros(2, 15, 24)}, "both"),
        ({"input_ids": IDS[0]}, "2 dimensions"),
        ({"input_ids": IDS.float()}, "integers"),
        ({"input_ids": IDS + 40}, "input_ids has values from 43 to 72.*60 rows.*resize_token_embeddings"),
        ({"input_ids": IDS - 10}, "input_ids has values from -7"),
        ({"input_ids": IDS[:, :0]}, "no tokens"),
        ({"inputs_embeds": torch.zeros(2, 15)}, "3 dimensions"),
        ({"inputs_embeds": torch.zeros(2, 15, 20)}, "20 features.*24"),
        ({"input_ids": IDS, "token_type_ids": torch.ones_like(IDS)}, "token_type_ids.*1 rows.*type_vocab_size"),
        ({"input_ids": IDS, "token_type_ids": torch.zeros(2, 3, dtype=torch.long)}, "token_type_ids has shape"),
        ({"input_ids": IDS, "position_ids": IDS + 30}, "position_ids has values"),
        ({"input_ids": IDS, "position_ids": IDS[:, :4]}, "position_ids has shape"),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 14)}, r"attention_mask has shape \(2, 14\)"),
        ({"input_ids": IDS, "attention_mask": torch.ones(1, 15)}, "attention_mask has shape"),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 15, 15)}, "no mask of query by key"),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 1, 1, 15)}, "no mask of query by key"),
        ({"input_ids": IDS, "attention_mask": torch.full((2, 15), -10000.0)}, "added to scores"),
        ({"input_ids": IDS, "attention_mask": torch.full((2, 15), torch.finfo(torch.float32).min)}, "added to scores"),
        ({"input_ids": IDS, "global_attention_mask": torch.full((2, 15), 2)}, "global_attention_mask has values"),
        ({"input_ids": IDS, "global_attention_mask": torch.ones(2, 7)}, "global_attention_mask has shape"),
        ({"input_ids": IDS, "head_mask": torch.ones(4)}, r"head_mask of shape \(4,\).*\(3,\).*\(2, 3\)"),
    ],
)
def test_bad_input_is_named(model: LongformerPlusModel, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**arguments)


def test_ids_of_word_embeddings_that_were_replaced() -> None:
    """By hand, which no configuration knows of."""
    model = LongformerPlusModel(small_config())
    model.set_input_embeddings(torch.nn.Embedding(80, 24))
    assert model(IDS + 40).last_hidden_state.shape == (2, 15, 24)
    with pytest.raises(ValueError, match=r"60 to 89.*80 rows"):
        model(IDS + 57)


@pytest.mark.parametrize("kind", ["input_ids", "inputs_embeds"])
def test_a_document_longer_than_the_position_table(model: LongformerPlusModel, kind: str) -> None:
    """42 rows, of which 0 and 1 are not for tokens: 40 tokens fit, 41 do not."""

    def document(tokens: int) -> dict[str, torch.Tensor]:
        ids = torch.full((1, tokens), 5)
        return {kind: ids if kind == "input_ids" else model.get_input_embeddings()(ids)}

    assert model(**document(40)).last_hidden_state.shape == (1, 40, 24)
    with pytest.raises(ValueError, match=r"41 tokens.*40 .*max_position_embeddings=42.*truncation=True, max_length=40"):
        model(**document(41))


def test_padding_takes_no_position(model: LongformerPlusModel) -> None:
    ids = torch.full((1, 60), 1)
    ids[0, :40] = 7
    padded = model(ids, attention_mask=(ids != 1).long()).last_hidden_state[:, :40]
    torch.testing.assert_close(padded, model(ids[:, :40]).last_hidden_state, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_that_is_all_padding(backend: str) -> None:
    """Its attention is zero and no number in the batch is spoilt; the other rows do not notice."""
    model = LongformerPlusModel._from_config(small_config(), attn_implementation=backend).train()
    mask = torch.ones_like(IDS)
    mask[1] = 0
    contexts = []
    for layer in model.encoder.layer:
        layer.attention.self.register_forward_hook(lambda module, args, out: contexts.append(out[0]))
    outputs = model(IDS, attention_mask=mask, global_attention_mask=torch.ones_like(IDS))
    assert not any(context[1].any() for context in contexts)
    assert outputs.last_hidden_state.isfinite().all()
    alone = model(IDS[:1], global_attention_mask=torch.ones_like(IDS[:1]))
    torch.testing.assert_close(outputs.last_hidden_state[:1], alone.last_hidden_state, atol=1e-5, rtol=0)
    outputs.pooler_output.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("backend", BACKENDS)
def test_left_padding_is_read_from_the_first_valid_token(backend: str) -> None:
    model = LongformerPlusModel._from_config(small_config(), attn_implementation=backend).eval()
    left = torch.nn.functional.pad(IDS, (5, 0), value=1)
    mask = (left != 1).long()
    outputs = model(left, attention_mask=mask)
    expected = model(IDS)
    torch.testing.assert_close(outputs.last_hidden_state[:, 5:], expected.last_hidden_state, atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.pooler_output, expected.pooler_output, atol=1e-5, rtol=0)


def test_question_answering_has_two_outputs() -> None:
    with pytest.raises(ValueError, match="num_labels=3"):
        LongformerPlusForQuestionAnswering(small_config(num_labels=3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 14)}, "attention_mask has shape"),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 15, 15)}, "no mask of query by key"),
        ({"input_ids": IDS[0]}, "2 dimensions"),
        ({}, "neither"),
    ],
)
def test_heads_check_before_they_choose_global_tokens(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LongformerPlusForQuestionAnswering(small_config())(**arguments)


def test_multiple_choice_needs_choices() -> None:
    with pytest.raises(ValueError, match="choices"):
        LongformerPlusForMultipleChoice(small_config())(input_ids=IDS)


def test_attentions_from_sdpa_come_with_one_warning(
    model: LongformerPlusModel, warnings_of_transformers: pytest.LogCaptureFixture
) -> None:
    assert model.config._attn_implementation in ("sdpa", "auto")
    for _ in range(2):
        outputs = model(IDS, output_attentions=True)
    assert len(outputs.attentions) == 2
    assert warnings_of_transformers.text.count("computed by the eager backend") == 1
