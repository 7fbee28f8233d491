"""Losses are the mean over all labels of a step, whatever batches it is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from longformer_plus import (
    LongformerPlusForMaskedLM,
    LongformerPlusForMultipleChoice,
    LongformerPlusForQuestionAnswering,
    LongformerPlusForSequenceClassification,
    LongformerPlusForTokenClassification,
)
from longformer_plus.model.losses import sequence_loss, span_loss, token_loss

from ..cases import BACKENDS, small_config


def test_problem_types_are_told_by_classes_and_labels() -> None:
    logits = torch.randn(4, 3)
    one_of = torch.tensor([0, 2, 1, 1])
    some_of = torch.rand(4, 3).round()
    torch.testing.assert_close(sequence_loss(logits, one_of, None), F.cross_entropy(logits, one_of))
    torch.testing.assert_close(
        sequence_loss(logits, some_of, None), F.binary_cross_entropy_with_logits(logits, some_of)
    )
    torch.testing.assert_close(sequence_loss(logits, some_of, "regression"), F.mse_loss(logits, some_of))
    targets = torch.randn(4)
    torch.testing.assert_close(sequence_loss(logits[:, :1], targets, None), F.mse_loss(logits[:, 0], targets))
    with pytest.raises(ValueError, match=r"labels of shape \(4,\)"):
        sequence_loss(logits, targets, "regression")


def test_nothing_labelled_gives_zero_and_a_gradient() -> None:
    logits = torch.randn(2, 5, 3, requires_grad=True)
    loss = token_loss(logits, torch.full((2, 5), -100))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_answers_outside_the_input_are_not_counted() -> None:
    start, end = torch.randn(2, 6), torch.randn(2, 6)
    loss = span_loss(start, end, torch.tensor([2, 6]), torch.tensor([[3], [9]]))
    torch.testing.assert_close(
        loss, (F.cross_entropy(start[:1], torch.tensor([2])) + F.cross_entropy(end[:1], torch.tensor([3]))) / 2
    )


class Documents(Dataset):
    """Twelve documents of one length for one head, each with labels of its own number."""

    def __init__(self, head: str) -> None:
        generator = torch.Generator().manual_seed(0)
        tokens = 20
        self.rows = []
        for index in range(12):
            ids = torch.randint(3, 60, (tokens,), generator=generator)
            ids[[7, 8, tokens - 1]] = 2
            row = {"input_ids": ids}
            if head in ("masked", "token"):
                row["labels"] = torch.randint(0, 3, (tokens,), generator=generator)
                row["labels"][index + 1 :] = -100
            elif head == "question":
                row["start_positions"] = row["end_positions"] = torch.tensor(index)
            elif head == "choice":
                row = {"input_ids": torch.stack([ids, ids.flip(0), ids])}
                row["labels"] = torch.tensor(index % 3)
            elif head == "several":
                row["labels"] = torch.rand(3, generator=generator).round()
            else:
                row["labels"] = torch.tensor(index % 3)
            self.rows.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


MODELS = {
    "masked": LongformerPlusForMaskedLM,
    "token": LongformerPlusForTokenClassification,
    "single": LongformerPlusForSequenceClassification,
    "several": LongformerPlusForSequenceClassification,
    "question": LongformerPlusForQuestionAnswering,
    "choice": LongformerPlusForMultipleChoice,
}


@pytest.mark.parametrize(
    "head", [head if head in ("masked", "choice") else pytest.param(head, marks=pytest.mark.slow) for head in MODELS]
)
def test_accumulated_gradient_under_trainer_is_that_of_the_large_batch(head: str, tmp_path: Path) -> None:
    def trained(batch: int, accumulation: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = MODELS[head](small_config(num_labels=2 if head == "question" else 3))
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            learning_rate=1.0,
            lr_scheduler_type="constant",
            optim="sgd",
            max_grad_norm=0.0,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            seed=1,
        )
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        Trainer(model, arguments, train_dataset=Documents(head)).train()
        return {name: before[name] - p.detach() for name, p in model.named_parameters()}

    large, accumulated = trained(12, 1), trained(3, 4)
    for name, want in large.items():
        error = (accumulated[name] - want).square().mean().sqrt().item()
        assert error <= 1e-4 * want.square().mean().sqrt().item() + 1e-6, name
    assert max(step.abs().max() for step in large.values()) > 1e-3


def test_sparse_prediction_learns_the_same_from_the_labelled_tokens_alone() -> None:
    torch.manual_seed(0)
    model = LongformerPlusForMaskedLM(small_config()).train()
    ids = torch.randint(5, 60, (2, 30))
    attention_mask = (torch.arange(30) < torch.tensor([[30], [18]])).long()
    labels = torch.where((torch.rand(2, 30) < 0.3) & (attention_mask > 0), ids, -100)
    results = {}
    for sparse in (False, True):
        model.config.sparse_prediction = sparse
        model.zero_grad()
        output = model(ids, attention_mask=attention_mask, labels=labels)
        output.loss.backward()
        gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
        results[sparse] = output, gradients
    (full, full_gradients), (sparse, sparse_gradients) = results[False], results[True]
    torch.testing.assert_close(sparse.logits, full.logits[labels != -100])
    torch.testing.assert_close(sparse.loss, full.loss)
    torch.testing.assert_close(sparse_gradients, full_gradients)
    assert model.eval()(ids, labels=labels).logits.shape == full.logits.shape


def on_any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply by oneDNN, which has limits of its own, wherever torch has it."""
    if torch.backends.mkldnn.is_available():
        monkeypatch.setattr("longformer_plus.ops.linear._is_amd_with_avx512", lambda: True)


WIDE = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 160}


def test_sparse_prediction_of_a_batch_without_one_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """As masking at a low rate makes of short documents now and then: a loss of zero and gradients of zero."""
    on_any_processor(monkeypatch)
    model = LongformerPlusForMaskedLM(small_config(**WIDE)).train()
    model.config.sparse_prediction = True
    ids = torch.arange(5, 35).view(2, 15)
    output = model(ids, labels=torch.full_like(ids, -100))
    output.loss.backward()
    assert output.loss == 0
    assert output.logits.shape == (0, 60)
    assert not [name for name, each in model.named_parameters() if each.grad is None or each.grad.any()]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("head", [head for head in MODELS if head != "several"])
def test_a_batch_of_no_rows(head: str, is_training: bool, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the last batch of an uneven split, or a filter that nothing passes, gives."""
    on_any_processor(monkeypatch)
    config = small_config(num_labels=2, **WIDE)
    model = MODELS[head]._from_config(config, attn_implementation=backend).train(is_training)
    shape = (0, 3, 20) if head == "choice" else (0, 20)
    ids = torch.zeros(shape, dtype=torch.long)
    with torch.set_grad_enabled(is_training):
        output = model(ids, attention_mask=torch.ones_like(ids), global_attention_mask=torch.zeros_like(ids))
    logits = output.start_logits if head == "question" else output.logits
    assert logits.shape[0] == 0
    if is_training:
        logits.sum().backward()
        assert not [name for name, each in model.named_parameters() if each.grad is not None and each.grad.any()]
