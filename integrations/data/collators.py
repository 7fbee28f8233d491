"""Data collators, one for each head: from the features of documents to a batch, global attention included.

They take what a tokenizer or a `datasets.Dataset` gives: dicts of lists, arrays or tensors. Fields that no model takes,
texts among them, are left out of the batch, so `remove_unused_columns=False` is safe with `Trainer`.

Shapes: B batch, N tokens, C choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from longformer_plus import (
    LongformerPlusForCausalLM,
    LongformerPlusForMaskedLM,
    LongformerPlusForMultipleChoice,
    LongformerPlusForQuestionAnswering,
    LongformerPlusForSequenceClassification,
    LongformerPlusForTokenClassification,
)
from longformer_plus.attention import places_in, segments_of
from longformer_plus.global_attention import Policy, build_global_attention_mask, check_policy
from longformer_plus.model.losses import IGNORED_LABEL

Feature = dict[str, Tensor]

# What stands on padding, by field.
_FILLING = {
    "input_ids": 0,  # or the tokenizer's padding
    "attention_mask": 0,
    "global_attention_mask": 0,
    "token_type_ids": 0,
    "document_ids": -1,
    "labels": IGNORED_LABEL,
}


@dataclass
class DataCollatorForLongformer:
    """What the collators share: they cut, choose the global tokens, and pad.

    Args:
        tokenizer: says what padding is, and which token separates.
        global_attention: a policy of `longformer_plus.global_attention`, for features that come without a
            `global_attention_mask`. "auto" is the head's own; where that is "none" the model's configuration chooses.
        max_length: cut longer features. Their last token, the closing separator, is kept.
        pad_to_multiple_of: pad to a multiple of this many tokens; the model itself needs no such thing.

    Raises:
        ValueError: the policy is unknown, or a field of a feature has another length than its `input_ids`.
    """

    tokenizer: PreTrainedTokenizerBase
    global_attention: Policy = "auto"
    max_length: int | None = None
    pad_to_multiple_of: int | None = None

    auto_global_attention: ClassVar[Policy] = "none"
    token_fields: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "global_attention_mask", "token_type_ids")

    def __post_init__(self) -> None:
        check_policy(self.global_attention)
        for name in ("max_length", "pad_to_multiple_of"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not allowed: it must be at least 1, or None.")

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch of some features: (B, N) each field of tokens."""
        return self._pad([self._document(feature) for feature in features])

    def _document(self, feature: Mapping[str, Any]) -> Feature:
        """The fields of one document that have a value for each token, (N) each."""
        document = {
            name: torch.as_tensor(feature[name], dtype=torch.long)
            for name in self.token_fields
            if feature.get(name) is not None
        }
        tokens = len(document["input_ids"])
        for name, values in document.items():
            if len(values) != tokens:
                raise ValueError(f"A feature has {len(values)} {name} for {tokens} input_ids: give one for each token.")
        if self.max_length is not None and tokens > self.max_length:
            document = {name: torch.cat([row[: self.max_length - 1], row[-1:]]) for name, row in document.items()}
        document.setdefault("attention_mask", torch.ones_like(document["input_ids"]))
        if "global_attention_mask" not in document:
            self._choose_global_tokens(document)
        return document

    def _choose_global_tokens(self, document: Feature) -> None:
        policy = self.auto_global_attention if self.global_attention == "auto" else self.global_attention
        ids, valid = document["input_ids"][None], document["attention_mask"][None] > 0
        separator = self.tokenizer.sep_token_id
        if "document_ids" in document:
            segments = segments_of(document["document_ids"][None])
            mask = build_global_attention_mask(policy, ids, valid, separator, places_in(segments))
        else:
            mask = build_global_attention_mask(policy, ids, valid, separator)
        if mask is not None:
            document["global_attention_mask"] = mask[0]
        elif self.global_attention != "auto":
            document["global_attention_mask"] = torch.zeros_like(ids[0])

    def _pad(self, documents: Sequence[Feature]) -> dict[str, Tensor]:
        """Documents of any lengths -> (B, N) each field."""
        names = [name for name in _FILLING if any(name in document for document in documents)]
        batch = {}
        for name in names:
            filling = self.tokenizer.pad_token_id if name == "input_ids" else _FILLING[name]
            rows = [_field(document, name) for document in documents]
            batch[name] = self._pad_rows(rows, filling)
        return batch

    def _pad_rows(self, rows: list[Tensor], filling: int) -> Tensor:
        side = self.tokenizer.padding_side
        padded = pad_sequence(rows, batch_first=True, padding_value=filling, padding_side=side)
        missing = -padded.shape[1] % (self.pad_to_multiple_of or 1)
        return F.pad(padded, (missing, 0) if side == "left" else (0, missing), value=filling) if missing else padded


@dataclass
class DataCollatorForLongformerSequenceClassification(DataCollatorForLongformer):
    """For classification of whole documents: `labels` (B,) class ids, or (B, C) floats where each has several.

    A feature's `label` or `labels` is its class. See `DataCollatorForLongformer` for the arguments.
    """

    auto_global_attention: ClassVar[Policy] = LongformerPlusForSequenceClassification.auto_global_attention

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch of some features, with `labels` where they have any."""
        return {**super().__call__(features), **_labels(features)}


@dataclass
class DataCollatorForLongformerQuestionAnswering(DataCollatorForLongformer):
    """For extractive question answering: `start_positions` and `end_positions` (B,), in tokens of the padded rows.

    An answer that `max_length` cuts off gets the position -100, which the loss does not count. See
    `DataCollatorForLongformer` for the arguments.
    """

    auto_global_attention: ClassVar[Policy] = LongformerPlusForQuestionAnswering.auto_global_attention

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch of some features, with the answers' positions where they have any."""
        batch = super().__call__(features)
        if features[0].get("start_positions") is None:
            return batch
        names = ("start_positions", "end_positions")
        spans = torch.tensor([[int(feature[name]) for name in names] for feature in features])
        lengths = torch.tensor([[len(feature["input_ids"])] for feature in features])
        if self.max_length is not None:
            is_cut = (lengths > self.max_length) & (spans >= self.max_length - 1)
            spans = spans.masked_fill(is_cut.any(1, keepdim=True), IGNORED_LABEL)
            lengths = lengths.clamp(max=self.max_length)
        if self.tokenizer.padding_side == "left":
            spans = torch.where(spans < 0, spans, spans + batch["input_ids"].shape[1] - lengths)
        return {**batch, names[0]: spans[:, 0], names[1]: spans[:, 1]}


@dataclass
class DataCollatorForLongformerMultipleChoice(DataCollatorForLongformer):
    """For multiple choice: (B, C, N) each field, and `labels` (B,).

    Each field of a feature is a list over its choices, of which all features of a batch have equally many. See
    `DataCollatorForLongformer` for the arguments.
    """

    auto_global_attention: ClassVar[Policy] = LongformerPlusForMultipleChoice.auto_global_attention

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch of some features, with `labels` where they have any."""
        counts = sorted({len(feature["input_ids"]) for feature in features})
        if len(counts) > 1:
            raise ValueError(
                f"Features with {counts} choices are in one batch: give every question equally many, or use a batch "
                "size of 1."
            )
        documents = [
            self._document({name: feature[name][choice] for name in self.token_fields if feature.get(name) is not None})
            for feature in features
            for choice in range(counts[0])
        ]
        batch = {name: rows.unflatten(0, (-1, counts[0])) for name, rows in self._pad(documents).items()}
        return {**batch, **_labels(features)}


@dataclass
class _DataCollatorByToken(DataCollatorForLongformer):
    """For heads with an output for each token, whose documents may be packed."""

    packing: bool = False

    token_fields: ClassVar[tuple[str, ...]] = (*DataCollatorForLongformer.token_fields, "document_ids", "labels")

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch of some features: a row for each, or one row for all where they are packed."""
        documents = [self._document(feature) for feature in features]
        return self._pad(_pack(documents) if self.packing else documents)


@dataclass
class DataCollatorForLongformerTokenClassification(_DataCollatorByToken):
    """For tagging: `labels` (B, N), -100 on padding.

    Args:
        tokenizer, global_attention, max_length, pad_to_multiple_of: see `DataCollatorForLongformer`.
        packing: lay the documents of a batch one after another in a single row, (1, total tokens), with
            `document_ids` that keep them apart, and no padding.
    """

    auto_global_attention: ClassVar[Policy] = LongformerPlusForTokenClassification.auto_global_attention


@dataclass
class DataCollatorForLongformerMaskedLM(_DataCollatorByToken):
    """For masked language modelling: hides tokens, and gives them as `labels` (B, N), -100 elsewhere.

    Of the tokens chosen 80% become the mask token, 10% another one, and 10% stay. Special tokens are never chosen.

    Args:
        tokenizer, global_attention, max_length, pad_to_multiple_of: see `DataCollatorForLongformer`.
        packing: see `DataCollatorForLongformerTokenClassification`.
        masked_share: the share of the tokens that is chosen.

    A feature with a `masking_seed` is masked the same way whenever it is collated: so a run that is resumed sees what
    one that was not interrupted sees. Others are masked by torch's global random numbers, each time anew.

    Raises:
        ValueError: the share is not between 0 and 1, or the tokenizer has no mask token.
    """

    masked_share: float = 0.15
    _masking: DataCollatorForLanguageModeling = field(init=False, repr=False)

    auto_global_attention: ClassVar[Policy] = LongformerPlusForMaskedLM.auto_global_attention

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.masked_share < 1:
            raise ValueError(f"masked_share={self.masked_share} is not allowed: it must be between 0 and 1.")
        self._masking = DataCollatorForLanguageModeling(self.tokenizer, mlm_probability=self.masked_share)

    def _document(self, feature: Mapping[str, Any]) -> Feature:
        document = super()._document({name: value for name, value in feature.items() if name != "labels"})
        ids = document["input_ids"]
        special = torch.isin(ids, torch.tensor(self.tokenizer.all_special_ids)) | (document["attention_mask"] == 0)
        seed = feature.get("masking_seed")
        self._masking.generator = None if seed is None else torch.Generator().manual_seed(int(seed))
        hidden, labels = self._masking.torch_mask_tokens(ids[None].clone(), special[None])
        return {**document, "input_ids": hidden[0], "labels": labels[0]}


@dataclass
class DataCollatorForLongformerCausalLM(_DataCollatorByToken):
    """For causal language modelling: `labels` (B, N), the input itself, which the model shifts.

    They are -100 on padding, and on the first token of each document, which nothing predicts: so the labels that are
    left are as many as the losses, and gradients are exact under accumulation too. A feature may have `labels` of its
    own, such as -100 on a prompt that is not to be learned.

    Args:
        tokenizer, global_attention, max_length, pad_to_multiple_of: see `DataCollatorForLongformer`.
        packing: see `DataCollatorForLongformerTokenClassification`.
    """

    auto_global_attention: ClassVar[Policy] = LongformerPlusForCausalLM.auto_global_attention

    def _document(self, feature: Mapping[str, Any]) -> Feature:
        document = super()._document(feature)
        ids, valid = document["input_ids"], document["attention_mask"] > 0
        numbers = document.get("document_ids", torch.zeros_like(ids))
        follows = F.pad((numbers[1:] == numbers[:-1]) & valid[:-1], (1, 0), value=False)
        labels = document.get("labels", ids).masked_fill(~(valid & follows), IGNORED_LABEL)
        return {**document, "labels": labels}


def _pack(documents: Iterable[Feature]) -> list[Feature]:
    """Documents -> one row of all their valid tokens, numbered by `document_ids`."""
    rows: list[Feature] = []
    count = 0
    for document in documents:
        numbers = document.get("document_ids", torch.zeros_like(document["input_ids"]))
        document = {**document, "document_ids": numbers - numbers.min() + count}
        count = int(document["document_ids"].max()) + 1
        valid = document["attention_mask"] > 0
        rows.append({name: values[valid] for name, values in document.items()})
    names = [name for name in _FILLING if any(name in row for row in rows)]
    return [{name: torch.cat([_field(row, name) for row in rows]) for name in names}]


def _field(document: Feature, name: str) -> Tensor:
    """A field of a document, or what stands for it where only others of the batch have it: (N)."""
    return document[name] if name in document else torch.full_like(document["input_ids"], _FILLING[name])


def _labels(features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """The labels of whole documents, under whichever name they have."""
    name = "labels" if features[0].get("labels") is not None else "label"
    if features[0].get(name) is None:
        return {}
    labels = torch.tensor([_plain(feature[name]) for feature in features])
    return {"labels": labels}


def _plain(label: Any) -> Any:
    return label.tolist() if hasattr(label, "tolist") else label
