"""Random models and batches, and the comparison of a split run with a whole one."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import ProcessGroup

import longformer_plus
from longformer_plus import LongformerPlusConfig
from longformer_plus.integrations.context_parallel import average_gradients, split_sequence

from ...cases import small_config, spread

HEADS = (
    "MaskedLM",
    "CausalLM",
    "TokenClassification",
    "SequenceClassification",
    "QuestionAnswering",
    "MultipleChoice",
)


def random_model(draw: random.Random, head: str) -> nn.Module:
    """A model of float64 with windows, dilations and a backend of its own."""
    fields = small_config(
        num_labels=2,
        attention_window=[draw.choice([2, 4, 8, 16]) for _ in range(2)],
        num_hidden_layers=2,
    ).to_dict()
    del fields["model_type"]
    fields["attention_dilation"] = draw.choice([1, 1, 2, [1, 2], [[1, 3, 1], [2, 2, 1]]])
    fields["is_causal"] = head != "MultipleChoice" and draw.random() < 0.3
    fields["unpad_inputs"] = draw.choice([True, False, None])
    fields["sparse_prediction"] = draw.random() < 0.5
    torch.manual_seed(draw.randrange(2**16))
    model = getattr(longformer_plus, f"LongformerPlusFor{head}")(LongformerPlusConfig(**fields))
    model.set_attn_implementation(draw.choice(["eager", "sdpa", "sdpa", "flex_attention"]))
    if draw.random() < 0.3:
        model.gradient_checkpointing_enable({"use_reentrant": draw.random() < 0.5})
    return spread(model, 0.2, seed=draw.randrange(2**16)).double().train()


def random_batch(draw: random.Random, head: str, most_tokens: int = 90) -> dict[str, Tensor]:
    """A batch of 1 to 3 rows, padded on any side or with holes or of several documents, with labels."""
    generator = torch.Generator().manual_seed(draw.randrange(2**16))
    rows, tokens = (
        draw.randint(1, 3),
        draw.choice([1, 2, 3, draw.randint(4, most_tokens), draw.randint(40, most_tokens)]),
    )
    ids = torch.randint(3, 60, (rows, tokens), generator=generator)
    valid = torch.ones_like(ids)
    documents = None
    for row in range(rows):
        amount = draw.randrange(tokens)
        padding = draw.choice(["none", "left", "right", "holes"])
        if padding == "left":
            valid[row, :amount] = 0
        elif padding == "right":
            valid[row, tokens - amount :] = 0
        elif padding == "holes":
            valid[row, torch.randperm(tokens, generator=generator)[:amount]] = 0
    if draw.random() < 0.3:
        documents = (torch.rand(rows, tokens, generator=generator) < 0.08).long().cumsum(1)
    ids[valid == 0] = 1
    batch = {"input_ids": ids}
    if draw.random() < 0.7:
        batch["attention_mask"] = valid
    if documents is not None:
        batch["document_ids"] = documents
    share = draw.choice([None, 0.0, 0.05, 0.5, 1.0])
    if share is not None:
        batch["global_attention_mask"] = (torch.rand(ids.shape, generator=generator) < share).long()
    if head == "MultipleChoice":
        batch = {name: values[None] for name, values in batch.items()}
        batch["labels"] = torch.tensor([draw.randrange(rows)])
    elif head == "QuestionAnswering":
        batch["start_positions"] = torch.randint(0, tokens, (rows,), generator=generator)
        batch["end_positions"] = torch.randint(0, tokens, (rows,), generator=generator)
    elif head == "SequenceClassification":
        batch["labels"] = torch.randint(0, 2, (rows,), generator=generator)
    else:
        labels = torch.randint(0, 2, ids.shape, generator=generator)
        is_hidden = (torch.rand(ids.shape, generator=generator) < 0.4) | (valid == 0)
        batch["labels"] = labels.masked_fill(is_hidden, -100)
    return batch


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def step(model: nn.Module, batch: dict[str, Tensor]) -> Any:
    model.zero_grad()
    outputs = model(**batch)
    outputs.loss.backward()
    return outputs


def assert_same_step(model: nn.Module, batch: dict[str, Tensor], group: ProcessGroup, tolerance: float = 1e-10) -> None:
    """A training step of the processes of a group gives the loss and the gradients of one process alone."""
    alone = step(model, batch)
    expected = gradients(model)
    with split_sequence(model, group):
        split = step(model, batch)
    average_gradients(model, group)
    found = gradients(model)
    torch.testing.assert_close(split.loss, alone.loss, atol=tolerance, rtol=tolerance)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=tolerance, rtol=tolerance, msg=name)


def assert_same_random_steps(group: ProcessGroup, head: str, seeds: range) -> None:
    failed = []
    for seed in seeds:
        draw = random.Random(f"{seed} {head} {dist.get_world_size(group)}")
        model = random_model(draw, head)
        batch = random_batch(draw, head)
        try:
            assert_same_step(model, batch, group)
        except Exception as error:
            failed.append(
                f"seed {seed}, {model.config._attn_implementation}, {batch['input_ids'].shape}: {error!r:.1500}"
            )
    assert not failed, f"{len(failed)} of {len(seeds)}\n" + "\n".join(failed[:3])
