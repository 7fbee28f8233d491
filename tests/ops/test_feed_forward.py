"""The feed-forward computed in chunks gives the same as in one call; a module with a hook is called once."""

from __future__ import annotations

import pytest
import torch

from longformer_plus import LongformerPlusModel

from ..cases import BACKENDS, small_config, spread

IDS = torch.arange(100)[None] % 50 + 3
GLOBAL = torch.zeros_like(IDS)
GLOBAL[0, 7] = 1


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> LongformerPlusModel:
    monkeypatch.setattr(
        "longformer_plus.ops.chunking.LARGEST_BYTES", 40 * 4 * 16
    )  # sixteen tokens of the widest activation
    return spread(LongformerPlusModel(small_config())).eval()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [1, 3])
def test_chunks_change_nothing(model: LongformerPlusModel, backend: str, rows: int) -> None:
    model.set_attn_implementation(backend)
    inputs = {"input_ids": IDS.repeat(rows, 1), "global_attention_mask": GLOBAL.repeat(rows, 1)}
    whole = model(**inputs, output_hidden_states=True)  # with gradients there are no chunks
    with torch.no_grad():
        in_chunks = model(**inputs, output_hidden_states=True)
    for one, other in zip(whole.hidden_states, in_chunks.hidden_states, strict=True):
        torch.testing.assert_close(other, one, atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_module_with_a_hook_is_called_once(model: LongformerPlusModel) -> None:
    def lengths(name: str) -> list[int]:
        seen: list[int] = []
        handle = model.get_submodule(name).register_forward_hook(lambda _, args, out: seen.append(out.shape[1]))
        model(IDS, global_attention_mask=GLOBAL)
        handle.remove()
        return seen

    for name in ("attention.self.key", "attention.output.dense", "intermediate", "output.LayerNorm"):
        assert lengths(f"encoder.layer.0.{name}") == [100]

    calls: list[int] = []
    forward = model.encoder.layer[0].output.dense.forward
    model.encoder.layer[0].output.dense.forward = lambda x: (calls.append(x.shape[1]), forward(x))[1]
    model(IDS, global_attention_mask=GLOBAL)
    assert calls == [100]


@torch.no_grad()
@pytest.mark.parametrize("name", ["attention.self", "attention", "attention.output"])
def test_states_kept_by_a_hook_are_not_written_over(model: LongformerPlusModel, name: str) -> None:
    kept = []

    def keep(module: torch.nn.Module, args: tuple, out: torch.Tensor | tuple) -> None:
        states = out[0] if isinstance(out, tuple) else out
        kept.append((states, states.clone()))

    for layer in model.encoder.layer:
        layer.get_submodule(name).register_forward_hook(keep)
    model(IDS, global_attention_mask=GLOBAL)
    assert len(kept) == 2
    assert all(torch.equal(one, copy) for one, copy in kept)
