"""Several documents in one row give what each gives in a row of its own."""

from __future__ import annotations

import inspect
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

import longformer_plus
from longformer_plus import LongformerPlusConfig, LongformerPlusModel

from ..cases import BACKENDS, small_config, spread

LENGTHS = [[30, 1, 17], [25, 9, 5, 6]]


def make(backend: str = "sdpa", head: str = "Model", **changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    fields = small_config().to_dict()
    del fields["model_type"]
    config = LongformerPlusConfig(**{**fields, **changes})
    return spread(getattr(longformer_plus, f"LongformerPlus{head}")._from_config(config, attn_implementation=backend))


def documents(num_global: int = 1) -> list[dict[str, torch.Tensor]]:
    """Every document of `LENGTHS` on its own, a batch of one."""
    alone = []
    generator = torch.Generator().manual_seed(num_global)
    for length in chain(*LENGTHS):
        ids = torch.randint(3, 60, (1, length), generator=generator)
        is_global = torch.zeros_like(ids)
        is_global[0, torch.randperm(length, generator=generator)[:num_global]] = 1
        alone.append({"input_ids": ids, "global_attention_mask": is_global})
    return alone


def packed(alone: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The documents in two rows, the first ending in padding, the second beginning with it."""
    tokens, parts = 52, iter(alone)
    names = {"input_ids": 1, "global_attention_mask": 0, "attention_mask": 0, "document_ids": 0}
    batch = {name: torch.full((2, tokens), filling) for name, filling in names.items()}
    for row, lengths in enumerate(LENGTHS):
        start = row * (tokens - sum(lengths))
        for number, length in enumerate(lengths, start=1):
            place = (row, slice(start, start + length))
            for name, rows in next(parts).items():
                batch[name][place] = rows[0]
            batch["attention_mask"][place] = 1
            batch["document_ids"][place] = number
            start += length
    return batch


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("unpad", [False, True])
@pytest.mark.parametrize("num_global", [0, 1, 6])
@pytest.mark.parametrize("changes", [{}, {"attention_dilation": 2, "is_causal": True}])
def test_each_document_is_as_if_alone(backend: str, unpad: bool, num_global: int, changes: dict[str, Any]) -> None:
    model = make(backend, unpad_inputs=unpad, **changes).train()
    alone = documents(num_global)
    batch = packed(alone)
    states = model(**batch).last_hidden_state[batch["attention_mask"].bool()]
    expected = torch.cat([model(**document).last_hidden_state[0] for document in alone])
    torch.testing.assert_close(states, expected, atol=2e-5, rtol=0)

    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    gradients = []
    for result in (states, expected):
        model.zero_grad()
        (result * weights).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[1].items():
        scale = max(gradient.abs().max().item(), 1.0)
        torch.testing.assert_close(gradients[0][name], gradient, atol=3e-5 * scale, rtol=0, msg=name)


def test_one_row_without_padding() -> None:
    model = make().eval()
    alone = documents()
    batch = {name: torch.cat([document[name] for document in alone], dim=1) for name in alone[0]}
    lengths = torch.tensor([*chain(*LENGTHS)])
    numbers = torch.arange(len(lengths)).repeat_interleave(lengths)[None]
    expected = torch.cat([model(**document).last_hidden_state for document in alone], dim=1)
    states = model(**batch, document_ids=numbers).last_hidden_state
    torch.testing.assert_close(states, expected, atol=2e-5, rtol=0)
    embedded = model(
        inputs_embeds=model.embeddings.word_embeddings(batch["input_ids"]),
        global_attention_mask=batch["global_attention_mask"],
        document_ids=numbers,
    )
    torch.testing.assert_close(embedded.last_hidden_state, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("width", [24, 96])
@pytest.mark.parametrize("is_causal", [False, True])
def test_documents_with_few_and_with_many_global_tokens(is_causal: bool, width: int) -> None:
    """More of them than go together, in heads too narrow and wide enough for global rows that are not projected."""
    model = make(hidden_size=width, is_causal=is_causal, max_position_embeddings=400).eval()
    generator = torch.Generator().manual_seed(0)
    alone = []
    for length, num_global in ((300, 70), (5, 1), (1, 0), (17, 17), (40, 16), (2, 2)):
        is_global = torch.zeros(1, length, dtype=torch.long)
        is_global[0, torch.randperm(length, generator=generator)[:num_global]] = 1
        ids = torch.randint(3, 60, (1, length), generator=generator)
        alone.append({"input_ids": ids, "global_attention_mask": is_global})
    batch = {name: torch.cat([document[name] for document in alone], dim=1) for name in alone[0]}
    lengths = torch.tensor([document["input_ids"].shape[1] for document in alone])
    numbers = torch.arange(len(lengths)).repeat_interleave(lengths)[None]
    states = model(**batch, document_ids=numbers).last_hidden_state
    expected = torch.cat([model(**document).last_hidden_state for document in alone], dim=1)
    torch.testing.assert_close(states, expected, atol=3e-5, rtol=0)


@pytest.mark.parametrize("policy", ["cls", "question", "separators"])
def test_a_policy_chooses_in_each_document(policy: str) -> None:
    model = make(global_attention=policy).eval()
    alone = [{"input_ids": document["input_ids"]} for document in documents()]
    for document in alone:
        document["input_ids"][0, document["input_ids"].shape[1] // 2] = model.config.sep_token_id
    batch = packed(alone)
    del batch["global_attention_mask"]
    states = model(**batch).last_hidden_state[batch["attention_mask"].bool()]
    expected = torch.cat([model(**document).last_hidden_state[0] for document in alone])
    torch.testing.assert_close(states, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("arguments", [{"return_seq_idx": True}, {"return_flash_attn_kwargs": True}])
def test_what_the_flattening_collator_gives(arguments: dict[str, bool]) -> None:
    model = make(head="ForMaskedLM").eval()
    alone = documents(0)
    features = [{"input_ids": document["input_ids"][0].tolist()} for document in alone]
    batch = DataCollatorWithFlattening(return_position_ids=True, **arguments)(features, return_tensors="pt")
    del batch["labels"]
    expected = torch.cat([model(document["input_ids"]).logits for document in alone], dim=1)
    torch.testing.assert_close(model(**batch).logits, expected, atol=2e-5, rtol=0)
    with pytest.raises(ValueError, match="count the tokens of each document from 0"):
        model(**{**batch, "position_ids": batch["position_ids"] + 2})


def test_attentions_of_documents_in_a_row() -> None:
    model = make("eager").eval()
    alone = documents()
    batch = packed(alone)
    attentions = model(**batch, output_attentions=True).attentions[0]
    window = model.config.windows[0]
    first = model(**alone[0], output_attentions=True).attentions[0]
    torch.testing.assert_close(attentions[0, :, : LENGTHS[0][0], -window - 1 :], first[0, :, :, -window - 1 :])


def test_traced_with_documents() -> None:
    model = make(unpad_inputs=False).eval()
    alone = documents()
    batch = packed(alone)
    exported = torch.export.export(model, (), batch, strict=False).module()
    valid = batch["attention_mask"].bool()
    with torch.no_grad():
        torch.testing.assert_close(exported(**batch)[0][valid], model(**batch)[0][valid], atol=2e-5, rtol=0)


def test_documents_that_are_not_side_by_side() -> None:
    model = make().eval()
    ids = torch.arange(3, 9)[None]
    with pytest.raises(ValueError, match="the same id in two places"):
        model(ids, document_ids=torch.tensor([[0, 0, 1, 1, 0, 0]]))
    with pytest.raises(ValueError, match="document_ids has shape"):
        model(ids, document_ids=torch.zeros(1, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="document_ids of dtype"):
        model(ids, document_ids=torch.zeros(1, 6))
    assert isinstance(model, LongformerPlusModel)


HEADS = ("MaskedLM", "CausalLM", "TokenClassification", "SequenceClassification", "QuestionAnswering", "MultipleChoice")


@pytest.mark.parametrize("head", HEADS)
def test_every_head_names_what_a_trainer_may_give_it(head: str) -> None:
    """Trainer drops the columns that `forward` does not name."""
    names = set(inspect.signature(getattr(longformer_plus, f"LongformerPlusFor{head}").forward).parameters)
    assert {"document_ids", "max_global_tokens"} <= names


@pytest.mark.parametrize("head", ["MaskedLM", "TokenClassification", "QuestionAnswering"])
def test_a_plain_trainer_keeps_documents_apart(head: str, tmp_path: Path) -> None:
    """The loss of its one step is that of the same batch given to the model."""
    model = make(head=f"For{head}").train()
    batch = {name: rows for name, rows in packed(documents()).items() if name != "global_attention_mask"}
    if head == "QuestionAnswering":
        labels = {"start_positions": torch.tensor([3, 30]), "end_positions": torch.tensor([5, 33])}
    else:
        labels = {"labels": batch["input_ids"] % 2}
    with torch.no_grad():
        want = model(**batch, **labels).loss.item()
        together = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **labels).loss.item()
    assert abs(together - want) > 1e-3
    columns = {**batch, **labels}
    rows = [{name: values[row] for name, values in columns.items()} for row in range(2)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        max_steps=1,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(want, rel=1e-4)
