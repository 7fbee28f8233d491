"""Weights that are kept in int8: what rounding costs, and that they multiply as their float ones do."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from longformer_plus.ops import int8_weights, plain_weights
from longformer_plus.ops.int8_weights import Int8Embedding, Int8WeightLinear, pack_rows, unpack_rows


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(30, 21)


@pytest.mark.parametrize("width", [1, 7, 64])
def test_each_row_is_rounded_by_its_own_scale(width: int) -> None:
    rows = torch.randn(40, width) * torch.logspace(-4, 4, 40)[:, None]
    rows[0] = 0.0
    packed = pack_rows(rows)
    assert packed.shape == (40, width + 4)
    assert packed.dtype == torch.int8
    error = (unpack_rows(packed, torch.float32) - rows).abs()
    assert bool((error <= rows.abs().amax(1, keepdim=True) / 127 * 0.5001).all())
    assert torch.equal(unpack_rows(packed[3:5], torch.float32), unpack_rows(pack_rows(rows[3:5]), torch.float32))


def test_a_lookup_gives_the_rows() -> None:
    embedding = nn.Embedding(50, 13)
    kept = Int8Embedding.of(embedding)
    ids = torch.tensor([[3, 49, 0], [3, 3, 7]])
    assert torch.equal(kept(ids), unpack_rows(kept.weight, torch.float32)[ids])
    torch.testing.assert_close(kept(ids), embedding(ids), rtol=0, atol=0.02)
    assert (kept.num_embeddings, kept.embedding_dim) == (50, 13)
    assert not any(parameter.requires_grad for parameter in kept.parameters())
    assert Int8Embedding.of(nn.Embedding(50, 13, dtype=torch.bfloat16))(ids).dtype == torch.bfloat16
    with pytest.raises(IndexError):
        kept(torch.tensor([50]))


@pytest.mark.parametrize("largest", [int8_weights.LARGEST_BYTES, 4 * 30 * 8, 1])
@pytest.mark.parametrize("shape", [(30,), (5, 30), (2, 0, 30), (2, 3, 30)])
def test_a_product_is_that_of_the_float_weight(
    shape: tuple[int, ...], largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All outputs at once, by eights, and one by one."""
    monkeypatch.setattr(int8_weights, "LARGEST_BYTES", largest)
    layer, rows = Int8WeightLinear.of(linear()), torch.randn(shape)
    torch.testing.assert_close(layer(rows), F.linear(rows, layer.float_weight(), layer.bias))
    torch.testing.assert_close(layer.float_weight(), linear().weight, rtol=0, atol=0.001)


@pytest.mark.parametrize("largest", [int8_weights.LARGEST_BYTES, 4 * 30 * 8])
def test_gradients_flow_to_the_rows(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_weights, "LARGEST_BYTES", largest)
    layer, rows = Int8WeightLinear.of(linear()), torch.randn(4, 30, requires_grad=True)
    layer(rows).square().sum().backward()
    have, rows.grad = rows.grad, None
    F.linear(rows, layer.float_weight(), layer.bias).square().sum().backward()
    torch.testing.assert_close(have, rows.grad)


def test_the_dtype_follows_the_model_and_the_weights_stay() -> None:
    model = nn.ModuleList([Int8Embedding.of(nn.Embedding(9, 30)), Int8WeightLinear.of(linear())])
    ids = torch.tensor([1, 8])
    want, weights = model[1](model[0](ids)), [layer.weight.clone() for layer in model]
    model.to(torch.bfloat16)
    assert model[0](ids).dtype == torch.bfloat16
    have = model[1](model[0](ids))
    assert have.dtype == torch.bfloat16
    torch.testing.assert_close(have.float(), want, rtol=0.02, atol=0.02)
    model.float()
    assert model[0](ids).dtype == torch.float32
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(model, weights, strict=True))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other[1](other[0](ids)), model[1](model[0](ids)))


def test_only_a_layer_that_nobody_observes_shows_its_weights() -> None:
    layer, rows = Int8WeightLinear.of(linear()), torch.randn(3, 30)
    weight, bias = plain_weights(layer)
    torch.testing.assert_close(F.linear(rows, weight, bias), layer(rows))
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert plain_weights(layer) is None
    assert plain_weights(nn.Sequential(linear())) is None
    assert plain_weights(Int8WeightLinear(30, 21, device="meta")) is None
    plain = linear()
    assert plain_weights(plain) == (plain.weight, plain.bias)
