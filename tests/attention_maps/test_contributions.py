"""Attention weighted by the values' norm against a dense float64 computation, and the logit lens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from longformer_plus import LongformerPlusForMaskedLM, LongformerPlusModel
from longformer_plus.attention_maps import (
    AttentionMaps,
    add_values,
    contributions,
    logit_lens,
    num_value_bytes,
    record,
)

from ..cases import small_config, spread

TOKENS = 30


def inputs_of(global_positions: list[int]) -> dict[str, Tensor]:
    ids = torch.randint(3, 50, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    return {
        "input_ids": ids,
        "global_attention_mask": torch.zeros_like(ids).index_fill(
            1, torch.tensor(global_positions, dtype=torch.long), 1
        ),
    }


def dense_norms(model: Any, inputs: dict[str, Tensor], layer: int, heads: list[int], maps: AttentionMaps) -> Tensor:
    """(N, N) in float64, with every vector that every head carries written out."""
    model = copy.deepcopy(model).double()
    states = model(**inputs, output_hidden_states=True).hidden_states[layer][0]
    block = model.encoder.layer[layer].attention
    num_heads = block.self.num_heads
    output = block.output.dense.weight.T.unflatten(0, (num_heads, -1))  # (H, D, E)
    is_global = inputs["global_attention_mask"][0] > 0
    carried = torch.zeros(TOKENS, TOKENS, states.shape[-1], dtype=torch.float64)
    for head in heads:
        for rows, value in ((~is_global, block.self.value), (is_global, block.self.value_global)):
            vectors = value(states).unflatten(-1, (num_heads, -1))[:, head] @ output[head]  # (N, E)
            weights = maps.dense(layer, head)[0, 0].double()[rows]
            carried[rows] += weights[..., None] * vectors
    return carried.norm(dim=-1)


@pytest.mark.parametrize("global_positions", [[], [0, 11]])
@torch.no_grad()
def test_contributions_are_the_norms_of_what_the_heads_carry(global_positions: list[int]) -> None:
    model = spread(LongformerPlusModel(small_config(vocab_size=50))).eval()
    inputs = inputs_of(global_positions)
    _, maps = record(model, inputs, 32, with_values=True)
    for layer, heads in ((0, [1]), (1, [0, 2]), (1, list(range(maps.num_heads)))):
        expected = dense_norms(model, inputs, layer, heads, maps)
        torch.testing.assert_close(contributions(maps, layer, heads).double(), expected, atol=1e-6, rtol=1e-4)
        some = contributions(maps, layer, heads, [0, 5, 11], [4, 11]).double()
        torch.testing.assert_close(some, expected[[0, 5, 11]][:, [4, 11]], atol=1e-6, rtol=1e-4)
    both = contributions(maps, rows=5)
    torch.testing.assert_close(both, (contributions(maps, 0, rows=5) + contributions(maps, 1, rows=5)) / 2)
    weights = record(model, inputs, 32)[1]
    assert maps.num_bytes - weights.num_bytes == num_value_bytes(weights) > 0
    torch.testing.assert_close(contributions(add_values(weights, model, inputs)), contributions(maps))
    with pytest.raises(ValueError, match="with_values=True"):
        contributions(weights)
    with pytest.raises(ValueError, match="The maps have 1 layers, the model has 2"):
        add_values(AttentionMaps(weights.layers[:1]), model, inputs)


@torch.no_grad()
def test_an_adapter_of_the_projections_counts() -> None:
    peft = pytest.importorskip("peft")
    model = spread(LongformerPlusModel(small_config(vocab_size=50))).eval()
    adapter = peft.LoraConfig(target_modules=r".*\.(value|attention\.output\.dense)", init_lora_weights=False)
    adapted = peft.get_peft_model(copy.deepcopy(model), adapter).eval()
    inputs = inputs_of([0])
    found = contributions(record(adapted, inputs, 32, with_values=True)[1])
    merged = record(adapted.merge_and_unload(), inputs, 32, with_values=True)[1]
    torch.testing.assert_close(found, contributions(merged), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, contributions(record(model, inputs, 32, with_values=True)[1]), atol=1e-3)


@torch.no_grad()
def test_the_lens_reads_every_layer_with_the_head_of_the_last() -> None:
    model = spread(LongformerPlusForMaskedLM(small_config(vocab_size=50))).eval()
    inputs = inputs_of([0])
    found = logit_lens(model, inputs, 7, top_k=3)
    outputs = model(**inputs, output_hidden_states=True)
    assert len(found) == len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    for states, words in zip(outputs.hidden_states, found, strict=True):
        best = model.lm_head(states)[0, 7].softmax(-1).topk(3)
        assert [word for word, _ in words] == best.indices.tolist()
        assert [value for _, value in words] == pytest.approx(best.values.tolist())
    assert found[-1][0][0] == int(outputs.logits[0, 7].argmax())
    with pytest.raises(ValueError, match="position from 0 to 29"):
        logit_lens(model, inputs, 30)
    with pytest.raises(ValueError, match="no head for masked words"):
        logit_lens(model.longformer, inputs, 3)  # type: ignore[arg-type]
