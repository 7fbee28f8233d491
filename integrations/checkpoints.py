"""Loading what was trained for a task: a whole checkpoint, or PEFT's adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, TokenizersBackend

from .tasks import task_named


def load_checkpoint(task: str, checkpoint: str | Path) -> tuple[PreTrainedModel, TokenizersBackend]:
    """A checkpoint's model with the head of a task, and its tokenizer. Adapters are put on their base.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: there is no such task.
    """
    known = task_named(task)
    tokenizer_folder = checkpoint
    if (Path(checkpoint) / "adapter_config.json").is_file():
        from .adapters import load_adapted, tokenizer_of

        model: Any = load_adapted(checkpoint)
        tokenizer_folder = tokenizer_of(checkpoint)
    else:
        model = known.model.from_pretrained(checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, **known.tokenizer_options)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return model.to(device or "cpu").eval(), tokenizer  # type: ignore[return-value]
