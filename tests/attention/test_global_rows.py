"""Folding the global projections gives what calling them gives; modules that are not plain are called."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from longformer_plus import LongformerPlusModel
from longformer_plus.attention import global_rows as module
from longformer_plus.ops import is_plain_linear

from ..cases import BACKENDS, small_config, spread

IDS = torch.arange(3, 53)[None]
GLOBAL = torch.zeros_like(IDS)
GLOBAL[0, [0, 7]] = 1


class Adapter(nn.Module):
    """A low-rank adapter around a linear layer, as adapter libraries insert them."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


class ScaledLinear(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def adapted(layer: nn.Linear) -> nn.Module:
    return Adapter(layer)


def hooked(layer: nn.Linear) -> nn.Module:
    layer.register_forward_hook(lambda module, args, out: 2 * out)
    return layer


def pre_hooked(layer: nn.Linear) -> nn.Module:
    layer.register_forward_pre_hook(lambda module, args: (args[0].flip(-1),))
    return layer


def forward_in_the_instance(layer: nn.Linear) -> nn.Module:
    forward = layer.forward
    layer.forward = lambda x: 2 * forward(x)  # type: ignore[method-assign]
    return layer


def parametrized(layer: nn.Linear) -> nn.Module:
    return parametrizations.weight_norm(layer)


def subclass(layer: nn.Linear) -> nn.Module:
    other = ScaledLinear(layer.in_features, layer.out_features)
    other.load_state_dict(layer.state_dict())
    return other


def quantised(layer: nn.Linear) -> nn.Module:
    wrapped = nn.Sequential(layer)
    return torch.ao.quantization.quantize_dynamic(wrapped, {nn.Linear}, dtype=torch.qint8)[0]


WRAPPINGS = [adapted, hooked, pre_hooked, forward_in_the_instance, parametrized, subclass, quantised]


@pytest.fixture
def model() -> LongformerPlusModel:
    torch.manual_seed(0)
    return spread(LongformerPlusModel(small_config())).eval()  # type: ignore[return-value]


def test_few_global_tokens_read_the_weights(model: LongformerPlusModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def spy_on(name: str) -> None:
        call = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: calls.append(name) or call(*args))

    spy_on("_folded")
    spy_on("_projected")
    model(IDS, global_attention_mask=GLOBAL)
    assert calls == ["_folded", "_folded"]
    many = torch.ones_like(IDS)
    model(IDS, global_attention_mask=many)
    assert calls[2:] == ["_projected", "_projected"]


def test_both_ways_are_equal(model: LongformerPlusModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        state = model(IDS, global_attention_mask=GLOBAL).last_hidden_state
        state.square().sum().backward()
        return state.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    folded = run()
    monkeypatch.setattr(module, "folding_pays", lambda *_: False)
    projected = run()
    torch.testing.assert_close(folded[0], projected[0], atol=1e-5, rtol=0)
    for one, other in zip(folded[1], projected[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["key_global", "value_global"])
@pytest.mark.parametrize("wrap", WRAPPINGS)
@pytest.mark.filterwarnings("ignore")
def test_what_is_put_around_a_projection_is_never_left_out(
    model: LongformerPlusModel, wrap: Callable[[nn.Linear], nn.Module], name: str, backend: str
) -> None:
    model.set_attn_implementation(backend)
    attention = model.encoder.layer[0].attention.self
    plain = model(IDS, global_attention_mask=GLOBAL).last_hidden_state
    assert is_plain_linear(getattr(attention, name))
    setattr(attention, name, wrap(getattr(attention, name)))
    wrapped = getattr(attention, name)
    assert not is_plain_linear(wrapped)
    seen = []
    original = type(wrapped).__call__

    class Spy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.shape)
            return original(wrapped, x)

    with torch.no_grad():
        changed = model(IDS, global_attention_mask=GLOBAL).last_hidden_state
        setattr(attention, name, Spy())
        expected = model(IDS, global_attention_mask=GLOBAL).last_hidden_state
    assert seen == [(1, 50, 24)]
    torch.testing.assert_close(changed, expected)
    if wrap is not parametrized:
        assert not torch.allclose(changed, plain, atol=1e-6)


def test_weights_that_are_not_here_are_not_read() -> None:
    with torch.device("meta"):
        assert not is_plain_linear(nn.Linear(2, 2))
    assert not is_plain_linear(nn.Linear(2, 2, bias=False))
    assert is_plain_linear(nn.Linear(2, 2))


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("is_global", [None, torch.zeros_like(IDS), GLOBAL])
def test_every_parameter_gets_a_gradient(is_global: torch.Tensor | None, is_training: bool) -> None:
    """Also where no token is global: DistributedDataParallel waits for every parameter, and in evaluation mode, in
    which adapters are often tuned."""
    model = LongformerPlusModel(small_config()).train(is_training)
    model(IDS, global_attention_mask=is_global).pooler_output.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if is_global is not GLOBAL and "_global" in name:
            assert not parameter.grad.any(), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["key_global", "value_global"])
def test_a_lora_adapter_changes_the_output_and_learns(backend: str, name: str) -> None:
    peft = pytest.importorskip("peft")
    base = spread(LongformerPlusModel(small_config())).eval()
    base.set_attn_implementation(backend)
    with torch.no_grad():
        plain = base(IDS, global_attention_mask=GLOBAL).last_hidden_state
    config = peft.LoraConfig(target_modules=[name], init_lora_weights=False, r=2)
    model = peft.get_peft_model(base, config).eval()
    adapted = model(input_ids=IDS, global_attention_mask=GLOBAL).last_hidden_state
    assert (adapted - plain).abs().max() > 1e-3
    adapted.square().sum().backward()
    # A bias on all keys alike changes no softmax; the adapter's matrices are not such.
    assert all(p.grad.abs().max() > 0 for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        merged = model.merge_and_unload()(IDS, global_attention_mask=GLOBAL).last_hidden_state
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=0)
