"""What bfloat16 and int8 cost in quality, on the checkpoint of the package and text that it was not trained on.

python docs/results/quantization/quality.py DATA RESULT.json

DATA holds pretraining/*.validation.jsonl.xz and token_classification/litbank.test.jsonl.xz, as for
docs/examples/shipped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longformer_plus import shipped_checkpoint
from longformer_plus.benchmark.measuring import environment
from longformer_plus.integrations.checkpoints import load_checkpoint
from longformer_plus.integrations.data.sources import read_records
from longformer_plus.integrations.evaluation import EvaluationPlan, evaluate_checkpoint
from longformer_plus.ops import int8
from longformer_plus.ops.int8 import Int8Linear, onednn_is_exact
from longformer_plus.ops.processor import processor_features
from longformer_plus.shipped.names import resolve_checkpoint

# The last is what int8 is on processors that multiply bfloat16.
WAYS = ("float32", "bfloat16", "int8", "int8, attention in bfloat16")
LENGTH = 4096


def main() -> None:
    """Measure and write, after each way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--documents", type=int, default=2, help="of each source")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, help="beside float32")
    options = parser.parse_args()
    _, tokenizer = load_checkpoint("fill-mask", shipped_checkpoint())
    documents = list(hidden_documents(options.data, tokenizer, options.documents))
    result = {
        **environment(),
        "features": processor_features(),
        "int8 on oneDNN": onednn_is_exact(),
        "tokens": sum(len(true) for true, _ in documents),
        "hidden": sum(int(hidden.sum()) for _, hidden in documents),
    }
    wanted = None
    for way in dict.fromkeys(["float32", *options.ways]):
        precision, _, attention = way.partition(", ")
        int8.multiplies_bfloat16 = lambda in_bfloat16=bool(attention): in_bfloat16
        model, _ = load_checkpoint("fill-mask", shipped_checkpoint(), precision)
        states, losses, guesses = read(model, tokenizer, documents)
        wanted = wanted or (states, losses, guesses)
        result[way] = {
            "loss": float(losses.mean()),
            "loss more than float32": float((losses - wanted[1]).mean()),
            "same likeliest token": float((guesses == wanted[2]).float().mean()),
            "relative error of states": float((states - wanted[0]).norm() / wanted[0].norm()),
            **sizes(model),
            "entity f1": entity_f1(options.data, precision),
        }
        print(way, result[way], flush=True)
        options.result.write_text(json.dumps(result, indent=1) + "\n")


def hidden_documents(data: Path, tokenizer: object, number: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(N) ids and (N) bool, which of them are hidden: the start of some documents of each source."""
    generator = torch.Generator().manual_seed(0)
    for path in sorted((data / "pretraining").glob("*.validation.jsonl.xz")):
        records = read_records([str(path)], lambda row: None, {})
        for record in records[:number]:
            ids = tokenizer(record.row["text"], truncation=True, max_length=LENGTH, verbose=False)["input_ids"]
            ids = torch.tensor(ids)
            hidden = torch.rand(len(ids), generator=generator) < 0.15
            hidden[[0, -1]] = False
            yield ids, hidden


@torch.no_grad()
def read(model: nn.Module, tokenizer: object, documents: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """The states of all tokens, and the losses and guesses of the hidden ones."""
    found = []
    for ids, hidden in documents:
        shown = ids.masked_fill(hidden, tokenizer.mask_token_id)
        states = model.longformer(shown[None]).last_hidden_state[0]
        logits = model.lm_head(states[hidden]).float()
        found.append((states.float(), F.cross_entropy(logits, ids[hidden], reduction="none"), logits.argmax(-1)))
    states, losses, guesses = (torch.cat(each) for each in zip(*found, strict=True))
    return states, losses, guesses


def sizes(model: nn.Module) -> dict[str, float]:
    """Bytes of the layers that int8 is for, of all weights, and of the saved file."""
    layers = 0
    for name, module in model.named_modules():
        is_local = ".layer." in name and "_global" not in name
        if is_local and isinstance(module, nn.Linear | Int8Linear):
            layers += sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        file = (Path(folder) / "model.safetensors").stat().st_size
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}.values()
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return {"bytes of layers": layers, "bytes of weights": total, "bytes of file": file}


def entity_f1(data: Path, precision: str) -> float:
    """Of the entities in held-out chapters."""
    test = str(data / "token_classification" / "litbank.test.jsonl.xz")
    plan = EvaluationPlan(
        "token-classification", resolve_checkpoint("shipped:token-classification"), [test], precision=precision
    )
    return evaluate_checkpoint(plan)["model"]["f1"]


if __name__ == "__main__":
    main()
