"""Damaged and hostile checkpoints: one clear error, nothing executed, nothing written."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import longformer_plus
from longformer_plus import cli
from longformer_plus.conversion import CheckpointError, convert_checkpoint

from ..cases import small_config
from .test_to_long import short_model

KINDS = ("longformer", "short", "allenai")


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A whole checkpoint of the kind asked for, that each test damages in its way."""
    folder = tmp_path / "source"
    if request.param == "longformer":
        longformer_plus.LongformerPlusForMaskedLM(small_config()).save_pretrained(folder)
    else:
        short_model("roberta", "ForMaskedLM").save_pretrained(folder)
    if request.param == "allenai":
        fields = json.loads((folder / "config.json").read_text())
        fields |= {"attention_mode": "sliding_chunks", "attention_window": [4, 4]}
        (folder / "config.json").write_text(json.dumps(fields))
    return folder


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **changes: object) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, **changes}))


class Payload:
    """Runs a command where a pickle of it is loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


def name_of(weights: dict[str, torch.Tensor], part: str) -> str:
    return next(name for name in weights if part in name)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def wrong_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def empty_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def wrong_shape(folder: Path) -> None:
    change_weights(
        folder, lambda weights: weights.update({name_of(weights, "attention.self.key.w"): torch.zeros(3, 24)})
    )


def missing_weight(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop(name_of(weights, "1.output.dense.weight")))


def whole_numbers(folder: Path) -> None:
    change_weights(
        folder, lambda weights: weights.update({name: each.to(torch.int8) for name, each in weights.items()})
    )


def missing_file(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def code_in_a_pickle(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**weights, "extra": Payload(folder / "executed")}, folder / "pytorch_model.bin")


def a_bare_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(folder / "executed"), protocol=2))


def a_pickled_list(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save([torch.zeros(2)], folder / "pytorch_model.bin")


def a_pickle_with_numbers_for_names(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({1: torch.zeros(2)}, folder / "pytorch_model.bin")


def a_pickle_that_grows(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 20_000_000)
        archive.writestr("archive/version", b"3\n")


def an_index_that_leads_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def an_index_with_an_absolute_path(folder: Path) -> None:
    other = (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    index = {"metadata": {}, "weight_map": {"a": str(other)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def an_index_with_an_endless_name(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "a" * 5000}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def a_part_is_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def too_many_layers(folder: Path) -> None:
    change_config(folder, num_hidden_layers=10**9)


def a_huge_layer(folder: Path) -> None:
    change_config(folder, intermediate_size=10**12)


def too_many_labels(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    fields = {name: value for name, value in fields.items() if name not in ("id2label", "label2id")}
    (folder / "config.json").write_text(json.dumps({**fields, "num_labels": 10**9}))


def architectures_that_are_no_names(folder: Path) -> None:
    change_config(folder, architectures=[3])


def attention_from_the_hub(folder: Path) -> None:
    change_config(folder, _attn_implementation="someone/kernel")


def weights_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    change_config(folder, transformers_weights="../other.safetensors")


def an_adapter_of_a_model_elsewhere(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere"}))


def nonsense_in_the_configuration(folder: Path) -> None:
    change_config(folder, hidden_size="many")


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{'model_type': longformer")


def a_huge_tokenizer(folder: Path) -> None:
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate(200 * 2**20)


def a_nested_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model":' + "[" * 100_000 + "]" * 100_000 + "}")


def a_tokenizer_without_a_model(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": 3}')


DAMAGE = {
    truncate: "model.safetensors is damaged",
    wrong_header: "model.safetensors is damaged",
    empty_file: "model.safetensors is damaged",
    wrong_shape: "self.key.weight",
    missing_weight: "1.output.dense.weight",
    whole_numbers: "no floating-point numbers: .* of",
    missing_file: "has no weights",
    code_in_a_pickle: "is not safe to read",
    a_bare_pickle: "is not safe to read",
    a_pickled_list: "holds something else than tensors by name",
    a_pickle_with_numbers_for_names: "holds something else than tensors by name",
    a_pickle_that_grows: "would grow to 20,000,002 bytes",
    an_index_that_leads_elsewhere: "not a file beside it",
    an_index_with_an_absolute_path: "not a file beside it",
    an_index_with_an_endless_name: "names 'a{200}', which is not a file beside it",
    a_part_is_missing: "not a file beside it",
    too_many_layers: "num_hidden_layers is 1000000000",
    a_huge_layer: "1000000000000",
    too_many_labels: "num_labels=1000000000",
    architectures_that_are_no_names: r"architectures=\[3\]",
    attention_from_the_hub: "_attn_implementation='someone/kernel' names code",
    weights_elsewhere: "has no weights",
    an_adapter_of_a_model_elsewhere: "is an adapter, not a model",
    nonsense_in_the_configuration: "many",
    no_json: "config.json cannot be read",
    a_huge_tokenizer: "tokenizer.json has 209,715,200 bytes",
    a_nested_tokenizer: "tokenizer.json cannot be read",
    a_tokenizer_without_a_model: "cannot be read",
}


@pytest.mark.parametrize("folder", KINDS, indirect=True)
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_refused(damage: Callable[[Path], None], folder: Path, tmp_path: Path) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=DAMAGE[damage]):
        convert_checkpoint(folder, tmp_path / "output")
    assert not (folder / "executed").exists()
    assert not (tmp_path / "output").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("folder", KINDS, indirect=True)
def test_code_beside_the_weights_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "mine.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\nraise SystemExit\n")
    classes = ("AutoConfig", "AutoModel", "AutoModelForMaskedLM")
    change_config(folder, auto_map=dict.fromkeys(classes, "mine.Mine"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": [None, "mine.Mine"]}}))
    convert_checkpoint(folder, tmp_path / "output")
    assert not (folder / "executed").exists()
    assert not (tmp_path / "output" / "mine.py").exists()


@pytest.mark.parametrize("folder", ["longformer"], indirect=True)
def test_the_command_says_so_without_a_traceback(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    truncate(folder)
    capsys.readouterr()
    for arguments in (["convert", str(folder), str(tmp_path / "output")], ["info", str(folder)]):
        with pytest.raises(SystemExit) as error:
            cli.main(arguments)
        assert error.value.code == 2
        assert re.fullmatch(r"longformer-plus: error: \S+model.safetensors is damaged: .+\n", capsys.readouterr().err)


@pytest.mark.parametrize("folder", ["longformer"], indirect=True)
def test_missing_weights_are_said_in_one_place(
    folder: Path, tmp_path: Path, warnings_of_transformers: pytest.LogCaptureFixture
) -> None:
    missing_weight(folder)
    with pytest.raises(CheckpointError, match=r"1.output.dense.weight"):
        convert_checkpoint(folder, tmp_path / "output")
    assert not warnings_of_transformers.text


@pytest.mark.parametrize("folder", ["longformer"], indirect=True)
def test_weights_without_a_place_are_named(
    folder: Path, tmp_path: Path, warnings_of_transformers: pytest.LogCaptureFixture
) -> None:
    change_weights(folder, lambda weights: weights.update({"something.else": torch.zeros(3)}))
    convert_checkpoint(folder, tmp_path / "output")
    assert "has no place for something.else" in warnings_of_transformers.text


@pytest.mark.parametrize("folder", ["longformer"], indirect=True)
def test_a_conversion_that_is_killed_changes_nothing(folder: Path, tmp_path: Path) -> None:
    """Killed when the weights are written and the tokenizer is not, over another checkpoint."""
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "config.json").write_text("{}")
    code = (
        "import os, signal, sys\n"
        "from transformers import PreTrainedModel\n"
        "from longformer_plus import cli\n"
        "write = PreTrainedModel.save_pretrained\n"
        "def write_and_die(*args, **kwargs):\n"
        "    write(*args, **kwargs)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "PreTrainedModel.save_pretrained = write_and_die\n"
        "cli.main(sys.argv[1:])\n"
    )
    command = ["convert", str(folder), str(tmp_path / "output"), "--overwrite"]
    done = subprocess.run([sys.executable, "-c", code, *command], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert [file.name for file in (tmp_path / "output").iterdir()] == ["config.json"]
    assert (tmp_path / "output" / "config.json").read_text() == "{}"
    # What is left beside it stands in nobody's way.
    assert len(list(tmp_path.glob(".output.*.partial"))) == 1
    assert cli.main(command) == 0
    assert (tmp_path / "output" / "model.safetensors").is_file()


@pytest.mark.parametrize("folder", ["longformer"], indirect=True)
def test_a_checkpoint_of_another_head_is_not_filled_with_random_weights(folder: Path, tmp_path: Path) -> None:
    change_config(folder, architectures=["LongformerForSequenceClassification"])
    with pytest.raises(CheckpointError, match="no weights for classifier"):
        convert_checkpoint(folder, tmp_path / "output")


def test_other_models_and_folders(tmp_path: Path) -> None:
    transformers.GPT2Model(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ValueError, match="GPT2Model"):
        convert_checkpoint(tmp_path / "gpt2", tmp_path / "output")
    for name in ("nobody/nothing", "no such folder", ""):
        with pytest.raises(CheckpointError, match=r"neither a folder here nor|no config.json"):
            convert_checkpoint(name, tmp_path / "output")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        convert_checkpoint(tmp_path / "empty", tmp_path / "output")


def test_a_repository_in_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models--someone--short"
    snapshot = repository / "snapshots" / "0123456789012345678901234567890123456789"
    short_model("bert", "ForMaskedLM").save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    model = convert_checkpoint("someone/short", tmp_path / "long", max_length=100)
    assert model.config.max_tokens == 100
