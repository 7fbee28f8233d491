"""The Auto classes and the pipelines, on checkpoints written by transformers and by this package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, pipeline

import longformer_plus
from longformer_plus import LongformerPlusConfig, LongformerPlusTokenizer

from .cases import BACKENDS, small_config, spread

HEADS = {
    "Model": "AutoModel",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForMultipleChoice": "AutoModelForMultipleChoice",
}
IDS = torch.tensor([[0, 5, 6, 2, 2, 7, 8, 9, 2]])


def ids_for(head: str) -> torch.Tensor:
    return IDS[:, None].repeat(1, 2, 1) if head == "ForMultipleChoice" else IDS


@pytest.fixture(params=HEADS)
def head(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def checkpoint(head: str, tmp_path: Path) -> tuple[torch.nn.Module, Path]:
    """A Longformer of transformers, and the folder that it wrote."""
    model = spread(getattr(transformers, f"Longformer{head}")(small_config(attention_window=8))).eval()
    model.save_pretrained(tmp_path / "longformer")
    return model, tmp_path / "longformer"


def test_a_longformer_checkpoint_loads_whole_and_in_silence(
    head: str, checkpoint: tuple, warnings_of_transformers: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    theirs, folder = checkpoint
    ours, report = getattr(longformer_plus, f"LongformerPlus{head}").from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert not warnings_of_transformers.text
    assert type(ours.config) is longformer_plus.LongformerPlusConfig
    assert ours.config.model_type == "longformer_plus"
    torch.testing.assert_close(ours(ids_for(head))[0], theirs(ids_for(head))[0], atol=1e-5, rtol=0)

    ours.save_pretrained(tmp_path / "plus")
    again, report = getattr(transformers, HEADS[head]).from_pretrained(tmp_path / "plus", output_loading_info=True)
    assert not any(report.values()), report
    assert type(again) is type(ours)
    torch.testing.assert_close(again(ids_for(head))[0], ours(ids_for(head))[0])


def test_weights_of_old_checkpoints_with_position_ids(checkpoint: tuple, head: str) -> None:
    """Checkpoints from before transformers 4.31 hold a buffer that is no weight."""
    _, folder = checkpoint
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("position_embeddings.weight"))
    weights[name.replace("position_embeddings.weight", "position_ids")] = torch.arange(600)[None]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _, report = getattr(longformer_plus, f"LongformerPlus{head}").from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report


def test_auto_classes_follow_registration(head: str, checkpoint: tuple) -> None:
    theirs, folder = checkpoint
    auto, ours = getattr(transformers, HEADS[head]), getattr(longformer_plus, f"LongformerPlus{head}")
    assert type(auto.from_pretrained(folder)) is type(theirs)
    try:
        longformer_plus.register_for_longformer()
        longformer_plus.register_for_longformer()
        model = auto.from_pretrained(folder)
        assert type(model) is ours
        assert model.config.model_type == "longformer_plus"
        torch.testing.assert_close(model(ids_for(head))[0], theirs(ids_for(head))[0], atol=1e-5, rtol=0)
        assert type(auto.from_config(AutoConfig.from_pretrained(folder))) is ours
    finally:
        longformer_plus.unregister_for_longformer()
    longformer_plus.unregister_for_longformer()
    assert type(auto.from_pretrained(folder)) is type(theirs)
    assert type(auto.from_config(longformer_plus.LongformerPlusConfig.from_longformer(theirs.config))) is ours


@pytest.mark.parametrize("backend", BACKENDS)
def test_attention_implementation_is_honoured(checkpoint: tuple, head: str, backend: str) -> None:
    folder = checkpoint[1]
    cls = getattr(longformer_plus, f"LongformerPlus{head}")
    loaded = cls.from_pretrained(folder, attn_implementation=backend)
    assert loaded.config._attn_implementation == backend
    made = getattr(transformers, HEADS[head]).from_config(loaded.config, attn_implementation=backend)
    assert made.config._attn_implementation == backend
    other = next(name for name in BACKENDS if name != backend)
    loaded.set_attn_implementation(other)
    used = []
    for name in BACKENDS:
        function = longformer_plus.attention.ALL_ATTENTION_FUNCTIONS[name]

        def spy(*args, name=name, function=function, **kwargs):
            used.append(name)
            return function(*args, **kwargs)

        longformer_plus.attention.ALL_ATTENTION_FUNCTIONS[name] = spy
    try:
        loaded(ids_for(head))
    finally:
        for name in BACKENDS:
            del longformer_plus.attention.ALL_ATTENTION_FUNCTIONS[name]
    assert set(used) == {other}


def test_unknown_backends_are_refused(checkpoint: tuple, head: str) -> None:
    cls = getattr(longformer_plus, f"LongformerPlus{head}")
    for name in ("flash_attention_2", "quick"):
        with pytest.raises((ValueError, ImportError)):
            cls.from_pretrained(checkpoint[1], attn_implementation=name)


def test_output_attentions_at_loading_runs_eager(checkpoint: tuple, head: str) -> None:
    model = getattr(longformer_plus, f"LongformerPlus{head}").from_pretrained(checkpoint[1], output_attentions=True)
    assert model.config._attn_implementation == "eager"
    assert len(model(ids_for(head)).attentions) == 2


def test_half_precision_is_kept(checkpoint: tuple, head: str, tmp_path: Path) -> None:
    theirs, _ = checkpoint
    theirs.half().save_pretrained(tmp_path / "half")
    ours = getattr(longformer_plus, f"LongformerPlus{head}").from_pretrained(tmp_path / "half")
    assert {p.dtype for p in ours.parameters()} == {torch.float16}


def test_import_alone_changes_nothing_for_longformer_and_leaves_out_conversion() -> None:
    code = (
        "import sys, transformers, longformer_plus;"
        "assert transformers.AutoModel._model_mapping[transformers.LongformerConfig] is transformers.LongformerModel;"
        "assert type(transformers.AutoConfig.for_model('longformer')) is transformers.LongformerConfig;"
        "assert 'longformer_plus.conversion' not in sys.modules;"
        "assert callable(longformer_plus.conversion.convert_to_long);"
        "assert not hasattr(longformer_plus, 'other')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class PublicTable(dict):
    """A table of an Auto class, as far as its methods are public."""

    def register(self, key: type, value: type, exist_ok: bool = False) -> None:
        self[key] = value


def test_longformer_is_given_back_without_private_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    config, own = small_config(), transformers.LongformerForMaskedLM
    table = PublicTable({type(config): own})
    monkeypatch.setattr(transformers, "MODEL_FOR_MASKED_LM_MAPPING", table)
    monkeypatch.setattr(transformers.AutoModelForMaskedLM, "_model_mapping", table)
    longformer_plus.register_for_longformer()
    model = transformers.AutoModelForMaskedLM.from_config(config)
    assert type(model) is longformer_plus.LongformerPlusForMaskedLM
    longformer_plus.unregister_for_longformer()
    assert type(transformers.AutoModelForMaskedLM.from_config(config)) is own


def test_models_are_registered_without_tables_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = transformers.models.auto.modeling_auto
    tables = [name for name in vars(auto) if name.endswith("_MAPPING_NAMES")]
    assert len(tables) > 10
    for name in tables:
        monkeypatch.delattr(auto, name)
    longformer_plus.registration.register()
    model = transformers.AutoModelForMaskedLM.from_config(LongformerPlusConfig.from_longformer(small_config()))
    assert type(model) is longformer_plus.LongformerPlusForMaskedLM


@pytest.fixture
def tokenizer(vocabulary_folder: Path) -> LongformerPlusTokenizer:
    return LongformerPlusTokenizer.from_pretrained(vocabulary_folder, model_max_length=100)


@pytest.mark.parametrize(
    ("task", "head_name"),
    [
        ("fill-mask", "ForMaskedLM"),
        ("text-classification", "ForSequenceClassification"),
        ("token-classification", "ForTokenClassification"),
        ("feature-extraction", "Model"),
    ],
)
def test_pipelines(
    task: str,
    head_name: str,
    tokenizer: LongformerPlusTokenizer,
    tmp_path: Path,
    warnings_of_transformers: pytest.LogCaptureFixture,
) -> None:
    config = small_config(vocab_size=len(tokenizer))
    getattr(longformer_plus, f"LongformerPlus{head_name}")(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is LongformerPlusTokenizer
    run = pipeline(task, model=str(tmp_path))
    text = f"Paris is the {tokenizer.mask_token} of France." if task == "fill-mask" else "Paris is the capital."
    result = run(text)
    assert len(result) == {"fill-mask": 5, "text-classification": 1}.get(task, len(result)) > 0
    if task == "token-classification":
        assert "".join(text[part["start"] : part["end"]] for part in result).replace(" ", "") == text.replace(" ", "")
    assert "not supported" not in warnings_of_transformers.text


def test_tied_embeddings_and_resizing(tmp_path: Path) -> None:
    model = longformer_plus.LongformerPlusForMaskedLM(small_config())
    model.resize_token_embeddings(70)
    assert model.config.vocab_size == 70
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.lm_head.bias is model.lm_head.decoder.bias
    assert model(torch.tensor([[69]])).logits.shape == (1, 1, 70)
    model.save_pretrained(tmp_path)
    again = longformer_plus.LongformerPlusForMaskedLM.from_pretrained(tmp_path)
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits)
    untied = longformer_plus.LongformerPlusForMaskedLM(small_config(tie_word_embeddings=False))
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight


def test_every_parameter_is_initialised(head: str) -> None:
    cls = getattr(longformer_plus, f"LongformerPlus{head}")
    with torch.device("meta"):
        model = cls(small_config())
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 7.0)
    model.init_weights()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            assert not (parameter == 7.0).any(), name
