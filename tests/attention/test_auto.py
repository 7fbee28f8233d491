"""The default backend of a model, and the backend that "auto" chooses for a call."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

import longformer_plus
from longformer_plus import LongformerPlusModel
from longformer_plus.attention import ALL_ATTENTION_FUNCTIONS, auto

from ..cases import small_config

IDS = torch.arange(3, 43)[None]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has a GPU, as far as anybody asks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(auto, "_HAS_TRITON", True)


def test_without_a_gpu_the_default_is_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert LongformerPlusModel(small_config()).config._attn_implementation == "sdpa"


@pytest.mark.usefixtures("gpu")
def test_what_was_chosen_is_told_from_what_was_not(tmp_path: Path) -> None:
    model = LongformerPlusModel(small_config())
    assert model.config._attn_implementation == "auto"
    model.save_pretrained(tmp_path)
    assert "attn_implementation" not in (tmp_path / "config.json").read_text()
    assert AutoModel.from_pretrained(tmp_path).config._attn_implementation == "auto"
    # A head and its encoder share one configuration; a second model of that is not taken to have been chosen for.
    head = longformer_plus.LongformerPlusForMaskedLM(model.config)
    assert head.longformer.config._attn_implementation == "auto"
    for backend in ("eager", "sdpa", "flex_attention", "auto"):
        loaded = LongformerPlusModel.from_pretrained(tmp_path, attn_implementation=backend)
        assert loaded.config._attn_implementation == backend
        made = LongformerPlusModel._from_config(small_config(), attn_implementation=backend)
        assert made.config._attn_implementation == backend
        head.set_attn_implementation(backend)
        assert head.longformer.config._attn_implementation == backend


@pytest.mark.usefixtures("gpu")
def test_auto_gives_what_sdpa_gives() -> None:
    model = LongformerPlusModel(small_config()).eval()
    with torch.no_grad():
        states = model(IDS).last_hidden_state
        model.set_attn_implementation("sdpa")
        assert torch.equal(states, model(IDS).last_hidden_state)


@pytest.mark.parametrize(
    ("call", "backend"),
    [
        (("cuda", 513, 64, 512, 0.0), "flex_attention"),
        (("cuda", 512, 64, 512, 0.0), "sdpa"),
        (("cuda", 4096, 64, 512, 0.1), "sdpa"),
        (("cuda", 4096, 8, 512, 0.0), "sdpa"),
        (("cuda", 4096, 16, 512, 0.0), "flex_attention"),
        (("cuda", 4096, 80, 512, 0.0), "sdpa"),
        (("cpu", 4096, 64, 512, 0.0), "sdpa"),
        (("mps", 4096, 64, 512, 0.0), "sdpa"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("gpu")
def test_which_backend_is_the_fastest(call: tuple[str, int, int, int, float], backend: str) -> None:
    assert auto.fastest_backend(*call) == backend


@pytest.mark.usefixtures("gpu")
def test_without_triton_it_is_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_HAS_TRITON", False)
    assert auto.fastest_backend("cuda", 4096, 64, 512, 0.0) == auto.default_backend() == "sdpa"


def test_the_fastest_backend_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def sdpa(*rows: object) -> str:
        called.append("sdpa")
        return "sdpa"

    def flex(*rows: object) -> str:
        called.append("flex_attention")
        return "flex_attention"

    monkeypatch.setattr(auto, "sdpa_local_rows", sdpa)
    monkeypatch.setattr(auto, "flex_local_rows", flex)
    query = torch.zeros(1, 8, 2, 16)
    for backend in ("sdpa", "flex_attention"):
        monkeypatch.setattr(auto, "fastest_backend", lambda *_, backend=backend: backend)
        assert ALL_ATTENTION_FUNCTIONS["auto"](query, query, query, None, 4) == backend
    assert called == ["sdpa", "flex_attention"]
