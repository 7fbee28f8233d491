"""Second derivatives, as gradient penalties and second-order optimizers need them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from longformer_plus import LongformerPlusConfig, LongformerPlusForSequenceClassification

from ..cases import BACKENDS, small_config, spread

IDS = torch.arange(80).view(2, 40) % 50 + 3
BATCH = {
    "input_ids": torch.where(torch.arange(40) < torch.tensor([[40], [31]]), IDS, 1),
    "attention_mask": (torch.arange(40) < torch.tensor([[40], [31]])).long(),
    "labels": torch.tensor([0, 1]),
}


def make(backend: str, dropout: float, unpad: bool = True) -> LongformerPlusForSequenceClassification:
    torch.manual_seed(0)
    config = LongformerPlusConfig.from_longformer(
        small_config(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    )
    config.unpad_inputs = unpad
    model = LongformerPlusForSequenceClassification._from_config(config, attn_implementation=backend)
    return spread(model).double().train()  # type: ignore[return-value]


def gradients(model: torch.nn.Module, num_global: int, create_graph: bool = False) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    is_global = (torch.arange(40) < num_global).long().expand(2, 40)
    loss = model(**BATCH, global_attention_mask=is_global).loss
    return torch.autograd.grad(loss, list(model.parameters()), create_graph=create_graph)


@pytest.mark.parametrize("num_global", [0, 1, 8])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("unpad", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_has_a_gradient(backend: str, unpad: bool, dropout: float, num_global: int) -> None:
    """The Hessian times a direction is how the gradient changes along it; a backend without it names one with it."""
    model = make(backend, dropout, unpad)
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in parameters]
    try:
        first = gradients(model, num_global, create_graph=True)
        slope = sum((one * other).sum() for one, other in zip(first, direction, strict=True))
        have = torch.autograd.grad(slope, parameters, materialize_grads=True)
    except RuntimeError as error:
        assert backend != "eager"
        assert 'attn_implementation="eager"' in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        return
    nearby = []
    for distance in (1e-5, -2e-5):
        with torch.no_grad():
            for parameter, step in zip(parameters, direction, strict=True):
                parameter.add_(step, alpha=distance)
        nearby.append(gradients(model, num_global))
    for name, product, after, before in zip(dict(model.named_parameters()), have, *nearby, strict=True):
        want = (after - before) / 2e-5
        # The gradient of a bias of keys is zero everywhere.
        assert (product - want).norm() <= 1e-5 * want.norm() + 1e-7, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_function_of_the_inputs(backend: str) -> None:
    """`torch.func` by inputs, as attributions take it, and twice."""
    model = make(backend, 0.0).eval()
    embeddings = model.get_input_embeddings()(IDS).detach()
    is_global = (torch.arange(40) < 1).long().expand(2, 40)

    def loss(inputs: Tensor) -> Tensor:
        return model(inputs_embeds=inputs, global_attention_mask=is_global, labels=BATCH["labels"]).loss

    leaf = embeddings.clone().requires_grad_(True)
    (want,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(embeddings), want, rtol=1e-9, atol=1e-12)
    _, pull = torch.func.vjp(torch.func.grad(loss), embeddings)
    (product,) = pull(want)
    step = 1e-5 / want.norm()
    nearby = torch.func.grad(loss)(embeddings + step * want) - torch.func.grad(loss)(embeddings - step * want)
    torch.testing.assert_close(product, nearby / (2 * step), rtol=1e-5, atol=1e-8)


def test_forward_mode_by_inputs() -> None:
    """`torch.func.jvp`, and through the gradient: eager has both, the others say so."""
    model = make("eager", 0.0).eval()
    embeddings = model.get_input_embeddings()(IDS).detach()
    is_global = (torch.arange(40) < 1).long().expand(2, 40)

    def loss(inputs: Tensor) -> Tensor:
        return model(inputs_embeds=inputs, global_attention_mask=is_global, labels=BATCH["labels"]).loss

    gradient = torch.func.grad(loss)(embeddings)
    direction = torch.randn_like(embeddings)
    _, slope = torch.func.jvp(loss, (embeddings,), (direction,))
    torch.testing.assert_close(slope, (gradient * direction).sum(), rtol=1e-9, atol=1e-12)
    _, change = torch.func.jvp(torch.func.grad(loss), (embeddings,), (direction,))
    step = 1e-5 / direction.norm()
    nearby = [torch.func.grad(loss)(embeddings + sign * step * direction) for sign in (1, -1)]
    torch.testing.assert_close(change, (nearby[0] - nearby[1]) / (2 * step), rtol=1e-5, atol=1e-8)
    model = make("sdpa", 0.0).eval()
    with pytest.raises(NotImplementedError, match="eager"):
        torch.func.jvp(loss, (embeddings,), (direction,))
