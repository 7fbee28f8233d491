"""Saved checkpoints load with trust_remote_code=True in a process that has not imported the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, RepoUrl
from transformers import AutoConfig, AutoModel, RobertaConfig, RobertaModel

import longformer_plus
from longformer_plus import LongformerPlusConfig, LongformerPlusTokenizer, remote_code

from .cases import small_config

LOAD = """
import sys
{before}
import transformers
from transformers import AutoModelForMaskedLM, AutoTokenizer
source, target = sys.argv[1:]
assert "longformer_plus" not in sys.modules
tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=True)
model = AutoModelForMaskedLM.from_pretrained(source, trust_remote_code=True)
import longformer_plus
assert type(tokenizer) is longformer_plus.LongformerPlusTokenizer, type(tokenizer)
assert type(model) is longformer_plus.LongformerPlusForMaskedLM, type(model)
assert model(**tokenizer("she", return_tensors="pt", global_attention="cls")).logits.isfinite().all()
model.save_pretrained(target)
tokenizer.save_pretrained(target)
"""
BLOCK = """
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "longformer_plus":
            raise ModuleNotFoundError("No module named 'longformer_plus'", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, vocabulary_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "my model"
    tokenizer = LongformerPlusTokenizer.from_pretrained(vocabulary_folder, model_max_length=100)
    longformer_plus.LongformerPlusForMaskedLM(small_config(vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(source: Path, target: Path, before: str = "") -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_MODULES_CACHE": str(target.parent / "modules")}
    code = LOAD.format(before=before)
    command = [sys.executable, "-c", code, str(source), str(target)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_loaded_and_saved_again(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    done = load(saved, again)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in again.iterdir()) == sorted(path.name for path in saved.iterdir())
    assert (again / "modeling_longformer_plus.py").read_text() == (saved / "modeling_longformer_plus.py").read_text()
    for name in ("config.json", "tokenizer_config.json"):
        assert json.loads((again / name).read_text())["auto_map"] == json.loads((saved / name).read_text())["auto_map"]


def test_without_the_package_it_says_what_to_install(saved: Path, tmp_path: Path) -> None:
    done = load(saved, tmp_path / "again", before=BLOCK)
    assert done.returncode != 0
    assert "pip install longformer-plus" in done.stderr


def test_the_file_names_every_class(saved: Path) -> None:
    code = (saved / "modeling_longformer_plus.py").read_text()
    others = ("LongformerPlusCache", "LongformerPlusPreTrainedModel")
    names = [name for name in longformer_plus.__all__ if name.startswith("LongformerPlus") and name not in others]
    assert names
    for name in names:
        assert name in code


def test_a_tokenizer_leaves_the_configuration_of_another_model_alone(saved: Path, tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    RobertaModel(RobertaConfig(vocab_size=10, **sizes)).save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    LongformerPlusTokenizer.from_pretrained(saved).save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
    assert "AutoTokenizer" in json.loads((tmp_path / "tokenizer_config.json").read_text())["auto_map"]
    assert type(AutoModel.from_pretrained(tmp_path, trust_remote_code=True)) is RobertaModel


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, bytes]]:
    """The files of each upload to the hub, by name, as they were at that time."""
    made: list[dict[str, bytes]] = []

    def create_repo(self: HfApi, repo_id: str, **options: Any) -> RepoUrl:
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    def create_commit(self: HfApi, operations: list[Any], **options: Any) -> None:
        made.append({each.path_in_repo: Path(each.path_or_fileobj).read_bytes() for each in operations})

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    return made


def test_what_a_model_uploads_can_be_loaded(saved: Path, tmp_path: Path, uploads: list[dict[str, bytes]]) -> None:
    model = longformer_plus.LongformerPlusForMaskedLM.from_pretrained(saved)
    (tmp_path / "other.txt").write_text("of the user")
    model.save_pretrained(tmp_path, push_to_hub=True, repo_id="me/mine")
    assert uploads[0].keys() >= {"config.json", "model.safetensors", "modeling_longformer_plus.py"}
    assert "other.txt" not in uploads[0]
    assert json.loads(uploads[0]["config.json"])["auto_map"] == remote_code.auto_map()


def test_what_a_configuration_uploads_can_be_loaded(tmp_path: Path, uploads: list[dict[str, bytes]]) -> None:
    LongformerPlusConfig().save_pretrained(str(tmp_path), push_to_hub=True, repo_id="me/mine")
    assert uploads[0].keys() == {"config.json", "modeling_longformer_plus.py"}
    assert json.loads(uploads[0]["config.json"])["auto_map"] == remote_code.auto_map()


def test_what_a_tokenizer_uploads_can_be_loaded(saved: Path, tmp_path: Path, uploads: list[dict[str, bytes]]) -> None:
    LongformerPlusTokenizer.from_pretrained(saved).save_pretrained(tmp_path, push_to_hub=True, repo_id="me/mine")
    assert uploads[0].keys() == {"tokenizer.json", "tokenizer_config.json", "modeling_longformer_plus.py"}
    assert "AutoTokenizer" in json.loads(uploads[0]["tokenizer_config.json"])["auto_map"]


def test_a_tokenizer_without_the_private_hook_is_saved_all_the_same(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = LongformerPlusTokenizer.from_pretrained(saved)
    # As if transformers called another method, of another name, for what it saves.
    monkeypatch.delattr(LongformerPlusTokenizer, "_save_pretrained")
    tokenizer.save_pretrained(tmp_path)
    assert "AutoTokenizer" in json.loads((tmp_path / "tokenizer_config.json").read_text())["auto_map"]
    assert (tmp_path / "modeling_longformer_plus.py").is_file()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_file_is_whole_at_any_time(name: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full when the new file is written: the old one stays."""
    LongformerPlusConfig.from_pretrained(saved).save_pretrained(tmp_path)
    LongformerPlusTokenizer.from_pretrained(saved).save_pretrained(tmp_path)
    before = (tmp_path / name).read_bytes()
    write = Path.write_text

    def full(path: Path, text: str, **options: Any) -> int:
        write(path, text[:10], **options)
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        remote_code.write_fields(tmp_path / name, {"other": "fields"})
    assert (tmp_path / name).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "modeling_longformer_plus.py",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_map_of_classes_is_in_the_file_alone(saved: Path, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(saved)
    assert not hasattr(config, "auto_map")
    assert LongformerPlusConfig.from_longformer(small_config()).to_dict().keys() <= config.to_dict().keys()
    # A user's own classes stay.
    config.auto_map = {"AutoModel": "my_model.MyModel"}
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).auto_map["AutoModel"] == "my_model.MyModel"
