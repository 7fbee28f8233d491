"""Each policy of global attention names the tokens that its documentation says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longformer_plus import LongformerPlusForSequenceClassification, LongformerPlusModel
from longformer_plus.global_attention import build_global_attention_mask

from .cases import small_config

PAD, SEP = 1, 2


def mask_of(policy: object, *rows: list[int]) -> list[list[int]]:
    ids = torch.tensor(rows)
    mask = build_global_attention_mask(policy, ids, ids != PAD, SEP)
    return mask.tolist()


@pytest.mark.parametrize(
    ("policy", "row", "expected"),
    [
        ("cls", [0, 5, 6, 2], [1, 0, 0, 0]),
        ("cls", [1, 1, 0, 5], [0, 0, 1, 0]),
        ("question", [0, 5, 6, 2, 2, 7, 8, 2], [1, 1, 1, 0, 0, 0, 0, 0]),
        ("question", [1, 0, 5, 2, 2, 7, 2, 1], [0, 1, 1, 0, 0, 0, 0, 0]),
        ("question", [0, 5, 2, 7, 2], [1, 1, 0, 0, 0]),
        ("choice", [0, 5, 6, 2, 2, 7, 8, 2, 1], [0, 0, 0, 0, 0, 1, 1, 1, 0]),
        ("choice", [0, 5, 2, 7, 8, 2], [0, 0, 0, 1, 1, 1]),
        ("choice", [0, 5, 2, 2, 7, 2, 2, 8, 2], [0, 0, 0, 0, 1, 1, 1, 1, 1]),
        ("separators", [0, 5, 2, 2, 7, 2, 1], [0, 0, 1, 1, 0, 1, 0]),
        ([5, 8], [0, 5, 6, 8, 1, 5], [0, 1, 0, 1, 0, 1]),
        ((0,), [0, 5], [1, 0]),
    ],
)
def test_policies(policy: object, row: list[int], expected: list[int]) -> None:
    assert mask_of(policy, row) == [expected]


@pytest.mark.parametrize(
    ("policy", "row"),
    [
        ("question", [1, 5, 6, 7]),
        ("question", [1, 2, 6, 7]),
        ("choice", [1, 5, 6, 7]),
        ("choice", [1, 5, 6, 2]),
        ("separators", [1, 5, 6, 7]),
        ([9], [1, 5, 6, 7]),
    ],
)
def test_where_nothing_is_found_the_first_valid_token_is_global_with_one_warning(
    policy: object, row: list[int], warnings_of_transformers: pytest.LogCaptureFixture
) -> None:
    found = [0, 5, 9, 2, 2, 9, 2][: len(row)] if policy != "choice" else [0, 2, 2, 9]
    for _ in range(2):
        assert mask_of(policy, found, row)[1] == [0, 1, 0, 0]
    assert warnings_of_transformers.text.count("finds no token") == 1


def test_none_and_rows_of_padding(warnings_of_transformers: pytest.LogCaptureFixture) -> None:
    assert build_global_attention_mask("none", torch.zeros(1, 4).long(), torch.ones(1, 4).bool(), SEP) is None
    assert mask_of("question", [1, 1, 1], [0, 5, 2]) == [[0, 0, 0], [1, 1, 0]]
    assert not warnings_of_transformers.text


def test_errors() -> None:
    ids = torch.zeros(1, 4).long()
    with pytest.raises(ValueError, match="auto"):
        build_global_attention_mask("auto", ids, ids == 0, SEP)
    with pytest.raises(ValueError, match="everything"):
        build_global_attention_mask("everything", ids, ids == 0, SEP)
    with pytest.raises(ValueError, match="sep_token_id is None"):
        build_global_attention_mask("question", ids, ids == 0, None)


@given(
    rows=st.lists(st.lists(st.integers(0, 6), min_size=12, max_size=12), min_size=1, max_size=4),
    policy=st.sampled_from(["cls", "question", "choice", "separators", [3, 4]]),
)
def test_padding_is_never_global_and_every_document_has_a_global_token(rows: list[list[int]], policy: object) -> None:
    ids = torch.tensor(rows)
    mask = torch.tensor(mask_of(policy, *rows)).bool()
    assert not (mask & (ids == PAD)).any()
    assert mask.any(1).tolist() == (ids != PAD).any(1).tolist()


def test_the_head_uses_its_own_policy_unless_told_otherwise() -> None:
    ids = torch.tensor([[0, 5, 6, 2, 2, 7, 2]])
    head = LongformerPlusForSequenceClassification(small_config())
    assert head.choose_global_attention(ids, None, None).tolist() == [[1, 0, 0, 0, 0, 0, 0]]
    head.config.global_attention = "separators"
    assert head.choose_global_attention(ids, None, None).tolist() == [[0, 0, 0, 1, 1, 0, 1]]
    head.config.global_attention = "none"
    assert head.choose_global_attention(ids, None, None) is None


def test_a_given_mask_wins_and_the_bare_model_follows_the_configuration() -> None:
    model = LongformerPlusModel(small_config()).eval()
    ids = torch.arange(3, 43)[None]
    cls = torch.zeros_like(ids)
    cls[0, 0] = 1
    by_mask = model(ids, global_attention_mask=cls).last_hidden_state
    without = model(ids).last_hidden_state
    model.config.global_attention = "cls"
    torch.testing.assert_close(model(ids).last_hidden_state, by_mask)
    none = model(ids, global_attention_mask=torch.zeros_like(ids)).last_hidden_state
    torch.testing.assert_close(none, without)
    assert not torch.allclose(by_mask, without)


def test_embeddings_alone_fall_back_to_the_first_token(warnings_of_transformers: pytest.LogCaptureFixture) -> None:
    head = LongformerPlusForSequenceClassification(small_config()).eval()
    head.config.global_attention = "question"
    ids = torch.tensor([[0, 5, 6, 2, 2, 7, 2]])
    cls = torch.zeros_like(ids)
    cls[0, 0] = 1
    embeds = head.get_input_embeddings()(ids)
    expected = head(ids, global_attention_mask=cls).logits
    torch.testing.assert_close(head(inputs_embeds=embeds).logits, expected)
    assert "inputs_embeds" in warnings_of_transformers.text
