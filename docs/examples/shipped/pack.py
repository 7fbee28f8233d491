"""Put what build.sh has trained into the package, in half precision.

python docs/examples/shipped/pack.py OUT longformer_plus/shipped
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from longformer_plus import LongformerPlusConfig
from longformer_plus.remote_code import auto_map

# The folder of each task's adapter, by the name of its folder in the package.
ADAPTERS = {"token_classification": "entities"}


def pack_weights(source: Path, target: Path) -> None:
    """Weights in half precision."""
    weights = {name: tensor.to(torch.float16) for name, tensor in load_file(source).items()}
    save_file(weights, target, metadata={"format": "pt"})
    target.chmod(0o644)


def pack_config(source: Path, target: Path) -> None:
    """A configuration by which Auto classes load the half-precision weights in single precision, which CPUs want."""
    fields = LongformerPlusConfig.from_json_file(source).to_dict()
    fields.pop("_name_or_path", None)
    fields |= {"dtype": "float32", "sparse_prediction": False, "auto_map": auto_map()}
    target.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def pack_base(source: Path, tokenizer: Path, target: Path) -> None:
    """The masked language model and its tokenizer."""
    make_empty(target)
    pack_weights(source / "model.safetensors", target / "model.safetensors")
    pack_config(source / "config.json", target / "config.json")
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(target)


def pack_adapter(source: Path, target: Path) -> None:
    """An adapter, with the classes that it was trained for; its base is filled in where it is installed."""
    make_empty(target)
    pack_weights(source / "adapter_model.safetensors", target / "adapter_model.safetensors")
    pack_config(source / "model_config.json", target / "model_config.json")
    adapter = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    adapter |= {"base_model_name_or_path": None, "inference_mode": True}
    (target / "adapter_config.json").write_text(json.dumps(adapter, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def make_empty(folder: Path) -> None:
    """Make a folder without anything in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


if __name__ == "__main__":
    trained, package = map(Path, sys.argv[1:])
    pack_base(trained / "long", trained / "tokenizer", package / "masked_lm")
    for name, folder in ADAPTERS.items():
        pack_adapter(trained / folder, package / name)
