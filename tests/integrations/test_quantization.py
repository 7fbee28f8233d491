"""Models in int8: close to their float originals, saved and loaded, and right for every batch."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import Trainer, TrainingArguments

import longformer_plus
from longformer_plus.attention import global_rows
from longformer_plus.conversion import CheckpointError, convert_to_longformer
from longformer_plus.integrations import onnx_export
from longformer_plus.integrations.quantization import (
    LAYOUT,
    METHOD,
    Int8Config,
    is_quantized,
    quantize,
    replace_products,
)
from longformer_plus.ops import int8
from longformer_plus.ops.int8 import CENTRED, ONE_SIDED, Int8Linear
from longformer_plus.ops.int8_weights import Int8Embedding, Int8WeightLinear, unpack_rows

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
    kinds = {name: type(module) for name, module in model.named_modules() if hasattr(module, "weight")}
    for pattern, kind, number in (
        (r"layer\.\d\..*(query|key|value|dense)", Int8Linear, 12),
        (r".*_global|lm_head\.decoder", Int8WeightLinear, 7),
        (r"(word|position)_embeddings", Int8Embedding, 2),
        (r"lm_head\.dense", nn.Linear, 1),
        (r"token_type_embeddings", nn.Embedding, 1),
    ):
        names = {name for name, each in kinds.items() if each is kind}
        assert len(names) == number
        assert names == {name for name in kinds if re.search(rf"({pattern})$", name)}
    layer = model.longformer.encoder.layer[1]
    assert layer.output.dense.zero_point == ONE_SIDED
    assert {layer.attention.output.dense.zero_point, layer.intermediate.dense.zero_point} == {CENTRED}
    feeding = {name for name, module in model.named_modules() if getattr(module, "feeds_attention", False)}
    assert feeding == {name for name in kinds if re.search(r"(query|key|value)$", name)}
    assert quantize(make(hidden_act="tanh")).encoder.layer[0].output.dense.zero_point == CENTRED


def num_bytes(model: nn.Module) -> int:
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}.values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_weights_and_file_are_under_three_tenths(tmp_path: Path) -> None:
    model = longformer_plus.LongformerPlusForMaskedLM.from_pretrained(longformer_plus.shipped_checkpoint())
    before, parameters = num_bytes(model), model.num_parameters()
    quantize(model).save_pretrained(tmp_path)
    assert num_bytes(model) < 0.3 * before
    assert (tmp_path / "model.safetensors").stat().st_size < 0.3 * 4 * parameters


def test_the_vocabulary_stays_tied_to_the_embeddings(tmp_path: Path) -> None:
    model, inputs = quantize(make("ForMaskedLM")), inputs_of("ForMaskedLM")
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert "longformer.embeddings.word_embeddings.weight" in file.keys()  # noqa: SIM118
        assert "lm_head.decoder.weight" not in file.keys()  # noqa: SIM118
    loaded = type(model).from_pretrained(tmp_path)
    for each in (model, loaded, copy.deepcopy(model), copy.deepcopy(loaded).to(torch.bfloat16)):
        assert each.get_output_embeddings().weight is each.get_input_embeddings().weight
        assert each.lm_head.decoder.bias is each.lm_head.bias
    table = unpack_rows(model.get_input_embeddings().weight, torch.float32)
    transformed: list[torch.Tensor] = []
    model.lm_head.decoder.register_forward_pre_hook(lambda module, given: transformed.append(given[0]))
    logits = first_output(model, **inputs, labels=None)
    torch.testing.assert_close(model.lm_head.decoder(transformed[0]), transformed[0] @ table.T + model.lm_head.bias)
    assert logits.shape[-1] == len(table)


def test_a_vocabulary_that_is_not_tied_stays_so(tmp_path: Path) -> None:
    model, inputs = make("ForMaskedLM", tie_word_embeddings=False), inputs_of("ForMaskedLM")
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    want = first_output(quantize(model), **inputs)
    assert not torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)
    model.save_pretrained(tmp_path)
    assert torch.equal(first_output(type(model).from_pretrained(tmp_path), **inputs), want)


@pytest.mark.parametrize("head", ["ForMaskedLM", "ForTokenClassification"])
def test_models_that_were_saved_with_float_embeddings_load(head: str, tmp_path: Path) -> None:
    model, inputs = make(head), inputs_of(head)
    replace_products(model, keep_weights=True)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": METHOD}}))
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    want = first_output(quantize(make(head)), **inputs)
    assert torch.equal(first_output(loaded, **inputs), want)
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    assert json.loads((again / "config.json").read_text())["quantization_config"]["layout"] == LAYOUT
    assert torch.equal(first_output(type(model).from_pretrained(again), **inputs), want)


def test_layouts_of_later_versions_are_refused(tmp_path: Path) -> None:
    quantize(make()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["layout"] = LAYOUT + 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"layout={LAYOUT + 1} .* this version reads 1 to {LAYOUT}"):
        longformer_plus.LongformerPlusModel.from_pretrained(tmp_path)


def test_embeddings_give_what_may_be_given_in_their_place() -> None:
    model, inputs = quantize(make()), inputs_of("Model")
    want = first_output(model, **inputs)
    ids = inputs.pop("input_ids")
    embedded = model.get_input_embeddings()(ids)
    positions = model.embeddings.positions(ids, None)
    assert torch.equal(first_output(model, inputs_embeds=embedded, position_ids=positions, **inputs), want)


def test_what_becomes_of_embeddings_that_are_resized(tmp_path: Path) -> None:
    model, inputs = quantize(make("ForMaskedLM")), inputs_of("ForMaskedLM")
    want, number = first_output(model, **inputs), model.config.vocab_size
    assert model.resize_token_embeddings(number) is model.get_input_embeddings()
    with pytest.raises(ValueError, match=f"new_num_tokens={number + 1} .* in int8, and stay {number}"):
        model.resize_token_embeddings(number + 1)
    positions = model.config.max_position_embeddings
    model.resize_position_embeddings(2 * positions)
    assert model.get_position_embeddings().num_embeddings == 2 * positions
    assert torch.equal(first_output(model, **inputs), want)
    ids = torch.randint(5, 60, (1, positions + 10))
    plain = make("ForMaskedLM")
    plain.resize_position_embeddings(2 * positions)
    assert torch.equal(first_output(model, input_ids=ids), first_output(quantize(plain), input_ids=ids))


@pytest.mark.parametrize("num_global", [1, 30])
def test_global_rows_are_close_however_they_are_computed(num_global: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    ids = torch.randint(5, 60, (1, 50), generator=torch.Generator().manual_seed(0))
    is_global = (torch.arange(50) < num_global).long()[None]
    inputs = {"input_ids": ids, "global_attention_mask": is_global}
    want = first_output(model, **inputs)
    have = first_output(quantize(model), **inputs)
    assert 0 < float((have - want)[is_global > 0].norm() / want[is_global > 0].norm()) < 0.05
    packed = first_output(model, **inputs, document_ids=torch.zeros_like(ids))
    torch.testing.assert_close(packed, have, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(global_rows, "folding_pays", lambda *_: False)
    torch.testing.assert_close(first_output(model, **inputs), have, rtol=1e-4, atol=1e-4)


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
    scales, given = (
        [module.weight_scale for module in each.modules() if isinstance(module, Int8Linear)] for each in (loaded, model)
    )
    assert all(
        scale.dtype == torch.float32 and torch.equal(scale, wanted) for scale, wanted in zip(scales, given, strict=True)
    )
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
    assert not quantize(make().train()).training
    with pytest.raises(ValueError, match="in int8 already"):
        quantize(quantize(make()))


def test_a_saved_model_is_neither_converted_nor_exported(tmp_path: Path) -> None:
    quantize(make("ForMaskedLM")).save_pretrained(tmp_path)
    for refused in (convert_to_longformer, onnx_export.load):
        with pytest.raises(CheckpointError, match=rf"quantised \({METHOD}\).* checkpoint that was quantised instead"):
            refused(tmp_path)


def test_a_trainer_refuses_it(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    model = quantize(make("ForSequenceClassification"))
    with pytest.raises(ValueError, match="fine-tuning on purely quantized models"):
        Trainer(model, TrainingArguments(str(tmp_path), report_to="none"))


def test_adapters_are_refused_until_they_are_merged() -> None:
    peft = pytest.importorskip("peft")
    from longformer_plus.integrations.adapters import lora_config

    model = make("ForTokenClassification")
    adapted = peft.get_peft_model(model, lora_config("token-classification"))
    with pytest.raises(TypeError, match="Merge adapters first"):
        quantize(adapted)
    with pytest.raises(ValueError, match=r"layer\.0\.attention\.self\.query is a peft\..*Merge adapters"):
        quantize(model)
    of_global = make()
    peft.get_peft_model(of_global, peft.LoraConfig(target_modules=["key_global"]))
    with pytest.raises(ValueError, match=r"layer\.0\.attention\.self\.key_global is a peft\..*Merge adapters"):
        quantize(of_global)
    merged = adapted.merge_and_unload()
    assert is_quantized(quantize(merged))
    with pytest.raises(ValueError, match="Int8Linear"):
        peft.get_peft_model(merged, lora_config("token-classification"))
