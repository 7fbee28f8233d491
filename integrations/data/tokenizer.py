"""Training a tokenizer on text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from tokenizers import ByteLevelBPETokenizer

from longformer_plus import LongformerPlusTokenizer

from .packing import TextSource

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def train_tokenizer(
    sources: Sequence[str],
    vocab_size: int,
    max_length: int = 4096,
    weights: Sequence[float] | None = None,
    columns: Mapping[str, str] | None = None,
    num_characters: int = 20_000_000,
    seed: int = 0,
) -> LongformerPlusTokenizer:
    """A byte-level BPE tokenizer, trained on stretches of texts.

    Args:
        sources: see `sources.read_records`.
        vocab_size: entries, special tokens and the 256 bytes included.
        max_length: the longest input that the tokenizer will cut to when it is asked to.
        weights: as in `PackedDocuments`.
        num_characters: how much text is looked at.

    Raises:
        ValueError: the vocabulary has no room for the bytes.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size={vocab_size} is not allowed: bytes and special tokens take {smallest} entries.")
    texts = [TextSource(source, columns) for source in sources]
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(
        _sample(texts, weights, num_characters, seed), vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS)
    )
    learned = json.loads(trainer.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    return LongformerPlusTokenizer(learned["vocab"], merges, model_max_length=max_length)  # type: ignore[arg-type]


def _sample(
    sources: Sequence[TextSource], weights: Sequence[float] | None, num_characters: int, seed: int
) -> Iterator[str]:
    random = np.random.default_rng(seed)
    shares = np.array([source.num_characters for source in sources] if weights is None else weights, dtype=np.float64)
    while num_characters > 0:
        text = sources[int(random.choice(len(sources), p=shares / shares.sum()))].draw(20_000, random)
        num_characters -= max(len(text), 1)
        yield text
