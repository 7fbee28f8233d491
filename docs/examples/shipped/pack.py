"""Put trained checkpoints into the package, in half precision.

python docs/examples/shipped/pack.py BASE TOKENIZER TASK=ADAPTER ...
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

PACKAGE = Path(__file__).parents[3] / "longformer_plus" / "shipped"


def pack_weights(source: Path, target: Path) -> None:
    """Weights in half precision."""
    weights = {name: tensor.to(torch.float16) for name, tensor in load_file(source).items()}
    save_file(weights, target, metadata={"format": "pt"})
    target.chmod(0o644)


def pack_config(source: Path, target: Path) -> None:
    """A configuration by which Auto classes load the half-precision weights in single precision, which CPUs want."""
    fields = LongformerPlusConfig.from_json_file(source).to_dict()
    fields.pop("_name_or_path", None)
    fields |= {"dtype": "float32", "sparse_prediction": False}
    target.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def pack_base(source: Path, tokenizer: Path) -> None:
    """The masked language model and its tokenizer."""
    target = new_folder("masked_lm")
    pack_weights(source / "model.safetensors", target / "model.safetensors")
    pack_config(source / "config.json", target / "config.json")
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(target)


def pack_adapter(task: str, source: Path) -> None:
    """An adapter, with the classes that it was trained for; its base is filled in where it is installed."""
    target = new_folder(task.replace("-", "_"))
    pack_weights(source / "adapter_model.safetensors", target / "adapter_model.safetensors")
    pack_config(source / "model_config.json", target / "model_config.json")
    adapter = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    adapter |= {"base_model_name_or_path": None, "inference_mode": True}
    (target / "adapter_config.json").write_text(json.dumps(adapter, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def new_folder(name: str) -> Path:
    """An empty folder of the package."""
    shutil.rmtree(PACKAGE / name, ignore_errors=True)
    (PACKAGE / name).mkdir()
    return PACKAGE / name


if __name__ == "__main__":
    base, tokenizer, *adapters = sys.argv[1:]
    pack_base(Path(base), Path(tokenizer))
    for task, _, folder in (each.partition("=") for each in adapters):
        pack_adapter(task, Path(folder))
