"""PEFT's adapters: on the global projections too, never left out, saved and loaded with the heads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import longformer_plus
from longformer_plus.attention import global_rows
from longformer_plus.attention.global_rows import is_plain_linear

from .cases import BACKENDS, small_config, spread

peft = pytest.importorskip("peft")

from peft import LoraConfig, get_peft_model  # noqa: E402

from longformer_plus.integrations import adapters  # noqa: E402

# By the name of the configuration's class, with options that fit small layers.
METHODS: dict[str, dict[str, Any]] = {
    "AdaLoraConfig": {"total_step": 10},
    "AdamssConfig": {"r": 4, "num_subspaces": 2},
    "BOFTConfig": {"boft_block_size": 4},
    "BeftConfig": {},
    "C3AConfig": {"block_size": 4},
    "DeftConfig": {},
    "DeloraConfig": {"r": 2},
    "FourierFTConfig": {"n_frequency": 10},
    "FrodConfig": {"progressbar": False},
    "GloraConfig": {},
    "GraloraConfig": {"r": 2, "gralora_k": 2},
    "HRAConfig": {"r": 2},
    "HiraConfig": {"r": 2},
    "IA3Config": {},
    "LNTuningConfig": {},
    "LilyConfig": {"r": 2},
    "LoHaConfig": {"r": 2},
    "LoKrConfig": {"r": 2},
    "LoraConfig": {"r": 2},
    "LoraConfig, DoRA": {"r": 2, "use_dora": True},
    "LoraConfig, rsLoRA": {"r": 2, "use_rslora": True},
    "MissConfig": {"r": 2},
    "OFTConfig": {"oft_block_size": 4},
    "OSFConfig": {},
    "PeanutConfig": {"r": 2},
    "PolyConfig": {"r": 2},
    "PsoftConfig": {"r": 4},
    "PveraConfig": {"r": 4},
    "RandLoraConfig": {"r": 2},
    "RoadConfig": {"group_size": 4},
    "ShiraConfig": {"r": 2},
    "SupertuningConfig": {},
    "TinyLoraConfig": {},
    "UniLoraConfig": {},
    "VBLoRAConfig": {"r": 2, "vector_length": 4, "num_vectors": 16},
    "VeraConfig": {"r": 4},
    "WaveFTConfig": {"n_frequency": 10},
}
# What PEFT says it cannot do with some of them.
NOT_MERGED = {"LilyConfig", "OSFConfig", "PolyConfig"}
NOT_SEVERAL = {"AdaLoraConfig", "OSFConfig"}

IDS = torch.arange(3, 53).repeat(2, 1)
BATCH = {
    "input_ids": IDS,
    "attention_mask": (torch.arange(50) < torch.tensor([[50], [43]])).long(),
    "global_attention_mask": torch.isin(torch.arange(50), torch.tensor([0, 7])).long().repeat(2, 1),
}


def config_for(method: str, **options: Any) -> Any:
    name = method.partition(",")[0]
    if not hasattr(peft, name):
        pytest.skip(f"this version of PEFT has no {name}")
    return getattr(peft, name)(**{**METHODS[method], **options})


def make(head: str = "ForTokenClassification", **changes: Any) -> Any:
    torch.manual_seed(0)
    return spread(getattr(longformer_plus, f"LongformerPlus{head}")(small_config(**changes))).eval()


def perturb(model: nn.Module, seed: int = 0) -> None:
    """Move an adapter away from its initialisation, which most often does nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "modules_to_save" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def logits_of(model: Any) -> torch.Tensor:
    tasks = {"task_ids": torch.zeros(2, dtype=torch.long)} if model.active_peft_config.peft_type == "POLY" else {}
    return model(**BATCH, **tasks).logits


def assert_close(have: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(have, want, atol=3e-5, rtol=0)


def moved(have: torch.Tensor, want: torch.Tensor) -> bool:
    return float((have - want).detach().abs().max()) > 1e-3


def test_each_of_pefts_tables_knows_the_model() -> None:
    tables = {
        name: table
        for name, table in vars(peft.utils.constants).items()
        if name.startswith("TRANSFORMERS_MODELS_TO") and name.endswith("_MODULES_MAPPING")
    }
    assert len(tables) > 15
    for name, table in tables.items():
        assert table["longformer_plus"], name
        assert "longformer" not in table, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore")
def test_default_targets(method: str, backend: str) -> None:
    """They are found, trained, merged and switched, those of the global tokens among them."""
    model = make()
    model.set_attn_implementation(backend)
    plain_layers = {name: layer for name, layer in model.named_modules() if is_plain_linear(layer)}
    model = get_peft_model(model, config_for(method, task_type="TOKEN_CLS")).eval()
    if method != "LNTuningConfig":
        adapted = {name.rpartition(".")[2] for name, layer in plain_layers.items() if layer_of(model, name) is not layer}
        assert "value_global" in adapted
        assert {name for name in adapted if name.endswith("_global")} == {
            f"{name}_global" for name in ("query", "key", "value") if name in adapted
        }

    before = logits_of(model)
    perturb(model)
    adapted_logits = logits_of(model)
    assert moved(adapted_logits, before)

    adapted_logits.square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # TinyLoRA's default has groups of projections that no layer of so small a model is in.
    assert not without or method == "TinyLoraConfig"

    if method not in NOT_MERGED:
        model.merge_adapter()
        assert_close(logits_of(model), adapted_logits)
        model.unmerge_adapter()
        assert_close(logits_of(model), adapted_logits)
    if method not in NOT_SEVERAL:
        model.add_adapter("other", config_for(method, task_type="TOKEN_CLS"))
        model.set_adapter("other")
        assert moved(logits_of(model), adapted_logits)
        model.set_adapter("default")
        assert_close(logits_of(model), adapted_logits)


def layer_of(model: Any, name: str) -> nn.Module:
    return model.base_model.model.get_submodule(name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["query_global", "key_global", "value_global"])
@pytest.mark.parametrize("method", [method for method in METHODS if method != "LNTuningConfig"])
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_on_one_global_projection_is_never_left_out(
    method: str, name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "BeftConfig" and name == "key_global":
        pytest.skip("a bias of keys changes no attention weight")
    model = make()
    model.set_attn_implementation(backend)
    options = {"feedforward_modules": []} if method == "IA3Config" else {}
    model = get_peft_model(model, config_for(method, task_type="TOKEN_CLS", target_modules=[name], **options)).eval()
    with torch.no_grad():
        before = logits_of(model)
        perturb(model)
        after = logits_of(model)
        assert moved(after, before)
        monkeypatch.setattr(global_rows, "_folding_pays", lambda *_: False)
        assert_close(logits_of(model), after)
