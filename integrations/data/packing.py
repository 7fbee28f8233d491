"""Pretraining from text: rows packed full of documents, drawn from sources by weight.

Texts are tokenized once. Their tokens stay on disk, memory-mapped, and later runs find them there. A row depends on
nothing but the seed and its number: so a run resumes at any row at once, in any number of processes, and sees what it
would have seen.

Shapes: N tokens of a row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset as StoredRows
from datasets import Features, List, Value
from datasets.exceptions import DatasetGenerationError
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from .checks import check_text
from .files import state_of
from .sources import iterate_records

# Texts that are tokenized at once: enough for all threads, few enough for whole books.
_TEXTS_OF_A_BATCH = 8


class TextSource:
    """The texts of one file or data set, by number, on disk.

    Args:
        source: see `sources.read_records`.
        columns: see there.

    Raises:
        FileNotFoundError, ValueError: as there.
    """

    def __init__(self, source: str, columns: Mapping[str, str] | None = None) -> None:
        self.source = source
        # What the stored rows are found again by; a file that was written anew is another one.
        known_by = json.dumps([state_of([source]) or source, dict(columns or {})])
        self.fingerprint = hashlib.sha256(known_by.encode()).hexdigest()[:16]
        try:
            rows = StoredRows.from_generator(
                _texts,
                features=Features({"text": Value("large_string"), "characters": Value("int64")}),
                gen_kwargs={"source": source, "columns": dict(columns or {})},
                fingerprint=self.fingerprint,
            )
        except DatasetGenerationError as error:
            raise error.__cause__ or error from None
        self.rows = rows.with_format("arrow")
        self._ends = np.cumsum(rows.data.column("characters").to_numpy())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.rows[index]["text"][0].as_py()

    @property
    def num_characters(self) -> int:
        """How long all texts together are."""
        return int(self._ends[-1])

    def draw(self, room: int, random: np.random.Generator) -> str:
        """A stretch of at most `room` characters, all characters being about equally likely.

        A long text is entered anywhere, at the start of a word; one of up to half of `room` is given whole.
        """
        place = int(random.integers(self.num_characters))
        number = int(np.searchsorted(self._ends, place, side="right"))
        text = self[number]
        start = max(place - (int(self._ends[number]) - len(text)) - room // 2, 0)
        if start:
            start = max(text.find(" ", start, start + room // 2), start)
        return text[start : start + room].strip()


class TokenizedSource:
    """The tokens of all texts of a source, on disk, without special tokens.

    Args:
        source: the texts.
        tokenizer: the tokenizer.

    Raises:
        ValueError: the tokenizer makes no token of any text.
    """

    def __init__(self, source: TextSource, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name = Path(source.source).name
        # Computed by hand: the `datasets` library cannot hash every tokenizer, and would then tokenize again.
        known_by = f"{source.fingerprint} {type(tokenizer).__name__} {_definition(tokenizer)}"

        def tokenize(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
            return {"tokens": tokenizer(batch["text"], add_special_tokens=False, verbose=False)["input_ids"]}

        rows = source.rows.with_format(None).map(
            tokenize,
            batched=True,
            batch_size=_TEXTS_OF_A_BATCH,
            remove_columns=["text", "characters"],
            features=Features({"tokens": List(Value("int32"))}),
            new_fingerprint=hashlib.sha256(known_by.encode()).hexdigest()[:16],
            desc=f"Tokenizing {self.name}",
        )
        self._rows = rows.with_format("arrow")
        lengths = [pc.list_value_length(chunk).to_numpy() for chunk in rows.data.column("tokens").chunks]
        self._ends = np.cumsum(np.concatenate(lengths), dtype=np.int64)
        if not self.num_tokens:
            raise ValueError(f"The tokenizer makes no token of the texts in {source.source}.")

    @property
    def num_tokens(self) -> int:
        """How many tokens all texts have."""
        return int(self._ends[-1])

    def draw(self, room: int, random: np.random.Generator) -> list[int]:
        """A stretch of at most `room` tokens, all tokens being about equally likely.

        A long text is entered anywhere; one of up to half of `room` is given whole.
        """
        place = int(random.integers(self.num_tokens))
        number = int(np.searchsorted(self._ends, place, side="right"))
        tokens = self._rows[number]["tokens"][0].values
        before = int(self._ends[number]) - len(tokens)
        return tokens.slice(max(place - before - room // 2, 0), room).to_pylist()


def _definition(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a tokenizer does, as text: equal for tokenizers that make the same tokens of every text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return json.dumps([repr(tokenizer), tokenizer.get_vocab()])
    # How the last call cut and padded is no part of it, nor are special tokens around documents, which are not stored.
    return json.dumps({**json.loads(backend.to_str()), "truncation": None, "padding": None, "post_processor": None})


class PackedDocuments(Dataset):
    """Rows of exactly N tokens, without padding: stretches of documents, one after another.

    Each has special tokens of its own, and `document_ids` keep them apart. The last is cut where the row is full.

    Args:
        sources: where texts are drawn from.
        tokenizer: the tokenizer.
        max_length: N.
        num_rows: how many rows there are.
        weights: how many of the tokens come from each source, in any unit; by default as many as it has.
        seed: another one gives other rows.

    Raises:
        ValueError: weights are not one positive number for each source.
    """

    def __init__(
        self,
        sources: Sequence[TextSource],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        num_rows: int,
        weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        self.sources = [TokenizedSource(source, tokenizer) for source in sources]
        given = [source.num_tokens for source in self.sources] if weights is None else list(weights)
        if len(given) != len(sources) or not all(weight > 0 for weight in given):
            raise ValueError(f"weights={given} is not allowed: give a positive number for each of the sources.")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.num_rows = num_rows
        self.seed = seed
        self.shares = np.array(given, dtype=np.float64) / sum(given)

    def __len__(self) -> int:
        return self.num_rows

    @property
    def summary(self) -> str:
        """One line for people."""
        shares = ", ".join(
            f"{source.name} {share:.1%}" for source, share in zip(self.sources, self.shares, strict=True)
        )
        return f"{self.num_rows:,} rows of {self.max_length:,} tokens: {shares}"

    def rows_of_text(self) -> float:
        """How many rows all text fills once."""
        return sum(source.num_tokens for source in self.sources) / self.max_length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A row: `input_ids` (N), `document_ids` (N), and the seed by which it is masked."""
        if not 0 <= index < self.num_rows:
            raise IndexError(index)
        random = np.random.default_rng([self.seed, index])
        # All of one source: those of short documents get their share of the tokens too.
        source = self.sources[int(random.choice(len(self.sources), p=self.shares))]
        ids: list[int] = []
        documents: list[int] = []
        while len(ids) < self.max_length:
            room = self.max_length - len(ids)
            body = source.draw(max(room - 2, 1), random)
            piece = [self.tokenizer.bos_token_id, *body, self.tokenizer.eos_token_id][:room]
            documents += [documents[-1] + 1 if documents else 0] * len(piece)
            ids += piece
        return {"input_ids": ids, "document_ids": documents, "masking_seed": int(random.integers(2**62))}


def _texts(source: str, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for record in iterate_records(source, check_text, columns):
        text = record.row["text"]
        yield {"text": text, "characters": len(text)}
