"""The checkpoint that comes with the package: what loads it, what it can do, and that it is what its card says."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

import longformer_plus
from longformer_plus import shipped, shipped_adapter, shipped_checkpoint, shipped_models

AUTO = {
    "question-answering": AutoModelForQuestionAnswering,
    "text-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
}
TASKS = [task for task in AUTO if (Path(shipped.__file__).parent / task.replace("-", "_")).is_dir()]
LIMIT = 24_000_000
LIMIT_OF_ADAPTER = 1_500_000


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of these tests' own."""
    folder = tmp_path_factory.mktemp("home")
    patch = pytest.MonkeyPatch()
    patch.setattr(shipped, "HF_HOME", str(folder))
    shipped._cache_folder.cache_clear()
    yield folder
    patch.undo()
    shipped._cache_folder.cache_clear()


def test_a_mask_is_filled_with_sense() -> None:
    fill = pipeline("fill-mask", model=str(shipped_checkpoint()))
    for sentence, word in {
        "Thank you very <mask> for your letter.": "much",
        "The President of the United <mask> spoke to Congress.": "States",
        "She was so tired that she fell <mask>.": "asleep",
        "They had been married for twenty <mask>.": "years",
    }.items():
        assert word in [guess["token_str"].strip() for guess in fill(sentence, top_k=3)]


def test_it_reads_4096_tokens_in_single_precision() -> None:
    model = AutoModel.from_pretrained(shipped_checkpoint())
    tokenizer = AutoTokenizer.from_pretrained(shipped_checkpoint())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.max_tokens == tokenizer.model_max_length == 4096
    assert set(model.config.windows) == {512}
    ids = tokenizer("a word " * 5000, truncation=True, return_tensors="pt")["input_ids"]
    assert ids.shape == (1, 4096)
    assert model(ids).last_hidden_state.isfinite().all()


def test_weights_are_stored_in_half_precision() -> None:
    with safetensors.safe_open(shipped_checkpoint() / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}  # noqa: SIM118


def test_all_of_it_is_small() -> None:
    folder = Path(shipped.__file__).parent
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert sum(sizes.values()) <= LIMIT
    for task in TASKS:
        assert sum(size for path, size in sizes.items() if task.replace("-", "_") in path.parts) <= LIMIT_OF_ADAPTER


def test_configurations_name_the_remote_code_and_no_path_of_a_machine() -> None:
    for path in Path(shipped.__file__).parent.rglob("*.json"):
        fields = json.loads(path.read_text(encoding="utf-8"))
        assert path.name != "config.json" or "AutoModelForMaskedLM" in fields["auto_map"], "no remote code"
        assert not [value for value in fields.values() if isinstance(value, str) and value.startswith("/")]


@pytest.mark.parametrize("task", TASKS)
def test_checkpoints_of_tasks_load_by_auto_classes_and_pipelines(task: str) -> None:
    peft = pytest.importorskip("peft")
    folder = shipped_checkpoint(task)
    model = AUTO[task].from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # It is what PEFT computes with the adapter.
    base = AUTO[task].from_pretrained(shipped_checkpoint(), config=model.config)
    adapted = peft.PeftModel.from_pretrained(base, shipped_adapter(task)).eval()
    inputs = tokenizer("Who came home? Anna came home to Paris.", return_tensors="pt")
    with torch.no_grad():
        for have, want in zip(model(**inputs).to_tuple(), adapted(**inputs).to_tuple(), strict=True):
            torch.testing.assert_close(have, want, atol=1e-4, rtol=1e-4)
    if task != "question-answering":
        assert not any(name.startswith("LABEL_") for name in model.config.id2label.values())
        assert pipeline(task, model=str(folder))("Anna came home to Paris.") is not None


@pytest.mark.parametrize("task", TASKS)
def test_adapters_load_by_peft_alone(task: str) -> None:
    peft = pytest.importorskip("peft")
    auto = getattr(peft, AUTO[task].__name__.replace("AutoModel", "AutoPeftModel"))
    num_labels = longformer_plus.LongformerPlusConfig.from_pretrained(shipped_checkpoint(task)).num_labels
    model = auto.from_pretrained(shipped_adapter(task), num_labels=num_labels)
    assert model.get_base_model().config.num_labels == num_labels


def test_adapters_are_switched_on_one_encoder() -> None:
    pytest.importorskip("peft")
    models = shipped_models()
    assert list(models) == TASKS
    assert len({id(model.get_base_model().base_model) for model in models.values()}) == 1
    tokenizer = AutoTokenizer.from_pretrained(shipped_checkpoint())
    inputs = tokenizer("Who came home? Anna came home to Paris.", return_tensors="pt")
    # Twice each: what one of them does must not stay when another has had its turn.
    for task in [*TASKS, *TASKS]:
        alone = AUTO[task].from_pretrained(shipped_checkpoint(task)).eval()
        models[task].set_adapter(task)
        with torch.no_grad():
            torch.testing.assert_close(models[task](**inputs)[0], alone(**inputs)[0], atol=1e-4, rtol=1e-4)


def test_tasks_without_a_checkpoint_are_refused() -> None:
    with pytest.raises(ValueError, match="task='translation' is not allowed: the package ships 'fill-mask'"):
        shipped_checkpoint("translation")
    with pytest.raises(ValueError, match="task='fill-mask' is not allowed"):
        shipped_adapter("fill-mask")


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shipped, "HF_HOME", str(tmp_path))
    shipped._cache_folder.cache_clear()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'longformer-plus\[peft\]'"):
        shipped_checkpoint(TASKS[0])
    shipped._cache_folder.cache_clear()


def test_where_the_cache_cannot_be_written_a_temporary_folder_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(shipped, "HF_HOME", str(tmp_path / "file"))
    shipped._cache_folder.cache_clear()
    folder = shipped_checkpoint(TASKS[0])
    assert (folder / "model.safetensors").is_file()
    assert tmp_path not in folder.parents
    shipped._cache_folder.cache_clear()


def test_compiled_code_of_installers_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base = shutil.copytree(shipped_checkpoint(), tmp_path / "masked_lm", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(shipped, "_BASE", base)
    shipped._cache_folder.cache_clear()
    before = shipped._cache_folder(TASKS[0])
    (base / "__pycache__").mkdir()
    shipped._cache_folder.cache_clear()
    assert shipped._cache_folder(TASKS[0]) == before
    shipped._cache_folder.cache_clear()


@pytest.mark.slow
def test_processes_that_ask_at_the_same_time_get_the_same(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    code = f"import longformer_plus; print(longformer_plus.shipped_checkpoint({TASKS[0]!r}))"
    environment = {**os.environ, "HF_HOME": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    printed = {process.communicate()[0].strip().splitlines()[-1] for process in started}
    assert len(printed) == 1
    assert (Path(printed.pop()) / "model.safetensors").is_file()


def test_questions_are_made_of_text() -> None:
    pytest.importorskip("datasets")
    recipe = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "examples" / "research" / "cloze_questions.py"))
    text = (Path(shipped.__file__).parent / "samples" / "lighthouses.txt").read_text()
    random = np.random.default_rng(0)
    answers = set()
    for question, start, answer in filter(None, (recipe["ask"](text, random) for _ in range(60))):
        assert text[start : start + len(answer)] == answer
        assert question.endswith("?")
        assert question.split()[0] in ("Who", "What", "Which", "Where", "When", "How")
        # It asks with words of the sentence that the answer was taken from.
        around = text[max(start - 300, 0) : start + 300]
        assert all(word in around for word in question.rstrip("?").replace("How many", "How").split()[1:])
        answers.add(answer)
    assert len(answers) > 25
    assert recipe["ask"]("Nothing here.", random) is None


def test_pairs_are_a_sentence_and_the_text_that_it_was_taken_from() -> None:
    pytest.importorskip("datasets")
    pytest.importorskip("sentence_transformers")
    recipe = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "examples" / "research" / "inverse_cloze.py"))
    path = Path(shipped.__file__).parent / "samples" / "lighthouses.txt"
    text = path.read_text()
    pairs = recipe["pairs"]([str(path)], 60, 700, 0)
    kept = 0
    for sentence, rest in zip(pairs["anchor"], pairs["positive"], strict=True):
        kept += sentence in rest
        whole = [rest] if sentence in rest else [rest[:place] + sentence + rest[place:] for place in range(len(rest))]
        assert any(each in text for each in whole)
    assert 0 < kept < 20
    assert pairs["anchor"] == recipe["pairs"]([str(path)], 60, 700, 0)["anchor"]
