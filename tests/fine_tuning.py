"""Documents, a tokenizer and features for each task, small enough to train on in a test."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from longformer_plus import LongformerPlusTokenizer

from .cases import small_config

WORDS = ("the", "of", "a", "river", "mountain", "king", "walked", "spoke", "old", "stone", "saw", "Berlin", "Paris")


def sentence(generator: random.Random, length: int) -> str:
    return " ".join(generator.choice(WORDS) for _ in range(length))


def rows(task: str, count: int = 12, length: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of data for a task, that a model can learn something from."""
    generator = random.Random(seed)
    made = []
    for index in range(count):
        text = sentence(generator, length + index)
        words = text.split()
        if task in ("fill-mask", "text-generation"):
            row: dict[str, Any] = {"text": text}
        elif task == "text-classification":
            row = {"text": text + (" good" if index % 2 else " bad"), "label": "pos" if index % 2 else "neg"}
        elif task == "text-regression":
            row = {"text": text + " good" * (index % 3), "label": index % 3 - 0.5}
        elif task == "token-classification":
            tags = ["B-LOC" if word in ("Berlin", "Paris") else "O" for word in words]
            row = {"tokens": words, "ner_tags": tags}
        elif task == "question-answering":
            place = generator.randrange(len(words))
            start = len(" ".join(words[:place])) + (place > 0)
            answers = {"text": [words[place]], "answer_start": [start]}
            row = {"question": f"which word {place}", "context": text, "title": f"t{index // 3}", "answers": answers}
        else:
            choices = [sentence(generator, 4) for _ in range(3)]
            row = {"context": text, "question": "what then", "choices": choices, "label": index % 3}
        made.append(row)
    return made


def write_rows(path: Path, lines: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    return str(path)


def small_tokenizer(folder: Path) -> LongformerPlusTokenizer:
    """A tokenizer of 300 entries, trained on the words above; words are of one or several tokens."""
    from longformer_plus.integrations.data.tokenizer import train_tokenizer

    source = write_rows(folder / "text.jsonl", rows("fill-mask"))
    return train_tokenizer([source], 300, max_length=500, num_characters=20_000)


def model_fields(**changes: Any) -> dict[str, Any]:
    """The fields of a small model's configuration, without those that come from its tokenizer."""
    fields = small_config(**changes).to_dict()
    left_out = ("vocab_size", "model_type", "transformers_version", "dtype", "architectures")
    return {
        name: value
        for name, value in fields.items()
        if name not in left_out and not name.endswith("_token_id") and not name.startswith("_") and value is not None
    }
