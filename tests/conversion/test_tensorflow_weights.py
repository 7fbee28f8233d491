"""tf_model.h5 files, written with the names and layouts that Keras and TFLongformer gave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from longformer_plus.conversion import CheckpointError, convert_checkpoint, convert_from_tensorflow

from ..cases import small_config, spread

h5py = pytest.importorskip("h5py")

HEADS = {
    "Model": "tf_longformer_model",
    "ForMaskedLM": "tf_longformer_for_masked_lm",
    "ForSequenceClassification": "tf_longformer_for_sequence_classification",
    "ForQuestionAnswering": "tf_longformer_for_question_answering",
    "ForTokenClassification": "tf_longformer_for_token_classification",
    "ForMultipleChoice": "tf_longformer_for_multiple_choice",
}
IDS = torch.tensor([[0, 5, 6, 2, 2, 7, 8, 9, 2]])


def tensorflow_name(name: str, head: str) -> tuple[str, str]:
    """A weight's group in the file, which is the layer of the model that it is in, and its name there."""
    name = f"longformer.{name}" if head == "Model" else name
    *path, kind = name.split(".")
    if "embeddings" in path[-1]:
        # The word embeddings are a weight of their own, the others are Keras' layers.
        kind = "weight" if path[-1] == "word_embeddings" else "embeddings"
    elif "norm" in path[-1].lower():
        kind = {"weight": "gamma", "bias": "beta"}[kind]
    elif path != ["lm_head"]:
        kind = {"weight": "kernel", "bias": "bias"}[kind]
    joined = "/".join([*path, kind]).replace("/layer/", "/layer_._")
    return path[0], f"{HEADS[head]}/{joined}:0"


def write(folder: Path, model: torch.nn.Module, head: str, in_parts: bool = False) -> None:
    """What TFLongformer...save_pretrained wrote for a model with these weights."""
    folder.mkdir()
    fields = {**model.config.to_dict(), "architectures": [f"Longformer{head}"]}
    (folder / "config.json").write_text(json.dumps(fields))
    variables = []
    for name, tensor in model.state_dict().items():
        if "decoder" in name:  # tied, and not a variable there
            continue
        group, path = tensorflow_name(name, head)
        variables.append((group, path, tensor.T.numpy() if "kernel" in path else tensor.numpy()))
        if head == "ForMaskedLM" and "word_embeddings" in path:
            variables.append(("lm_head", path, tensor.numpy()))  # the layer that uses them as its decoder has them too
    if not in_parts:
        with h5py.File(folder / "tf_model.h5", "w") as file:
            file.attrs["backend"] = "tensorflow"
            for group, path, array in variables:
                file.require_group(group).create_dataset(path, data=array)
            file.create_group("dropout_3")  # layers without variables have empty groups
        return
    names = [f"tf_model-0000{part}-of-00002.h5" for part in (1, 2)]
    for part, name in enumerate(names):
        with h5py.File(folder / name, "w") as file:
            for _, path, array in variables[part::2]:
                short = path.split("/", 1)[1]
                if short not in file:
                    file.create_dataset(short, data=array)
    weight_map = {path: names[index % 2] for index, (_, path, _) in enumerate(variables)}
    (folder / "tf_model.h5.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_every_head(head: str, in_parts: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = spread(getattr(transformers, f"Longformer{head}")(small_config(attention_window=8))).eval()
    write(tmp_path / "tf", theirs, head, in_parts)
    ours = convert_checkpoint(tmp_path / "tf", tmp_path / "plus")
    assert type(ours).__name__ == f"LongformerPlus{head}"
    assert (tmp_path / "plus" / "model.safetensors").is_file()
    weights = ours.state_dict()
    assert weights.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    ids = IDS[:, None].repeat(1, 2, 1) if head == "ForMultipleChoice" else IDS
    torch.testing.assert_close(ours(ids)[0], theirs(ids)[0], atol=1e-5, rtol=0)


def test_a_pooler_that_a_head_does_not_use(tmp_path: Path) -> None:
    theirs = spread(transformers.LongformerForTokenClassification(small_config(attention_window=8))).eval()
    write(tmp_path / "tf", theirs, "ForTokenClassification")
    with h5py.File(tmp_path / "tf" / "tf_model.h5", "a") as file:
        for kind, shape in (("kernel", (24, 24)), ("bias", (24,))):
            path = f"longformer/{HEADS['ForTokenClassification']}/longformer/pooler/dense/{kind}:0"
            file.create_dataset(path, data=np.zeros(shape, np.float32))
    ours = convert_from_tensorflow(tmp_path / "tf").eval()
    assert ours.longformer.pooler is None
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, atol=1e-5, rtol=0)


def damage(file: Any, kind: str, folder: Path) -> None:
    path = "longformer/tf_longformer_model/longformer/embeddings/word_embeddings/weight:0"
    if kind == "missing":
        del file[path]
    elif kind == "wrong shape":
        del file[path]
        file.create_dataset(path, data=np.zeros((5, 24), np.float32))
    elif kind == "unknown":
        file.create_dataset("longformer/tf_longformer_model/longformer/other/moment:0", data=np.zeros(3))
    elif kind == "bomb":
        del file[path]
        file.create_dataset(path, shape=(10**9, 10**3), dtype=np.float32, chunks=(1000, 1000), compression="gzip")
    elif kind == "another file's bytes":
        (folder / "secret").write_bytes(b"x" * 60 * 24 * 4)
        del file[path]
        file.create_dataset(path, shape=(60, 24), dtype=np.float32, external=[(str(folder / "secret"), 0, 60 * 24 * 4)])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "missing: embeddings.word_embeddings.weight"),
        ("wrong shape", r"\(5, 24\), not \(60, 24\)"),
        ("unknown", "no variable of TFLongformer"),
        ("bomb", "not stored as Keras"),
        ("another file's bytes", "not stored as Keras"),
        ("truncated", "tf_model.h5 cannot be read"),
    ],
)
def test_damaged_and_hostile_files(kind: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "tf", transformers.LongformerModel(small_config(attention_window=8)), "Model")
    path = tmp_path / "tf" / "tf_model.h5"
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        with h5py.File(path, "a") as file:
            damage(file, kind, tmp_path)
    with pytest.raises(CheckpointError, match=message):
        convert_from_tensorflow(tmp_path / "tf", tmp_path / "plus")
    assert not (tmp_path / "plus").exists()


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "tf", transformers.LongformerModel(small_config(attention_window=8)), "Model")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"longformer-plus\[tensorflow\]"):
        convert_from_tensorflow(tmp_path / "tf")
