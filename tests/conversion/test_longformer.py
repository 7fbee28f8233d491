"""Converting transformers' Longformer, AllenAI's first releases and LED; and writing checkpoint folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import LEDConfig

import longformer_plus
from longformer_plus import LongformerPlusConfig
from longformer_plus.conversion import (
    convert_checkpoint,
    convert_from_allenai,
    convert_from_led,
    convert_from_longformer,
    convert_to_longformer,
    kind_of,
)
from longformer_plus.conversion.writing import new_folder

from ..cases import small_config, spread

HEADS = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForQuestionAnswering",
    "ForTokenClassification",
    "ForMultipleChoice",
)
IDS = torch.tensor([[0, 5, 6, 2, 2, 7, 8, 9, 2]])


def native(head: str, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return spread(getattr(transformers, f"Longformer{head}")(small_config(attention_window=8, **changes))).eval()


def assert_same_weights(have: torch.nn.Module, want: torch.nn.Module) -> None:
    ours, theirs = have.state_dict(), want.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


LAYOUTS = ("safetensors", "safetensors in parts", "pickle", "pickle in parts", "in memory")


@pytest.mark.parametrize(
    ("head", "layout"),
    [
        # Heads and layouts do not know of each other.
        pytest.param(head, layout, marks=[] if HEADS[0] == head or layout == LAYOUTS[0] else pytest.mark.slow)
        for head in HEADS
        for layout in LAYOUTS
    ],
)
def test_longformer_there_and_back(head: str, layout: str, tmp_path: Path) -> None:
    theirs = native(head).half()
    source: Any = tmp_path / "longformer"
    theirs.save_pretrained(source, max_shard_size="8KB" if "parts" in layout else "1GB")
    if "pickle" in layout:
        as_pickles(source)
    if layout == "in memory":
        source = theirs
    ours = convert_from_longformer(source, tmp_path / "plus")
    assert type(ours).__name__ == f"LongformerPlus{head}"
    assert_same_weights(ours, theirs)
    assert json.loads((tmp_path / "plus" / "config.json").read_text())["model_type"] == "longformer_plus"

    back = convert_to_longformer(tmp_path / "plus", tmp_path / "back")
    loaded, report = type(theirs).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report.values()), report
    for model in (back, loaded):
        assert_same_weights(model, theirs)
        assert type(model.config) is transformers.LongformerConfig
    ids = IDS[:, None].repeat(1, 2, 1) if head == "ForMultipleChoice" else IDS
    torch.testing.assert_close(loaded.float()(ids)[0], theirs.float()(ids)[0])
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["config.json", "model.safetensors"]


def as_pickles(folder: Path) -> None:
    """Rewrite a folder's safetensors as torch wrote them before."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        text = index.read_text().replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
        (folder / "pytorch_model.bin.index.json").write_text(text)
        index.unlink()
    for file in folder.glob("*.safetensors"):
        torch.save(load_file(file), folder / f"pytorch_{file.stem}.bin")
        file.unlink()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_dilation": 2}, "attention_dilation=2"),
        ({"is_causal": True}, "is_causal=True"),
        ({"global_attention": "separators"}, "global_attention='separators'"),
        ({"attention_window": [8, 12]}, "divides the widest"),
    ],
)
def test_the_way_back_refuses_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    fields = small_config().to_dict()
    del fields["model_type"]
    model = longformer_plus.LongformerPlusForMaskedLM(LongformerPlusConfig(**{**fields, **changes}))
    with pytest.raises(ValueError, match=message):
        convert_to_longformer(model, tmp_path / "back")
    assert not (tmp_path / "back").exists()


# AllenAI's first releases.


def write_allenai(folder: Path, model: torch.nn.Module, **changes: Any) -> None:
    """A Longformer as AllenAI released it: RoBERTa's names, windows of one side, an old pickle."""
    weights = {name.replace("longformer.", "roberta."): tensor for name, tensor in model.state_dict().items()}
    position_ids = torch.arange(model.config.max_position_embeddings)[None]
    bare = not any(name.startswith("roberta.") for name in weights)
    weights["embeddings.position_ids" if bare else "roberta.embeddings.position_ids"] = position_ids
    if not bare:
        weights["roberta.pooler.dense.weight"] = torch.zeros(24, 24)
        weights["roberta.pooler.dense.bias"] = torch.zeros(24)
    folder.mkdir()
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    fields = {name: getattr(model.config, name) for name in (*names, "layer_norm_eps", "type_vocab_size")}
    fields |= {
        "attention_window": [4, 4],
        "attention_dilation": [1, 1],
        "attention_mode": "sliding_chunks",
        "autoregressive": False,
        "max_position_embeddings": model.config.max_position_embeddings,
    }
    (folder / "config.json").write_text(json.dumps({**fields, **changes}))


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_allenai(head: str, tmp_path: Path) -> None:
    theirs = native(head)
    write_allenai(tmp_path / "release", theirs)
    ours = convert_from_allenai(tmp_path / "release", tmp_path / "plus")
    assert ours.config.attention_window == [8, 8]
    assert_same_weights(ours, theirs)
    ids = torch.randint(5, 60, (1, 50), generator=torch.Generator().manual_seed(0))
    is_global = torch.zeros_like(ids)
    is_global[0, 3] = 1
    want = theirs(ids, global_attention_mask=is_global)[0]
    torch.testing.assert_close(ours(ids, global_attention_mask=is_global)[0], want, atol=1e-5, rtol=0)


def test_allenai_keeps_dilation_and_direction(tmp_path: Path) -> None:
    write_allenai(tmp_path / "release", native("ForMaskedLM"), attention_dilation=[1, 3], autoregressive=True)
    ours = convert_from_allenai(tmp_path / "release")
    assert ours.config.dilations == [[1] * 3, [3] * 3]
    assert ours.config.is_causal


# LED.


def led_config() -> LEDConfig:
    return LEDConfig(
        vocab_size=60,
        d_model=24,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=3,
        decoder_attention_heads=3,
        encoder_ffn_dim=40,
        decoder_ffn_dim=40,
        max_encoder_position_embeddings=100,
        max_decoder_position_embeddings=30,
        attention_window=[8, 16],
        dropout=0.0,
        attention_dropout=0.0,
    )


@pytest.mark.parametrize("name", ["LEDModel", "LEDForConditionalGeneration"])
@pytest.mark.parametrize("layout", ["in memory", "folder", "AllenAI's"])
def test_encoder_of_led(name: str, layout: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = spread(getattr(transformers, name)(led_config())).eval()
    source: Any = theirs
    if layout != "in memory":
        source = tmp_path / "led"
        theirs.save_pretrained(source)
    if layout == "AllenAI's":
        as_allenai(source)
    ours = convert_from_led(source, tmp_path / "plus")
    assert type(ours) is longformer_plus.LongformerPlusModel
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (2, 90), generator=generator)
    mask, is_global = torch.ones_like(ids), torch.zeros_like(ids)
    mask[1, 70:] = 0
    is_global[:, [0, 9]] = 1
    inputs = {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask, "global_attention_mask": is_global}
    want = theirs.get_encoder()(**inputs).last_hidden_state
    for model in (ours, transformers.AutoModel.from_pretrained(tmp_path / "plus", add_pooling_layer=False)):
        have = model(**inputs).last_hidden_state
        torch.testing.assert_close(have[mask > 0], want[mask > 0], atol=1e-5, rtol=0)


def as_allenai(folder: Path) -> None:
    """A folder of transformers' LED as AllenAI released theirs: BART's names and table, windows of one side."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weights = {"model." + name.removeprefix("led."): tensor for name, tensor in weights.items()}
    positions = "model.encoder.embed_positions.weight"
    weights[positions] = torch.cat([torch.full((2, 24), 7.0), weights[positions]])
    torch.save(weights, folder / "pytorch_model.bin")
    fields = json.loads((folder / "config.json").read_text())
    fields |= {"model_type": "bart", "attention_mode": "sliding_chunks", "attention_window": [4, 8]}
    (folder / "config.json").write_text(json.dumps({**fields, "attention_dilation": [1, 1], "autoregressive": False}))


# Folders.


def test_kinds_are_found_out(tmp_path: Path) -> None:
    native("Model").save_pretrained(tmp_path / "longformer")
    write_allenai(tmp_path / "allenai", native("Model"))
    transformers.LEDModel(led_config()).save_pretrained(tmp_path / "led")
    for kind in ("longformer", "allenai", "led"):
        assert kind_of(tmp_path / kind) == kind
        model = convert_checkpoint(tmp_path / kind, tmp_path / f"{kind} plus")
        assert model.config.model_type == "longformer_plus"
        assert kind_of(tmp_path / f"{kind} plus") == "longformer"
    with pytest.raises(ValueError, match="max_length=100 is not allowed here"):
        convert_checkpoint(tmp_path / "longformer", tmp_path / "other", max_length=100)
    with pytest.raises(ValueError, match="no LongformerPlus checkpoint"):
        convert_checkpoint(tmp_path / "led", tmp_path / "other", "longformer")


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    theirs = native("Model")
    convert_from_longformer(theirs, tmp_path / "plus")
    before = (tmp_path / "plus" / "model.safetensors").read_bytes()
    other = spread(native("Model"), seed=1)
    with pytest.raises(FileExistsError, match="--overwrite"):
        convert_from_longformer(other, tmp_path / "plus")
    assert (tmp_path / "plus" / "model.safetensors").read_bytes() == before
    convert_from_longformer(other, tmp_path / "plus", overwrite=True)
    assert (tmp_path / "plus" / "model.safetensors").read_bytes() != before
    # In its own place too.
    convert_from_longformer(tmp_path / "plus", tmp_path / "plus", overwrite=True)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="more than a checkpoint"):
        convert_from_longformer(theirs, tmp_path / "papers", overwrite=True)
    (tmp_path / "papers" / "config.json").write_text("{}")
    (tmp_path / "papers" / "figures").mkdir()
    with pytest.raises(ValueError, match="more than a checkpoint"):
        convert_from_longformer(theirs, tmp_path / "papers", overwrite=True)
    with pytest.raises(ValueError, match="make it first"):
        convert_from_longformer(theirs, tmp_path / "no" / "such")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["papers", "plus"]


def test_an_error_half_way_leaves_nothing_new(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")

    def fail_half_way(path: Path) -> None:
        with new_folder(path, overwrite=True) as folder:
            (folder / "config.json").write_text("half")
            raise KeyboardInterrupt

    for name in ("new", "old"):
        with pytest.raises(KeyboardInterrupt):
            fail_half_way(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "config.json").read_text() == "{}"


def test_what_stood_there_is_put_back_where_the_new_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if path.suffix == ".partial":
            raise OSError("no")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no"), new_folder(tmp_path / "old", overwrite=True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "config.json").read_text() == "{}"


def test_a_process_that_is_killed_leaves_no_folder_of_that_name(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from longformer_plus.conversion.writing import new_folder\n"
        "with new_folder(sys.argv[1]) as folder:\n"
        "    (folder / 'config.json').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "new")], check=False)
    assert done.returncode == -9
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == 1
    assert left[0].startswith(".new.")
    assert left[0].endswith(".partial")
