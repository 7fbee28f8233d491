"""Embeddings of documents of any length: one vector for each.

Shapes: N tokens of one stretch, E hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, TokenizersBackend

from ..data.stretches import Stretch, StretchReader

if TYPE_CHECKING:
    from peft import PeftModel

POOLINGS = ("mean", "first")


def embed_documents(
    model: PreTrainedModel | PeftModel,
    tokenizer: TokenizersBackend,
    documents: Sequence[str],
    *,
    pooling: str = "mean",
    normalize: bool = False,
    **options: Any,
) -> list[Tensor]:
    """Embeddings of documents; that of one longer than the model is the mean of its stretches', weighted by tokens.

    A stretch's embedding is the mean of all its tokens' last hidden states, special ones included, or that of its first
    token, as sentence-transformers pools.

    Args:
        model: one without a head.
        tokenizer: its tokenizer.
        documents: their texts.
        pooling: "mean" or "first".
        normalize: make every embedding one of length 1.
        options: those of `StretchReader`.

    Returns:
        For each document its (E,) embedding, float32, on the CPU.

    Raises:
        TypeError: the model is no Longformer, or has a head.
        ValueError: an option is out of range, or a document is empty.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling={pooling!r} is not allowed: it must be one of {', '.join(map(repr, POOLINGS))}.")
    reader = StretchReader(model, tokenizer, **options)

    def judge(stretch: Stretch, outputs: dict[str, Tensor]) -> tuple[Tensor, int]:
        if "last_hidden_state" not in outputs:
            raise TypeError(f"A {type(model).__name__} gives no hidden states: load the model without a head.")
        hidden = outputs["last_hidden_state"][: len(stretch.encoding)]
        return hidden[0] if pooling == "first" else hidden.mean(0), stretch.own.stop - stretch.own.start

    embeddings = []
    for stretches in reader.read(documents, judge):
        vectors, weights = zip(*stretches, strict=True)
        mean = torch.tensor(weights, dtype=torch.float32) @ torch.stack(vectors) / sum(weights)
        embeddings.append(F.normalize(mean, dim=0) if normalize else mean)
    return embeddings
