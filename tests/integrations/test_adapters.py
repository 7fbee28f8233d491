"""PEFT's adapters: on the global projections too, never left out, saved and loaded with the heads."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging import version
from torch import nn

import longformer_plus
from longformer_plus import shipped_checkpoint
from longformer_plus.adapter_targets import add_adapter_targets
from longformer_plus.attention import global_rows
from longformer_plus.ops import is_plain_linear
from longformer_plus.shipped import shipped_adapter

from ..cases import BACKENDS, small_config, spread

peft = pytest.importorskip("peft")

from peft import LoraConfig, get_peft_model  # noqa: E402

from longformer_plus.integrations import adapters  # noqa: E402
from longformer_plus.integrations.tasks import TASKS  # noqa: E402

# By the name of the configuration's class, with options that fit small layers.
# An adapter changes what a backend is given, and not how it attends: one backend is enough for the default run.
SDPA_FIRST = ["sdpa", *(pytest.param(other, marks=pytest.mark.slow) for other in BACKENDS if other != "sdpa")]
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
    if name == "AdamssConfig":
        pytest.importorskip("sklearn")
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


@pytest.mark.parametrize("backend", SDPA_FIRST)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore")
def test_default_targets(method: str, backend: str) -> None:
    """They are found, trained, merged and switched, those of the global tokens among them."""
    model = make()
    model.set_attn_implementation(backend)
    plain_layers = {name: layer for name, layer in model.named_modules() if is_plain_linear(layer)}
    model = get_peft_model(model, config_for(method, task_type="TOKEN_CLS")).eval()
    if method != "LNTuningConfig":
        adapted = {
            name.rpartition(".")[2] for name, layer in plain_layers.items() if layer_of(model, name) is not layer
        }
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


@pytest.mark.parametrize("backend", SDPA_FIRST)
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
        monkeypatch.setattr(global_rows, "folding_pays", lambda *_: False)
        assert_close(logits_of(model), after)


@pytest.mark.parametrize("method", ["LoraConfig", "IA3Config", "VeraConfig", "AdaLoraConfig"])
def test_adapters_get_a_gradient_where_no_token_is_global(method: str) -> None:
    """As data-parallel training needs it."""
    model = get_peft_model(make(), config_for(method, task_type="TOKEN_CLS")).train()
    batch = {**BATCH, "global_attention_mask": torch.zeros_like(IDS)}
    model(**batch, labels=IDS % 2).loss.backward()
    assert not [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]


@pytest.mark.parametrize("method", ["LoraConfig", "IA3Config"])
def test_adapters_get_a_gradient_in_evaluation_mode(method: str) -> None:
    model = get_peft_model(make(), config_for(method, task_type="TOKEN_CLS")).eval()
    model(input_ids=IDS, labels=IDS % 2).loss.backward()
    assert not [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]


EMBEDDINGS: dict[str, dict[str, Any]] = {
    "LoraConfig, on embeddings": {"target_modules": ["query", "word_embeddings"], "init_lora_weights": False},
    "LoraConfig, on tokens": {"target_modules": ["query"], "trainable_token_indices": [5, 9]},
    "TrainableTokensConfig": {"target_modules": ["word_embeddings"], "token_indices": [5, 9]},
}


@pytest.mark.parametrize("head", ["ForTokenClassification", "ForMaskedLM"])
@pytest.mark.parametrize("method", EMBEDDINGS)
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*:UserWarning")
def test_adapters_on_word_embeddings(method: str, head: str) -> None:
    """Trained, merged, and the ids that they are given checked, as those of plain ones are."""
    model = make(head)
    with torch.no_grad():
        before = model(**BATCH).logits
    model = get_peft_model(model, getattr(peft, method.partition(",")[0])(**EMBEDDINGS[method])).eval()
    perturb(model)
    adapted = model(**BATCH)
    assert moved(adapted.logits, before)
    adapted.logits.square().sum().backward()
    trained = {name: each.grad for name, each in model.named_parameters() if each.requires_grad}
    of_embeddings = [gradient for name, gradient in trained.items() if "word_embeddings" in name]
    assert of_embeddings
    assert all(gradient is not None and gradient.any() for gradient in of_embeddings)
    with pytest.raises(ValueError, match="60 rows"):
        model(input_ids=IDS + 40)
    if head != "ForMaskedLM":  # PEFT adapts one of two tied matrices and merges into both
        with torch.no_grad():
            assert_close(model.merge_and_unload()(**BATCH).logits, adapted.logits)


class ScaledLinear(nn.Linear):
    """An adapter that gives float32 under autocast: its scale is no half precision."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return super().forward(rows) * torch.full((self.out_features,), 0.5)


@pytest.mark.parametrize("backend", [*BACKENDS, "sdpa windows", "sdpa dense"])
def test_keys_and_values_in_another_dtype_than_that_of_autocast(backend: str) -> None:
    model = make(attention_window=8)
    model.config._attn_implementation = backend
    attention = model.longformer.encoder.layer[0].attention.self
    attention.key, attention.value = (ScaledLinear(24, 24) for _ in range(2))
    ids = torch.randint(3, 60, (1, 40))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids, labels=ids % 2).loss
    loss.backward()
    for projection in (attention.query, attention.key, attention.value):
        assert projection.weight.grad.isfinite().all()
        assert projection.weight.grad.abs().sum() > 0


def test_an_adapter_for_each_row() -> None:
    """Rows are not put into one, which would give all of them the first one's adapter."""
    model = get_peft_model(make(unpad_inputs=True), LoraConfig(task_type="TOKEN_CLS", r=2)).eval()
    perturb(model)
    with torch.no_grad():
        adapted = logits_of(model)
        with model.disable_adapter():
            plain = logits_of(model)
        mixed = model(**BATCH, adapter_names=["default", "__base__"]).logits
    valid = BATCH["attention_mask"].bool()
    assert_close(mixed[0], adapted[0])
    assert_close(mixed[1][valid[1]], plain[1][valid[1]])
    assert moved(adapted[1][valid[1]], plain[1][valid[1]])


# PEFT's class that loads an adapter, by the head that it adapts.
AUTO = {
    "Model": "AutoPeftModelForFeatureExtraction",
    "ForMaskedLM": "AutoPeftModel",
    "ForMultipleChoice": "AutoPeftModel",
    "ForQuestionAnswering": "AutoPeftModelForQuestionAnswering",
    "ForCausalLM": "AutoPeftModelForCausalLM",
    "ForSequenceClassification": "AutoPeftModelForSequenceClassification",
    "ForTokenClassification": "AutoPeftModelForTokenClassification",
}


def head_of(task: str) -> str:
    return TASKS[task].model.__name__.removeprefix("LongformerPlus") if task in TASKS else "Model"


def outputs_of(model: Any, head: str) -> torch.Tensor:
    batch = {name: rows[:, None] for name, rows in BATCH.items()} if head == "ForMultipleChoice" else BATCH
    with torch.no_grad():
        outputs = model(**batch)
    return outputs[0]


@pytest.mark.parametrize("method", ["LoraConfig", "IA3Config", "VeraConfig"])
@pytest.mark.parametrize("task", adapters.TASKS)
def test_what_is_saved_is_loaded(task: str, method: str, tmp_path: Path) -> None:
    """The adapter and what is trained of the head, on the base that a folder holds."""
    head = head_of(task)
    auto = AUTO[head]
    make(head).save_pretrained(tmp_path / "base")
    model = getattr(longformer_plus, f"LongformerPlus{head}").from_pretrained(tmp_path / "base")
    config = adapters.adapter_config(task, getattr(peft, method), **METHODS[method])
    model = get_peft_model(model, config).eval()
    before = outputs_of(model, head)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any("modules_to_save" in name for name in trained) == (task not in ("feature-extraction", "text-generation"))
    perturb(model)
    spread(nn.ModuleList(module for name, module in model.named_modules() if name.endswith("modules_to_save.default")))
    after = outputs_of(model, head)
    assert moved(after, before)

    model.save_pretrained(tmp_path / "adapter")
    # PEFT imports a model's class only from packages that it knows or is told.
    allowed = {"import_allowlist": ["longformer_plus"]} if auto == "AutoPeftModel" else {}
    again = getattr(peft, auto).from_pretrained(tmp_path / "adapter", **allowed).eval()
    assert_close(outputs_of(again, head), after)


@pytest.mark.parametrize("task", adapters.TASKS)
def test_all_linear_layers_but_the_head(task: str) -> None:
    """What of the head is trained as it is cannot be adapted as well."""
    head = head_of(task)
    model = get_peft_model(make(head), adapters.lora_config(task, r=2, target_modules="all-linear"))
    adapted = {name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    in_layers = {
        name for name, module in make(head).named_modules() if isinstance(module, nn.Linear) and ".layer." in name
    }
    assert {f"base_model.model.{name}" for name in in_layers} <= adapted
    assert not any("modules_to_save" in name or "classifier" in name or "qa_outputs" in name for name in adapted)


def test_the_head_of_masked_language_models_stays_tied(tmp_path: Path) -> None:
    """Its decoder is the word embeddings' matrix: an adapter is saved without it."""
    model = get_peft_model(make("ForMaskedLM"), adapters.lora_config("fill-mask", r=2))
    model.save_pretrained(tmp_path)
    base = model.base_model.model
    assert base.lm_head.decoder.weight is base.longformer.embeddings.word_embeddings.weight
    from safetensors.torch import load_file

    names = load_file(tmp_path / "adapter_model.safetensors")
    assert any("lm_head.dense" in name for name in names)
    assert not any("decoder" in name or "word_embeddings" in name for name in names)


def test_a_pipeline_loads_the_folder_of_adapters() -> None:
    """With its classes, which are others than those of the base."""
    folder, text = shipped_adapter("token-classification"), "Elizabeth Bennet went from London to Paris."
    if version.parse(transformers.__version__) < version.parse("5.18"):
        with pytest.raises(ValueError, match="without their head"):
            transformers.pipeline("token-classification", model=str(folder))
        return
    found = transformers.pipeline("token-classification", model=str(folder))
    expected = transformers.pipeline("token-classification", model=str(shipped_checkpoint("token-classification")))
    assert found.model.config.id2label == expected.model.config.id2label
    tags, wanted = ([(each["entity"], each["start"]) for each in pipe(text)] for pipe in (found, expected))
    assert tags == wanted
    assert "B-GPE" in {tag for tag, _ in tags}


def test_a_merged_model_is_a_plain_one(tmp_path: Path) -> None:
    model = get_peft_model(make(), LoraConfig(task_type="TOKEN_CLS", r=2)).eval()
    perturb(model)
    with torch.no_grad():
        want = logits_of(model)
        merged = model.merge_and_unload()
        assert is_plain_linear(merged.longformer.encoder.layer[0].attention.self.key_global)
        merged.save_pretrained(tmp_path)
        again = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path)
        assert_close(again(**BATCH).logits, want)


@pytest.mark.filterwarnings("ignore:.*deprecated.*:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("method", ["LoraConfig", "IA3Config", "LoHaConfig"])
def test_gradient_checkpointing(method: str, use_reentrant: bool) -> None:
    """The same gradients, also where the base's embeddings want none."""

    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        model = make()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model = get_peft_model(model, config_for(method, task_type="TOKEN_CLS")).train()
        perturb(model)
        model(**BATCH, labels=IDS % 2).loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}

    plain, checkpointed = gradients(False), gradients(True)
    for name, gradient in plain.items():
        assert gradient.any(), name
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_adapters_of_transformers_itself(tmp_path: Path) -> None:
    """`model.add_adapter`, without PEFT's model around it."""
    model = make()
    before = model(**BATCH).logits
    model.add_adapter(LoraConfig(r=2), "first")
    perturb(model)
    after = model(**BATCH).logits
    assert moved(after, before)
    assert hasattr(model.longformer.encoder.layer[0].attention.self.value_global, "lora_A")
    model.save_pretrained(tmp_path)
    again = make()
    again.load_adapter(str(tmp_path))
    assert_close(again.eval()(**BATCH).logits, after)
    model.disable_adapters()
    assert_close(model(**BATCH).logits, before)


@pytest.fixture
def longformer_registered() -> Iterator[None]:
    longformer_plus.register_for_longformer()
    yield
    longformer_plus.unregister_for_longformer()


def test_longformers_of_transformers(longformer_registered: None, tmp_path: Path) -> None:
    """While they are registered PEFT knows them, and an adapter trained on one fits LongformerPlus."""
    torch.manual_seed(0)
    theirs = spread(transformers.LongformerForTokenClassification(small_config(attention_window=8))).eval()
    theirs.save_pretrained(tmp_path / "base")
    theirs = get_peft_model(theirs, LoraConfig(task_type="TOKEN_CLS", r=2)).eval()
    assert "query_global" in theirs.peft_config["default"].target_modules
    perturb(theirs)
    theirs.save_pretrained(tmp_path / "adapter")

    base = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "base")
    assert type(base) is longformer_plus.LongformerPlusForTokenClassification
    ours = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    valid = BATCH["attention_mask"].bool()
    assert_close(logits_of(ours)[valid], logits_of(theirs)[valid])

    longformer_plus.unregister_for_longformer()
    with pytest.raises(ValueError, match="target_modules"):
        get_peft_model(transformers.LongformerModel(small_config(attention_window=8)), LoraConfig())
    assert "longformer_plus" in peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING


def test_an_entry_of_pefts_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    table = peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    monkeypatch.setitem(table, "longformer", ["query"])
    longformer_plus.register_for_longformer()
    assert table["longformer"] == ["query"]
    longformer_plus.unregister_for_longformer()
    assert table["longformer"] == ["query"]


def test_tables_that_are_imported_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are filled on import, once, and by nothing that stays behind."""
    monkeypatch.setattr(peft.utils, "constants", peft.utils.constants)
    monkeypatch.delitem(sys.modules, "peft.utils.constants")
    finders = list(sys.meta_path)
    add_adapter_targets("longformer_plus")
    add_adapter_targets("longformer_plus")
    assert len(sys.meta_path) == len(finders) + 1
    tables = importlib.import_module("peft.utils.constants")
    assert "value_global" in tables.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING["longformer_plus"]
    assert sys.meta_path == finders


@pytest.mark.parametrize("method", ["LoraConfig", "IA3Config", "LNTuningConfig"])
def test_layers_are_named_where_peft_has_no_tables(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def adapted() -> set[str]:
        config = adapters.adapter_config("token-classification", getattr(peft, method))
        model = get_peft_model(make(), config)
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    want = adapted()
    constants = peft.utils.constants
    for name in [name for name in vars(constants) if name.startswith("TRANSFORMERS_MODELS_TO")]:
        monkeypatch.delattr(constants, name)
    # Where PEFT reads them.
    for module in [module for name, module in list(sys.modules.items()) if name.startswith("peft.tuners")]:
        for name in [name for name in vars(module) if name.startswith("TRANSFORMERS_MODELS_TO")]:
            monkeypatch.setattr(module, name, {})
    assert adapted() == want


@pytest.mark.slow
@pytest.mark.parametrize("imports", ["import peft, longformer_plus", "import longformer_plus, peft"])
def test_in_either_order_of_import(imports: str) -> None:
    code = f"""
{imports}
from longformer_plus import LongformerPlusConfig, LongformerPlusForSequenceClassification
config = LongformerPlusConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
model = peft.get_peft_model(LongformerPlusForSequenceClassification(config), peft.LoraConfig(task_type="SEQ_CLS"))
assert any("value_global.lora_A" in name for name, _ in model.named_parameters())
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "method", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig", "MultitaskPromptTuningConfig"]
)
def test_prompts_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match=f"{method} is not allowed"):
        adapters.adapter_config("text-classification", getattr(peft, method), num_virtual_tokens=4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("PromptTuningConfig", "global_attention_mask has shape"),
        ("PromptEncoderConfig", "global_attention_mask has shape"),
        ("PrefixTuningConfig", "past_key_values of type DynamicCache"),
    ],
)
def test_prompts_made_without_our_help_do_not_run(method: str, message: str) -> None:
    model = get_peft_model(make(), getattr(peft, method)(task_type="TOKEN_CLS", num_virtual_tokens=4))
    with pytest.raises((TypeError, ValueError), match=message):
        model(**BATCH)


def test_unknown_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="task='summarization' is not allowed: choose one of"):
        adapters.lora_config("summarization")


@pytest.mark.filterwarnings("ignore")
def test_an_8_bit_base(tmp_path: Path) -> None:
    """Its global projections are called, not read, and what is trained of the head is not quantised."""
    pytest.importorskip("bitsandbytes")
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    plain = spread(longformer_plus.LongformerPlusForTokenClassification(small_config(**sizes)), 0.1).eval()
    plain.save_pretrained(tmp_path)
    quantised = transformers.AutoModelForTokenClassification.from_pretrained(
        tmp_path,
        device_map="cpu",
        quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["classifier"]),
    ).eval()
    assert quantised.longformer.encoder.layer[0].attention.self.key_global.weight.dtype == torch.int8
    with torch.no_grad():
        want = plain(**BATCH).logits
        assert float((quantised(**BATCH).logits - want).abs().mean() / want.abs().mean()) < 0.1

    model = peft.prepare_model_for_kbit_training(quantised)
    model = get_peft_model(model, adapters.lora_config("token-classification", r=2)).eval()
    before = logits_of(model)
    perturb(model)
    assert moved(logits_of(model), before)
    model.train()(**BATCH, labels=IDS % 2).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
