"""What is saved can be loaded with trust_remote_code=True, by who has not imported the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import longformer_plus
from longformer_plus import LongformerPlusTokenizer

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
