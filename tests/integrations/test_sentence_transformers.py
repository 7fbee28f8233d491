"""A checkpoint as sentence-transformers loads, batches, trains and saves it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sentence_transformers")
from sentence_transformers import CrossEncoder, SentenceTransformer

from longformer_plus.cli import main
from longformer_plus.integrations.checkpoints import load_encoder
from longformer_plus.integrations.long_documents.embedding import embed_documents
from longformer_plus.integrations.sentence_transformers import save_for_sentence_transformers

TEXTS = ["A river.", "The king walked to the mountain and spoke of an old stone. " * 3, "Paris " * 40, "Berlin, again"]


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", False), ("first", True)])
def test_batches_of_mixed_lengths_are_what_each_text_gives_alone(
    pooling: str, normalize: bool, task_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "embedder"
    model = save_for_sentence_transformers(task_checkpoints["fill-mask"], folder, pooling, normalize=normalize)
    assert model.max_seq_length == 200
    together = model.encode(TEXTS, batch_size=4)
    alone = np.stack([model.encode([text])[0] for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert model[0].auto_model.config.global_attention == ("cls" if pooling == "first" else "auto")
    assert model[0].auto_model.pooler is None
    if pooling == "mean":
        ours = embed_documents(*load_encoder(task_checkpoints["fill-mask"]), TEXTS)
        np.testing.assert_allclose(together, torch.stack(ours).numpy(), atol=1e-5)
    else:
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)


def test_it_is_trained_saved_and_loaded_again(task_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = save_for_sentence_transformers(task_checkpoints["fill-mask"], tmp_path / "embedder")
    before = model.encode(TEXTS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        vectors = model(model.preprocess(TEXTS[:2]))["sentence_embedding"]
        loss = torch.nn.functional.cosine_similarity(vectors[:1], vectors[1:]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = model.encode(TEXTS)
    assert np.abs(trained - before).max() > 1e-4
    model.save(str(tmp_path / "trained"))
    again = SentenceTransformer(str(tmp_path / "trained"))
    np.testing.assert_allclose(again.encode(TEXTS), trained, atol=1e-6)


def test_a_classifier_is_a_cross_encoder(task_checkpoints: dict[str, Path]) -> None:
    model = CrossEncoder(str(task_checkpoints["text-classification"]))
    pairs = [(TEXTS[0], TEXTS[1]), (TEXTS[3], TEXTS[0])]
    together: Any = model.predict(pairs)
    np.testing.assert_allclose(together, np.stack([model.predict([pair])[0] for pair in pairs]), atol=1e-5)


def test_adapters_are_merged(task_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from longformer_plus import LongformerPlusModel, LongformerPlusTokenizer
    from longformer_plus.integrations.adapters import lora_config

    base = LongformerPlusModel.from_pretrained(task_checkpoints["fill-mask"])
    adapted = peft.get_peft_model(base, lora_config("feature-extraction", init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapters")
    LongformerPlusTokenizer.from_pretrained(task_checkpoints["fill-mask"]).save_pretrained(tmp_path / "adapters")
    expected = embed_documents(*load_encoder(tmp_path / "adapters"), TEXTS)
    model = save_for_sentence_transformers(tmp_path / "adapters", tmp_path / "embedder")
    np.testing.assert_allclose(model.encode(TEXTS), torch.stack(expected).numpy(), atol=1e-5)
    plain = embed_documents(*load_encoder(task_checkpoints["fill-mask"]), TEXTS)
    assert (torch.stack(expected) - torch.stack(plain)).abs().max() > 1e-3


def test_the_command(
    task_checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    arguments = ["convert", str(task_checkpoints["fill-mask"]), str(tmp_path / "out"), "--to", "sentence-transformers"]
    assert main([*arguments, "--max-length", "100"]) == 0
    assert "of up to 100 tokens" in capsys.readouterr().out
    for extra, message in (
        (["--pooling", "max"], "pooling='max' is not allowed"),
        (["--attention-window", "8"], "the checkpoint has its own"),
        (["--max-length", "9999"], "max_length=9999 is not allowed"),
        ([], "out exists"),
    ):
        folder = tmp_path / ("out" if not extra else "other")
        with pytest.raises(SystemExit):
            main(["convert", arguments[1], str(folder), *arguments[3:], *extra])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.delitem(sys.modules, "longformer_plus.integrations.sentence_transformers")
    with pytest.raises(SystemExit):
        main([*arguments[:2], str(tmp_path / "third"), *arguments[3:]])
    assert "pip install 'longformer-plus[sentence-transformers]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_program_that_has_not_imported_the_package_may_trust_its_code(
    task_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    model = save_for_sentence_transformers(task_checkpoints["fill-mask"], tmp_path / "embedder")
    code = (
        "from sentence_transformers import SentenceTransformer\n"
        f"model = SentenceTransformer({str(tmp_path / 'embedder')!r}, trust_remote_code=True)\n"
        "print(float(model.encode(['A river.']).sum()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(run.stdout) == pytest.approx(float(model.encode(["A river."]).sum()), abs=1e-4)
