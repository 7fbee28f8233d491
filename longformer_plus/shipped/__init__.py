"""The small checkpoint that comes with the package, and its fine-tuned adapters. No network or hub is needed.

`masked_lm/` holds the checkpoint; the other folders hold PEFT adapters for it. An adapter's configuration names the
path of its base, which is known only once the package is installed. So adapters, and checkpoints with an adapter merged
in, are written into a cache at their first use. See MODEL_CARD.md.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from huggingface_hub.constants import HF_HOME
from transformers import AutoTokenizer

from ..configuration import LongformerPlusConfig
from ..model import heads
from ..model.pretrained import ADAPTED_CONFIG, LongformerPlusPreTrainedModel
from ..model.silence import silence

if TYPE_CHECKING:
    from peft import PeftModel

_HERE = Path(__file__).parent
_BASE = _HERE / "masked_lm"
_MODELS: dict[str, type[LongformerPlusPreTrainedModel]] = {
    "question-answering": heads.LongformerPlusForQuestionAnswering,
    "text-classification": heads.LongformerPlusForSequenceClassification,
    "token-classification": heads.LongformerPlusForTokenClassification,
}


def _shipped_tasks() -> Sequence[str]:
    return ("fill-mask", *(task for task in _MODELS if _adapter_source(task).is_dir()))


def _adapter_source(task: str) -> Path:
    return _HERE / task.replace("-", "_")


def shipped_checkpoint(task: str = "fill-mask") -> Path:
    """The folder of a small trained checkpoint, for Auto classes and pipelines.

    Args:
        task: `"fill-mask"`, or `"question-answering"`, `"text-classification"` or `"token-classification"`, as far as
            the package has a checkpoint for it.

    Returns:
        The folder: that of the package itself for `"fill-mask"`; else one in the cache of Hugging Face (HF_HOME), which
        the first call writes from the task's adapter.

    Raises:
        ModuleNotFoundError: the extra `peft` is missing, for other tasks than `"fill-mask"`.
        ValueError: nothing is shipped for this task.
    """
    _check(task, _shipped_tasks())
    return _BASE if task == "fill-mask" else _merged(task)


def shipped_adapter(task: str) -> Path:
    """The folder of a PEFT adapter on `shipped_checkpoint()`, to be loaded beside others on one base.

    Args:
        task: as for `shipped_checkpoint`, without `"fill-mask"`.

    Raises:
        ValueError: nothing is shipped for this task.
    """
    _check(task, _shipped_tasks()[1:])
    return _resolved_adapter(task)


def shipped_models() -> dict[str, PeftModel]:
    """All adapters with their heads on one shared encoder.

    Returns:
        By task, models that share the encoder: call `models[task].set_adapter(task)` before using one of them.

    Raises:
        ModuleNotFoundError: the extra `peft` is missing.
    """
    peft = _import_peft()
    models: dict[str, PeftModel] = {}
    encoder = None
    with silence():
        for task in _shipped_tasks()[1:]:
            model = _base_for(task)
            encoder = encoder or model.base_model
            setattr(model, model.base_model_prefix, encoder)
            models[task] = peft.PeftModel.from_pretrained(model, _resolved_adapter(task), adapter_name=task).eval()
    return models


def _import_peft() -> ModuleType:
    try:
        return import_module("peft")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The fine-tuned checkpoints of this package are adapters, which need PEFT: "
            "pip install 'longformer-plus[peft]'.",
            name=error.name,
        ) from error


def _base_for(task: str) -> LongformerPlusPreTrainedModel:
    """The base with a head for a task; the adapter holds the head's weights."""
    config = LongformerPlusConfig.from_json_file(_adapter_source(task) / ADAPTED_CONFIG)
    return _MODELS[task].from_pretrained(_BASE, config=config)


def _check(task: str, allowed: Sequence[str]) -> None:
    if task not in allowed:
        raise ValueError(f"task={task!r} is not allowed: the package ships {', '.join(map(repr, allowed)) or 'none'}.")


def _resolved_adapter(task: str) -> Path:
    """A copy of an adapter whose configuration names the base where it lies on this machine."""

    def write(folder: Path) -> None:
        config = json.loads((_adapter_source(task) / "adapter_config.json").read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = str(_BASE)
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name in ("adapter_model.safetensors", ADAPTED_CONFIG):
            shutil.copy(_adapter_source(task) / name, folder)

    return _written_once(_cache_folder(task) / "adapter", write)


def _merged(task: str) -> Path:
    """The base with an adapter merged into it, and the tokenizer."""

    def write(folder: Path) -> None:
        adapted = _import_peft().PeftModel.from_pretrained(_base_for(task), _resolved_adapter(task))
        adapted.merge_and_unload().save_pretrained(folder)
        AutoTokenizer.from_pretrained(_BASE).save_pretrained(folder)

    return _written_once(_cache_folder(task) / "checkpoint", write)


def _written_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """A folder of the cache. It appears only when it is complete, since other processes may read it."""
    if folder.is_dir():
        return folder
    from ..conversion.writing import new_folder  # imported here, since few programs need it

    try:
        with silence(), new_folder(folder) as draft:
            write(draft)
    except OSError:
        if not folder.is_dir():
            raise
    return folder


@cache
def _cache_folder(task: str) -> Path:
    """The cache folder for these versions of the files; a temporary one if HF_HOME is not writable."""
    # Files only: installers add a folder of compiled code.
    files = sorted(path for folder in (_BASE, _adapter_source(task)) for path in folder.iterdir() if path.is_file())
    digest = hashlib.sha256(str(_BASE).encode())
    for path in files:
        digest.update(path.read_bytes())
    folder = Path(HF_HOME) / "longformer_plus" / f"{task}-{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="longformer_plus."))
