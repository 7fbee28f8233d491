"""From rows to features: long documents cut into overlapping stretches, and what that loses counted.

Each function takes records (`sources.Record`) that were checked, and gives features that the collators take.

A stretch is a part of a document that fits the model. Shapes: N tokens of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from longformer_plus.model.losses import IGNORED_LABEL

from .sources import Record
from .stretches import overlapping_spans

Feature = dict[str, Any]


@dataclass
class Prepared(Dataset):
    """Features, and what became of the documents.

    Attributes:
        features: what the collator takes, one for each stretch.
        document_of: the document, by number, that each feature is of.
        summary: one line for people: how many there are, and what was lost.
        weights: for each feature of a whole document, how many of its tokens no other one of the document counts.
    """

    features: Sequence[Feature]
    document_of: list[int]
    summary: str
    weights: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Feature:
        return self.features[index]


def class_names(records: Sequence[Record], column: str) -> list[str]:
    """The classes that a column of some rows has, in order: numbers by value, up to the largest; names by alphabet.

    Args:
        records: rows whose column holds a class, or a list of classes.
        column: such as "label".

    Raises:
        ValueError: some are numbers and some are names; or there are fewer than two.
    """
    labels: set[str | int] = set()
    for record in records:
        label = record.row[column]
        labels.update(label if isinstance(label, list) else [label])
    numbers = [label for label in labels if isinstance(label, int)]
    if numbers and len(numbers) < len(labels):
        raise ValueError(f"Some labels are numbers and some are names: {sorted(map(str, labels))}. Use one kind.")
    names = list(map(str, range(max(numbers) + 1))) if numbers else sorted(map(str, labels))
    if len(names) < 2:
        found = f"All rows have the label {names[0]!r}" if names else "No row has a label"
        raise ValueError(f"{found}: there is nothing to learn. Give rows of two classes.")
    return names


def _class_id(names: dict[str, int], label: str | int, record: Record) -> int:
    if str(label) not in names:
        allowed = ", ".join(map(repr, list(names)[:20]))
        raise ValueError(f"{record.where}: label {label!r} is out of range: the classes are {allowed}.")
    return names[str(label)]


def prepare_classification(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    max_length: int,
    overlap: int = 128,
) -> Prepared:
    """Features for sequence classification; see `prepare_documents`.

    Args:
        records: rows of `text` and `label`.
        names: the classes, by id.

    Raises:
        ValueError: a row has another label than these, and the message names its file and line; or some rows have one
            label and others a list of them.
    """
    ids = {name: index for index, name in enumerate(names)}
    if len({isinstance(record.row["label"], list) for record in records}) > 1:
        raise ValueError("Some rows have a label and others a list of labels: give every row a list.")
    labels = [_document_label(ids, record) for record in records]
    return prepare_documents(records, tokenizer, labels, max_length, overlap)


def prepare_documents(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[Any],
    max_length: int,
    overlap: int = 128,
) -> Prepared:
    """Features of whole documents of any length: stretches, each with the label of its document.

    Args:
        records: rows of `text`.
        labels: what the model learns of each document.
        max_length: tokens of a stretch, special ones included.
        overlap: tokens that neighbouring stretches share; no more than half of a stretch.
    """
    room = max_length - tokenizer.num_special_tokens_to_add()
    features: list[Feature] = []
    document_of, weights = [], []
    total = beyond = 0
    for number, (record, label) in enumerate(zip(records, labels, strict=True)):
        tokens = encode_text(tokenizer, record.row["text"]).tolist()
        total += len(tokens)
        beyond += max(len(tokens) - room, 0)
        for start, stop, first, last in overlapping_spans(len(tokens), room, min(overlap, room // 2)):
            features.append({"input_ids": _surround(tokenizer, tokens[start:stop]), "labels": label})
            document_of.append(number)
            weights.append(max(last - first, 1))
    summary = (
        f"{len(records):,} documents of {total / len(records):,.0f} tokens in {len(features):,} stretches; "
        f"{beyond / max(total, 1):.1%} of the tokens lie beyond the first stretches, and would be lost if cut"
    )
    return Prepared(features, document_of, summary, weights)


def _document_label(ids: dict[str, int], record: Record) -> int | list[float]:
    label = record.row["label"]
    if not isinstance(label, list):
        return _class_id(ids, label, record)
    chosen = {_class_id(ids, each, record) for each in label}
    return [float(index in chosen) for index in range(len(ids))]


def prepare_tagging(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    max_length: int,
    overlap: int = 128,
) -> Prepared:
    """Features for token classification of pre-split words, of documents of any length.

    A word's label stands on its first token. Where two stretches overlap, a word is labelled in the one that shows more
    of its surroundings, so that each counts once.

    Args:
        records: rows of `tokens` and `ner_tags`, perhaps of `global_attention_mask` by word.
        tokenizer: with `add_prefix_space=True`.
        names: the tags, by id.
        max_length: tokens of a stretch, special ones included.
        overlap: tokens that neighbouring stretches share.

    Raises:
        ValueError: a tag is none of these, and the message names file and line; or there is no room for a stretch.
    """
    ids = {name: index for index, name in enumerate(names)}
    room = max_length - tokenizer.num_special_tokens_to_add()
    features: list[Feature] = []
    document_of: list[int] = []
    for number, record in enumerate(records):
        words = record.row["tokens"]
        encoding = tokenizer(words, is_split_into_words=True, add_special_tokens=False, verbose=False)
        word_of = np.array(encoding.word_ids())
        is_first = np.diff(word_of, prepend=-1) != 0
        tags = np.array([_class_id(ids, tag, record) for tag in record.row["ner_tags"]])
        labels = np.where(is_first, tags[word_of], IGNORED_LABEL)
        word_mask = record.row.get("global_attention_mask")
        for start, stop, first, last in overlapping_spans(len(word_of), room, overlap):
            here = labels[start:stop].copy()
            here[: first - start] = here[last - start :] = IGNORED_LABEL
            feature: Feature = {
                "input_ids": _surround(tokenizer, encoding["input_ids"][start:stop]),
                "labels": np.concatenate([[IGNORED_LABEL], here, [IGNORED_LABEL]]),
            }
            if word_mask is not None:
                is_global = np.array(word_mask)[word_of[start:stop]]
                feature["global_attention_mask"] = np.concatenate([[0], is_global, [0]])
            features.append(feature)
            document_of.append(number)
    summary = f"{len(records):,} documents in {len(features):,} stretches; every word is labelled once"
    return Prepared(features, document_of, summary)


def prepare_choices(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Prepared:
    """Features for multiple choice: the context with the question and each choice, the context cut where too long.

    Args:
        records: rows of `choices` and `label`, perhaps of `context` and `question`.

    Raises:
        ValueError: a question with a choice alone is longer than `max_length`; the message names file and line.
    """
    features, cut = [], 0
    for record in records:
        row = record.row
        parts = [" ".join(filter(None, (row.get("question"), choice))) for choice in row["choices"]]
        context = row.get("context") or ""
        lengths = [len(encode_text(tokenizer, part)) for part in parts]
        special = tokenizer.num_special_tokens_to_add(pair=True)
        if max(lengths) + special > max_length:
            raise ValueError(
                f"{record.where}: question and choice have {max(lengths)} tokens; {max_length - special} fit."
            )
        cut += len(encode_text(tokenizer, context)) + max(lengths) + special > max_length
        encoding = tokenizer([context] * len(parts), parts, truncation="only_first", max_length=max_length)
        features.append({"input_ids": encoding["input_ids"], "labels": int(row["label"])})
    summary = f"{len(features):,} questions; of {cut / max(len(features), 1):.1%} the context is cut"
    return Prepared(features, list(range(len(features))), summary)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> np.ndarray:
    """The ids of a text of any length, without special tokens."""
    return np.array(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int32)


def _surround(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> np.ndarray:
    return np.array([tokenizer.cls_token_id, *ids, tokenizer.sep_token_id], dtype=np.int32)
