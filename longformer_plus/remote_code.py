"""What a checkpoint needs so that `from_pretrained(..., trust_remote_code=True)` finds this package.

transformers runs flat files of a checkpoint's folder only, so the one written there imports what is installed.
"""

from __future__ import annotations

import json
import os
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


def write_remote_code(folder: str | os.PathLike[str]) -> None:
    """Write the file beside a saved model or tokenizer, and name its classes in their configurations.

    Args:
        folder: what a LongformerPlus model or tokenizer has been saved to; left as it is where there is neither.
    """
    model, tokenizer = Path(folder) / "config.json", Path(folder) / "tokenizer_config.json"
    auto_maps: dict[Path, dict[str, Any]] = {}
    if model.is_file():
        auto_maps[model] = {name: f"{MODULE}.{target}" for name, target in _AUTO_CLASSES.items()}
    if tokenizer.is_file() and _read(tokenizer).get("tokenizer_class") == _TOKENIZER:
        # The pair is of a class in Python, which there is none of, and of one on the `tokenizers` library.
        auto_maps[tokenizer] = {"AutoTokenizer": [None, f"{MODULE}.{_TOKENIZER}"]}
    for path, auto_map in auto_maps.items():
        text = json.dumps({**_read(path), "auto_map": auto_map}, indent=2, sort_keys=True, ensure_ascii=False)
        path.write_text(f"{text}\n", encoding="utf-8")
    if auto_maps:
        (Path(folder) / f"{MODULE}.py").write_text(_CODE, encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
