"""Models in int8: close to their float originals, saved and loaded, and right for every batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import longformer_plus
from longformer_plus.integrations.quantization import Int8Config, is_quantized, quantize
from longformer_plus.ops import int8
from longformer_plus.ops.int8 import CENTRED, ONE_SIDED, Int8Linear

from ..cases import small_config, spread
from ..model.test_export import HEADS, batch


def make(head: str = "Model", **changes: Any) -> Any:
    torch.manual_seed(0)
    config = longformer_plus.LongformerPlusConfig.from_longformer(small_config(**changes))
    return spread(getattr(longformer_plus, f"LongformerPlus{head}")(config), scale=0.1).eval()


def inputs_of(head: str) -> dict[str, torch.Tensor]:
    inputs = batch(head, 2, 50, 2)
    inputs["attention_mask"][1, ..., 30:] = 0
    return inputs


def first_output(model: nn.Module, **inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)[0]


@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_close_and_survives_a_round_trip(head: str, tmp_path: Path) -> None:
    model, inputs = make(head), inputs_of(head)
    want = first_output(model, **inputs)
    assert quantize(model) is model
    have = first_output(model, **inputs)
    assert 0 < float((have - want).norm() / want.norm()) < 0.05
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["quant_method"]
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(first_output(loaded, **inputs), have)
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    assert torch.equal(first_output(type(model).from_pretrained(again), **inputs), have)


def test_which_layers_are_in_int8() -> None:
    model = quantize(make("ForMaskedLM"))
    kinds = {name: type(module) for name, module in model.named_modules() if isinstance(module, nn.Linear | Int8Linear)}
    assert sum(kind is Int8Linear for kind in kinds.values()) == 12
    assert all(("_global" in name or "lm_head" in name) == (kind is nn.Linear) for name, kind in kinds.items())
    layer = model.longformer.encoder.layer[1]
    assert layer.output.dense.zero_point == ONE_SIDED
    assert {layer.attention.output.dense.zero_point, layer.intermediate.dense.zero_point} == {CENTRED}
    assert quantize(make(hidden_act="tanh")).encoder.layer[0].output.dense.zero_point == CENTRED


def test_a_document_has_the_same_result_whatever_is_beside_it() -> None:
    model = quantize(make())
    ids = torch.randint(5, 60, (3, 40), generator=torch.Generator().manual_seed(0))
    lengths = (40, 23, 9)
    mask = (torch.arange(40) < torch.tensor(lengths)[:, None]).long()
    is_global = torch.zeros_like(ids)
    is_global[:, 0] = 1
    options = {"global_attention_mask": is_global, "attention_mask": mask}
    unpadded = first_output(model, input_ids=ids, **options)
    model.config.unpad_inputs = False
    padded = first_output(model, input_ids=ids, **options)
    document_ids = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    valid = mask.bool()
    packed = first_output(
        model, input_ids=ids[valid][None], global_attention_mask=is_global[valid][None], document_ids=document_ids
    )
    for row, length in enumerate(lengths):
        alone = first_output(model, input_ids=ids[row : row + 1, :length], global_attention_mask=is_global[:1, :length])
        for have in (unpadded[row, :length], padded[row, :length], packed[document_ids == row]):
            torch.testing.assert_close(have, alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_attention_in_bfloat16_is_close(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on processors that multiply bfloat16: with global rows, caches of attention, padding and a mask of heads."""
    model, inputs = quantize(make()), inputs_of("Model")
    model.set_attn_implementation(backend)
    want = first_output(model, **inputs)
    monkeypatch.setattr(int8, "multiplies_bfloat16", lambda: True)
    for options in ({}, {"output_attentions": True}, {"head_mask": torch.ones(3)}):
        have = first_output(model, **inputs, **options)
        assert have.dtype == torch.float32
        valid = inputs["attention_mask"] > 0
        assert 0 < float((have - want)[valid].norm() / want[valid].norm()) < 0.02


def test_a_causal_model_generates(monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantize(make("ForCausalLM"))
    ids = torch.tensor([[5, 6, 7, 8]])
    for has_bfloat16 in (False, True):
        monkeypatch.setattr(int8, "multiplies_bfloat16", lambda has=has_bfloat16: has)
        assert model.generate(ids, max_new_tokens=4, do_sample=False).shape == (1, 8)


def test_from_pretrained_quantises(tmp_path: Path) -> None:
    model, inputs = make("ForTokenClassification"), inputs_of("ForTokenClassification")
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, quantization_config=Int8Config())
    assert torch.equal(first_output(loaded, **inputs), first_output(quantize(model), **inputs))


def test_half_precision_around_int8(tmp_path: Path) -> None:
    model, inputs = quantize(make("ForTokenClassification")), inputs_of("ForTokenClassification")
    want = first_output(model, **inputs)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
    layers = [module for module in loaded.modules() if isinstance(module, Int8Linear)]
    assert {layer.weight_scale.dtype for layer in layers} == {torch.float32}
    assert loaded.dtype == torch.bfloat16
    assert float((first_output(loaded, **inputs) - want).norm() / want.norm()) < 0.05


def test_another_model_of_the_same_configuration_is_untouched(tmp_path: Path) -> None:
    model = make()
    other = type(model)(model.config)
    quantize(model)
    other.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert not is_quantized(other)


def test_a_head_can_be_trained_on_it() -> None:
    model = quantize(make("ForSequenceClassification"))
    model.classifier.requires_grad_(True)
    inputs = inputs_of("ForSequenceClassification")
    model(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    assert model.classifier.dense.weight.grad is not None
    embedded = torch.randn(1, 20, 24, requires_grad=True)
    with pytest.raises(RuntimeError, match="Gradients do not flow through int8 layers"):
        model(inputs_embeds=embedded)


def test_what_cannot_be_quantised_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="A Linear cannot be quantised"):
        quantize(nn.Linear(2, 2))  # type: ignore[type-var]
    with pytest.raises(ValueError, match="in int8 already"):
        quantize(quantize(make()))


def test_adapters_are_refused_until_they_are_merged() -> None:
    peft = pytest.importorskip("peft")
    from longformer_plus.integrations.adapters import lora_config

    model = make("ForTokenClassification")
    adapted = peft.get_peft_model(model, lora_config("token-classification"))
    with pytest.raises(TypeError, match="Merge adapters first"):
        quantize(adapted)
    with pytest.raises(ValueError, match=r"layer\.0\.attention\.self\.query is a peft\..*Merge adapters"):
        quantize(model)
    merged = adapted.merge_and_unload()
    assert is_quantized(quantize(merged))
    with pytest.raises(ValueError, match="Int8Linear"):
        peft.get_peft_model(merged, lora_config("token-classification"))
