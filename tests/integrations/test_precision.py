"""What "auto" chooses on which processor, and loading in a precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from longformer_plus.cli.precision_option import announced_precision
from longformer_plus.integrations import precision
from longformer_plus.integrations.checkpoints import load_checkpoint, load_encoder
from longformer_plus.integrations.quantization import is_quantized


@pytest.mark.parametrize(
    ("features", "is_exact", "chosen"),
    [
        ({"VNNI"}, True, "int8"),
        ({"VNNI", "AVX512-BF16"}, True, "int8"),
        ({"AMX-INT8", "AMX-BF16", "AVX512-BF16", "VNNI"}, True, "bfloat16"),
        ({"VNNI", "AVX512-BF16"}, False, "bfloat16"),
        ({"AVX512-BF16"}, True, "bfloat16"),
        ({"VNNI"}, False, "float32"),
        (set(), True, "float32"),
    ],
)
def test_auto_is_what_the_processor_multiplies(
    features: set[str],
    is_exact: bool,
    chosen: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    names = ("VNNI", "AVX512-BF16", "AMX-INT8", "AMX-BF16")
    monkeypatch.setattr(precision, "processor_features", lambda: {name: name in features for name in names})
    monkeypatch.setattr(precision, "onednn_is_exact", lambda: is_exact)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert announced_precision("auto") == chosen
    assert f"Precision {chosen}: the processor" in capsys.readouterr().err
    assert announced_precision("bfloat16") == "bfloat16"
    assert not capsys.readouterr().err


def test_what_is_not_allowed() -> None:
    with pytest.raises(ValueError, match=r"precision='int4' is not allowed: .*'int8'"):
        precision.choose_precision("int4")


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_loading_in_float(name: str, dtype: torch.dtype, task_checkpoints: dict[str, Path]) -> None:
    model, _ = load_checkpoint("fill-mask", task_checkpoints["fill-mask"], name)
    assert model.dtype == dtype
    assert not is_quantized(model)


def test_loading_in_int8_and_what_is_saved_in_it(task_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model, tokenizer = load_checkpoint("fill-mask", task_checkpoints["fill-mask"], "int8")
    assert is_quantized(model)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids = torch.tensor([[0, 5, 6, 2]])
    for name in ("float32", "int8"):
        again, _ = load_checkpoint("fill-mask", tmp_path, name)
        assert is_quantized(again)
        with torch.no_grad():
            assert torch.equal(again(ids).logits, model(ids).logits)
    assert is_quantized(load_encoder(tmp_path)[0])


def test_adapters_are_merged_for_int8(task_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from longformer_plus.integrations.adapters import lora_config, save_model_config

    base, tokenizer = load_checkpoint("token-classification", task_checkpoints["token-classification"])
    adapted = peft.get_peft_model(base, lora_config("token-classification", init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    save_model_config(adapted, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids = torch.tensor([[0, 5, 6, 7, 2]])
    want, have = (load_checkpoint("token-classification", tmp_path, name)[0] for name in ("float32", "int8"))
    assert is_quantized(have)
    with torch.no_grad():
        want, have = want(ids).logits, have(ids).logits
    assert float((have - want).norm() / want.norm()) < 0.1
    assert is_quantized(load_encoder(tmp_path, "int8")[0])
