"""The recipe behind the checkpoint of the package, on texts of a page and for a few steps."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import pipeline

from longformer_plus import shipped_checkpoint

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "docs" / "examples" / "shipped"
TEXTS = ("openstax_ccby", "us_president_speeches", "eltec_eng", "litbank_gutenberg_novels", "peps", "eips", "rust_rfcs")
TEXT = (shipped_checkpoint().parent / "samples" / "lighthouses.txt").read_text() * 3
SHORT = {
    "VOCABULARY": "300",
    "LAYERS": "1",
    "CAUSAL_STEPS": "3",
    "SHORT_STEPS": "3",
    "LONG_STEPS": "2",
    "ENTITY_EPOCHS": "1",
}


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_data(folder: Path) -> None:
    for name in TEXTS:
        for part in ("train", "validation"):
            write(folder / "pretraining" / f"{name}.{part}.jsonl.xz", [{"text": TEXT}])
    article = {"title": "Lighthouses", "context": TEXT, "question": "Who?", "answers": {"text": [], "answer_start": []}}
    write(folder / "question_answering" / "squad_v1.1.validation.jsonl.xz", [article])
    tagged = {"tokens": ["Ada", "saw", "Paris"] * 20, "ner_tags": ["B-PER", "O", "B-GPE"] * 20}
    for part in ("train", "test"):
        write(folder / "token_classification" / f"litbank.{part}.jsonl.xz", [tagged] * 3)


def test_one_command_from_texts_to_the_packed_checkpoint_and_its_card(tmp_path: Path) -> None:
    data, out, into = tmp_path / "data", tmp_path / "out", tmp_path / "into"
    write_data(data)
    into.mkdir()
    shutil.copy(ROOT / "MODEL_CARD.md", into)
    places = {"DATA": str(data), "OUT": str(out), "INTO": str(into)}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["sh", str(RECIPE / "build.sh")]
    environment = {**os.environ, **places, **SHORT, "PATH": path}

    stopped = subprocess.run(command, env={**environment, "LONG_STEPS": "-3"}, capture_output=True, text=True)
    assert stopped.returncode != 0
    written = (out / "short" / "model.safetensors").stat().st_mtime_ns
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True)

    assert (out / "short" / "model.safetensors").stat().st_mtime_ns == written, "a finished step was done again"
    fill = pipeline("fill-mask", model=str(into / "longformer_plus" / "shipped" / "masked_lm"))
    assert len(fill("Thank you <mask> much.")) == 5
    packed = json.loads((into / "longformer_plus" / "shipped" / "masked_lm" / "config.json").read_text())
    assert "AutoModelForMaskedLM" in packed["auto_map"], "no remote code"
    card = (into / "MODEL_CARD.md").read_text()
    assert "1 layers of 256 features, 4 heads" in card
    assert "a window of 512 tokens" in card
    scores = json.loads((out / "scores" / "hidden.json").read_text())["scores"]
    assert f"{scores['peps.validation.jsonl.xz, 4096 tokens']['token_loss']:.3f}" in card
    assert (into / "docs" / "results" / "shipped" / "long.svg").stat().st_size > 1000
