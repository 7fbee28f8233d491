"""Each collator makes the batch that its head takes, global tokens and labels in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import longformer_plus
from longformer_plus import LongformerPlusConfig, LongformerPlusTokenizer
from longformer_plus.model.causal_lm import next_tokens

from ...cases import small_config, spread

pytest.importorskip("datasets")
from longformer_plus.integrations.data import collators

CLS, PAD, SEP = 0, 1, 2


def document(tokens: int, **fields: Any) -> dict[str, Any]:
    return {"input_ids": [CLS, *range(10, 10 + tokens - 2), SEP], **fields}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("multiple", [None, 8])
def test_rows_are_padded_on_the_tokenizers_side(
    tokenizer: LongformerPlusTokenizer, side: str, multiple: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "padding_side", side)
    collator = collators.DataCollatorForLongformerTokenClassification(tokenizer, "cls", pad_to_multiple_of=multiple)
    batch = collator([document(9, labels=[3] * 9), document(5, labels=[4] * 5)])
    tokens = 16 if multiple else 9
    assert {name: tuple(rows.shape) for name, rows in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "global_attention_mask", "labels"), (2, tokens)
    )
    valid = batch["attention_mask"].bool()
    assert valid.sum(1).tolist() == [9, 5]
    assert (batch["input_ids"][~valid] == PAD).all()
    assert (batch["labels"][~valid] == -100).all()
    assert (batch["global_attention_mask"] == (batch["input_ids"] == CLS)).all()
    assert bool(valid[1, 0]) == (side == "right")


def test_a_features_own_global_attention_is_kept(tokenizer: LongformerPlusTokenizer) -> None:
    collator = collators.DataCollatorForLongformerSequenceClassification(tokenizer)
    own = [0, 0, 1, 0, 1]
    batch = collator([document(5, label=1, global_attention_mask=own, text="left out"), document(4, label=0)])
    assert batch["global_attention_mask"].tolist() == [own, [1, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert "text" not in batch


def test_truncation_keeps_the_closing_separator(tokenizer: LongformerPlusTokenizer) -> None:
    collator = collators.DataCollatorForLongformerSequenceClassification(tokenizer, max_length=6)
    batch = collator([document(20)])
    assert batch["input_ids"].tolist() == [[CLS, 10, 11, 12, 13, SEP]]
    assert batch["global_attention_mask"].tolist() == [[1, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("side", ["right", "left"])
def test_answers_move_with_padding_and_are_lost_with_what_is_cut(
    tokenizer: LongformerPlusTokenizer, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "padding_side", side)
    collator = collators.DataCollatorForLongformerQuestionAnswering(tokenizer, max_length=12)
    spans = [(20, 3, 5), (7, 2, 2), (20, 5, 15)]
    batch = collator([document(n, start_positions=start, end_positions=end) for n, start, end in spans])
    shift = 5 if side == "left" else 0
    assert batch["start_positions"].tolist() == [3, 2 + shift, -100]
    assert batch["end_positions"].tolist() == [5, 2 + shift, -100]
    assert batch["input_ids"][1, 2 + shift] == 11


def test_choices_have_a_dimension_of_their_own(tokenizer: LongformerPlusTokenizer) -> None:
    collator = collators.DataCollatorForLongformerMultipleChoice(tokenizer)
    pair = [CLS, 10, 11, SEP, SEP, 12, SEP]
    batch = collator([{"input_ids": [pair, pair[:-1]], "labels": 1}, {"input_ids": [pair, pair], "labels": 0}])
    assert batch["input_ids"].shape == (2, 2, 7)
    assert batch["global_attention_mask"][0].tolist() == [[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1, 0]]
    with pytest.raises(ValueError, match=r"Features with \[1, 2\] choices are in one batch"):
        collator([{"input_ids": [pair], "labels": 0}, {"input_ids": [pair, pair], "labels": 0}])


@pytest.mark.parametrize("side", ["right", "left"])
def test_labels_of_causal_models_are_what_is_predicted(
    tokenizer: LongformerPlusTokenizer, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "padding_side", side)
    packed = {**document(7), "document_ids": [3, 3, 3, 3, 5, 5, 5]}
    prompted = document(5, labels=[-100, -100, -100, 12, SEP])
    rows = [packed, prompted, document(4)]
    predicted = [*(10, 11, 12, 14, SEP), *(12, SEP), *(10, 11, SEP)]
    for batch in (
        collators.DataCollatorForLongformerCausalLM(tokenizer, "cls")(rows),
        collators.DataCollatorForLongformerCausalLM(tokenizer, "cls", packing=True)(rows),
    ):
        labels = batch["labels"]
        assert labels[labels != -100].tolist() == predicted
        shifted = next_tokens(labels, batch["attention_mask"], batch["document_ids"])
        assert (shifted != -100).sum() == (labels != -100).sum()
        starts = (batch["input_ids"] == CLS) | (batch["input_ids"] == 13)
        assert torch.equal(batch["global_attention_mask"].bool(), starts), "of each document, also where rows hold two"


def test_masking_hides_what_it_should(tokenizer: LongformerPlusTokenizer) -> None:
    collator = collators.DataCollatorForLongformerMaskedLM(tokenizer, masked_share=0.3)
    rows = [document(250), document(200)]
    torch.manual_seed(0)
    batch = collator(rows)
    hidden = batch["labels"] != -100
    original = torch.nn.utils.rnn.pad_sequence([torch.tensor(row["input_ids"]) for row in rows], True, PAD)
    assert (batch["labels"][hidden] == original[hidden]).all()
    assert (batch["input_ids"][~hidden] == original[~hidden]).all()
    assert not hidden[original <= SEP].any()
    assert 0.2 < hidden.sum() / 446 < 0.4
    masked = (batch["input_ids"][hidden] == tokenizer.mask_token_id).float().mean()
    assert 0.65 < masked < 0.95
    assert not torch.equal(batch["labels"], collator(rows)["labels"])
    seeded = [{**row, "masking_seed": 7} for row in rows]
    assert torch.equal(collator(seeded)["labels"], collator(seeded)["labels"])


@pytest.mark.parametrize("head", ["TokenClassification", "MaskedLM"])
def test_packed_documents_give_the_loss_of_padded_ones(tokenizer: LongformerPlusTokenizer, head: str) -> None:
    fields = small_config().to_dict()
    fields.update(vocab_size=len(tokenizer), num_labels=3)
    del fields["model_type"]
    torch.manual_seed(0)
    model = spread(getattr(longformer_plus, f"LongformerPlusFor{head}")(LongformerPlusConfig(**fields))).eval()
    kind = getattr(collators, f"DataCollatorForLongformer{head}")
    rows = [document(n, labels=[n % 3] * n, masking_seed=n) for n in (30, 5, 41)]
    padded = kind(tokenizer, "cls")(rows)
    packed = kind(tokenizer, "cls", packing=True)(rows)
    assert packed["input_ids"].shape == (1, 76)
    assert "global_attention_mask" in packed
    assert packed["document_ids"].unique().tolist() == [0, 1, 2]
    torch.testing.assert_close(model(**packed).loss, model(**padded).loss)


@pytest.mark.parametrize(
    ("arguments", "row", "message"),
    [
        ({"global_attention": "all"}, {}, "global_attention='all' is not allowed"),
        ({"max_length": 0}, {}, "max_length=0 is not allowed"),
        ({}, {"global_attention_mask": [1, 0]}, "2 global_attention_mask for 5 input_ids"),
        ({}, {"attention_mask": [1] * 6}, "6 attention_mask for 5 input_ids"),
    ],
)
def test_wrong_input(
    tokenizer: LongformerPlusTokenizer, arguments: dict[str, Any], row: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        collators.DataCollatorForLongformerSequenceClassification(tokenizer, **arguments)([document(5, **row)])
