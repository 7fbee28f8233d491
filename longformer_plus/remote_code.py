"""The files of a checkpoint by which `from_pretrained(..., trust_remote_code=True)` finds this package.

transformers runs only single files from a checkpoint's folder, so the file there imports the installed package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MODULE = "modeling_longformer_plus"

_AUTO_CLASSES = {
    "AutoConfig": "LongformerPlusConfig",
    "AutoModel": "LongformerPlusModel",
    "AutoModelForCausalLM": "LongformerPlusForCausalLM",
    "AutoModelForMaskedLM": "LongformerPlusForMaskedLM",
    "AutoModelForMultipleChoice": "LongformerPlusForMultipleChoice",
    "AutoModelForQuestionAnswering": "LongformerPlusForQuestionAnswering",
    "AutoModelForSequenceClassification": "LongformerPlusForSequenceClassification",
    "AutoModelForTokenClassification": "LongformerPlusForTokenClassification",
}
_TOKENIZER = "LongformerPlusTokenizer"

_NAMES = "".join(f"        {name},\n" for name in sorted({*_AUTO_CLASSES.values(), _TOKENIZER}))
_CODE = f'''\
"""The classes of this checkpoint, from the installed package longformer_plus."""

try:
    from longformer_plus import (  # noqa: F401
{_NAMES}    )
except ImportError as error:
    raise ImportError(
        "This checkpoint is of longformer_plus, which is not installed. Run `pip install longformer-plus`, or install "
        "it from its repository."
    ) from error
'''


def auto_map() -> dict[str, str]:
    """The `auto_map` of a model's configuration: for each Auto class, a class in the file of `write_module`."""
    return {name: f"{MODULE}.{target}" for name, target in _AUTO_CLASSES.items()}


def is_own(auto_map: Any) -> bool:
    """Whether an `auto_map` names classes of this package only; on the hub, names start with "REPOSITORY--"."""
    return isinstance(auto_map, Mapping) and all(
        isinstance(target, str) and target.rpartition("--")[2].startswith(f"{MODULE}.") for target in auto_map.values()
    )


def write_module(folder: str | os.PathLike[str]) -> None:
    """Write the file that imports the classes from the installed package."""
    (Path(folder) / f"{MODULE}.py").write_text(_CODE, encoding="utf-8")


def describe_tokenizer(folder: str | os.PathLike[str]) -> None:
    """Name the class of a saved LongformerPlusTokenizer in its configuration, and write the file that imports it.

    Args:
        folder: the folder of a saved tokenizer; nothing is changed for a tokenizer of another class.
    """
    path = Path(folder) / "tokenizer_config.json"
    fields = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if fields.get("tokenizer_class") != _TOKENIZER:
        return
    write_module(folder)
    # The slow tokenizer, which does not exist, and the fast one.
    classes = {"AutoTokenizer": [None, f"{MODULE}.{_TOKENIZER}"]}
    if fields.get("auto_map") != classes:
        write_fields(path, {**fields, "auto_map": classes})


def write_fields(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a configuration file in transformers' format, atomically: a reader sees the old or the new file."""
    text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(f"{text}\n", encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
