"""Tagging: a class for each word, and the entities that these make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TokenizersBackend

from longformer_plus import LongformerPlusForTokenClassification
from longformer_plus.model.losses import IGNORED_LABEL

from ..data.checks import check_text, list_of, require
from ..data.collators import DataCollatorForLongformerTokenClassification
from ..data.features import Prepared, class_names, prepare_tagging
from ..data.sources import Record, Row
from ..long_documents import find_entities, tag_documents
from .task import HeldOut, Preparation, Scorer, Scores, Task, first_logits


def _check_input(row: Row) -> None:
    if "tokens" in row or "text" not in row:
        _check_words(row)
    else:
        check_text(row)


def _check_words(row: Row) -> None:
    words = list_of(row, "tokens")
    require(bool(words), "'tokens' is empty")
    require(all(isinstance(word, str) for word in words), "'tokens' holds something that is not a string")


def _check(row: Row) -> None:
    _check_words(row)
    words, tags = row["tokens"], list_of(row, "ner_tags")
    require(len(tags) == len(words), f"{len(tags)} ner_tags for {len(words)} tokens: give one for each")
    for tag in tags:
        require(isinstance(tag, (str, int)), f"the tag {tag!r:.80} is neither a string nor an int")
        require(not isinstance(tag, int) or tag >= 0, f"tag {tag} is out of range: classes are numbered from 0")
    if row.get("global_attention_mask") is not None:
        mask = list_of(row, "global_attention_mask")
        require(
            len(mask) == len(words),
            f"a global_attention_mask of {len(mask)} entries for {len(words)} tokens: give one for each",
        )
        require(set(mask) <= {0, 1}, "global_attention_mask holds something else than 0 and 1")


def _class_names(records: Sequence[Record]) -> list[str]:
    return class_names(records, "ner_tags")


def _configure(records: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def _prepare(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, options: Preparation) -> Prepared:
    return prepare_tagging(records, tokenizer, options.names, options.max_length, options.overlap)


def _shrink_logits(logits: Any, labels: Tensor) -> Tensor:
    """(B, N) the likeliest classes."""
    return first_logits(logits).argmax(-1)


def _scorer(prepared: Prepared, names: Sequence[str]) -> Scorer:
    if not names:
        raise ValueError("Tagging is evaluated by the names of the tags: give them, by id.")
    from ..metrics import EntityMetric

    def score(guesses: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        # Each word is labelled in one stretch of its document: put these together again.
        by_document: dict[int, tuple[list[str], list[str]]] = {}
        for document, guess, label in zip(prepared.document_of, guesses, labels, strict=True):
            words = label != IGNORED_LABEL
            for tags, ids in zip(by_document.setdefault(document, ([], [])), (guess, label), strict=True):
                tags += [names[index] for index in ids[words]]
        predictions, references = zip(*by_document.values(), strict=True)
        return EntityMetric().compute(predictions=list(predictions), references=list(references)) or {}

    return score


def _evaluate(model: PreTrainedModel, tokenizer: TokenizersBackend, held_out: HeldOut) -> Scores:
    """The scores of whole entities, and those of each word's commonest tag."""
    from ..metrics import EntityMetric
    from ..metrics.baselines import tag_by_word

    documents, truths = ([record.row[name] for record in held_out.records] for name in ("tokens", "ner_tags"))
    found = tag_documents(model, tokenizer, documents, **held_out.reading)
    guesses = {"model": [[tag.label for tag in tags] for tags in found]}
    if held_out.learned:
        learned, tags = ([record.row[name] for record in held_out.learned] for name in ("tokens", "ner_tags"))
        guesses["commonest tag of the word"] = tag_by_word(learned, tags, documents)
    return {name: EntityMetric().compute(predictions=tags, references=truths) or {} for name, tags in guesses.items()}


def _predict(
    model: PreTrainedModel, tokenizer: TokenizersBackend, rows: Sequence[Row], **options: Any
) -> list[dict[str, Any]]:
    """The `entities` of each row, a text or words; of words their `tags` as well."""
    documents = [row["tokens"] if "tokens" in row else row["text"] for row in rows]
    found = tag_documents(model, tokenizer, documents, **options)
    return [
        {
            **({} if isinstance(document, str) else {"tags": [tag.label for tag in tags]}),
            "entities": [asdict(entity) for entity in find_entities(document, tags)],
        }
        for document, tags in zip(documents, found, strict=True)
    ]


TASK = Task(
    name="token-classification",
    model=LongformerPlusForTokenClassification,
    collator=DataCollatorForLongformerTokenClassification,
    columns={
        "tokens": "a list of words",
        "ner_tags": "a tag for each",
        "global_attention_mask": "optional: 0 or 1 for each",
    },
    check_input=_check_input,
    check=_check,
    # Words are tokenized as if after a space.
    tokenizer_options={"add_prefix_space": True},
    class_names=_class_names,
    configure=_configure,
    prepare=_prepare,
    shrink_logits=_shrink_logits,
    logits_dimensions=3,
    scorer=_scorer,
    scores=("precision", "recall", "f1", "accuracy"),
    evaluate=_evaluate,
    evaluation="F1 of entities; baseline, with --train: the commonest tag of each word",
    predict=_predict,
    peft_type="TOKEN_CLS",
)
