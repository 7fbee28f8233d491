"""Masked language modelling: the words that were hidden.

Shapes: N tokens of a document, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, TokenizersBackend
from transformers.utils import logging
from transformers.utils.logging import tqdm

from longformer_plus import LongformerPlusForMaskedLM, LongformerPlusPreTrainedModel

from ..data.checks import check_text
from ..data.collators import DataCollatorForLongformerMaskedLM
from ..data.sources import Record, Row
from ..long_documents import fill_masks
from .task import HeldOut, Scorer, Scores, Task, likeliest_tokens, score_tokens

logger = logging.get_logger(__name__)

# Long documents are read in so many places, as far apart as they can be.
_STRETCHES_OF_A_DOCUMENT = 4
_TOKENS_OF_A_BATCH = 16384


def _initialize(model: LongformerPlusPreTrainedModel) -> None:
    """Let the heads of a new model look at the neighbours of each token."""
    from ..recipes.neighbours_first import attend_to_neighbours

    attend_to_neighbours(model)


def _join(records: Sequence[Record], by: str) -> list[Record]:
    """Paragraphs -> articles: the texts with the same value in a column, each once."""
    articles: dict[Any, dict[str, Record]] = {}
    for record in records:
        if by not in record.row:
            raise ValueError(f"{record.where}: has no {by!r} to join paragraphs by.")
        articles.setdefault(record.row[by], {}).setdefault(record.row["text"], record)
    return [
        Record(next(iter(paragraphs.values())).where, {by: value, "text": "\n\n".join(paragraphs)})
        for value, paragraphs in articles.items()
    ]


def _scorer(prepared: Any, names: Sequence[str]) -> Scorer:
    return score_tokens


def _evaluate(model: PreTrainedModel, tokenizer: TokenizersBackend, held_out: HeldOut) -> Scores:
    """The same hidden tokens predicted from the whole stretch and from its pieces, by source."""
    from ..metrics import TokenMetric

    contexts = _contexts(model, held_out)
    scores: Scores = {}
    for source, records in held_out.by_source.items():
        texts = [record.row["text"] for record in records]
        stretches = list(_stretches(texts, tokenizer, held_out.contexts))
        if not stretches:
            continue
        losses = []
        for context in contexts:
            name = f"{Path(source).name}, {context} tokens"
            metric, means = TokenMetric(), []
            for ids in tqdm(stretches, desc=name):
                hidden = _hide(ids, held_out.seed)
                guesses, nats = _predict_hidden(model, tokenizer, ids, hidden, context)
                metric.add_batch(predictions=guesses, references=ids[hidden], losses=nats)
                means.append(float(nats.mean()))
            losses.append(means)
            scores[name] = {**(metric.compute() or {}), "stretches": float(len(stretches))}
        if len(contexts) > 1:
            shortest, longest = np.array(losses[0]), np.array(losses[-1])
            scores[name]["no_worse_than_shortest"] = float((longest <= shortest).mean())
    if not scores:
        raise ValueError(f"No document is longer than the shortest context of {held_out.contexts[0]} tokens.")
    return scores


def _contexts(model: PreTrainedModel, held_out: HeldOut) -> list[int]:
    """The lengths that the model has positions for."""
    room = getattr(model.config, "max_tokens", model.config.max_position_embeddings - 2)
    contexts = [context for context in held_out.contexts if context <= room]
    if not contexts:
        raise ValueError(f"contexts={list(held_out.contexts)} are too long: the model has positions for {room} tokens.")
    if skipped := held_out.contexts[len(contexts) :]:
        logger.warning(f"Not read in pieces of {', '.join(map(str, skipped))}: the model has {room} positions.")
    return contexts


def _stretches(texts: Sequence[str], tokenizer: TokenizersBackend, contexts: Sequence[int]) -> Iterator[Tensor]:
    """(N) token ids, without special tokens, of a few places of each text that has more than the shortest context.

    N is a whole number of shortest contexts, so that no piece is shorter than they are.
    """
    piece = contexts[0] - 2
    for text in texts:
        ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        length = min(len(ids), contexts[-1] - 2) // piece * piece
        if length <= piece:
            continue
        count = min(len(ids) // length, _STRETCHES_OF_A_DOCUMENT)
        for start in np.linspace(0, len(ids) - length, count).astype(int).tolist():
            yield ids[start : start + length]


def _hide(ids: Tensor, seed: int) -> Tensor:
    """(N) bool, about every seventh True, the same for the same number of tokens."""
    return torch.rand(len(ids), generator=torch.Generator().manual_seed(seed)) < 0.15


@torch.no_grad()
def _predict_hidden(
    model: PreTrainedModel, tokenizer: TokenizersBackend, ids: Tensor, hidden: Tensor, context: int
) -> tuple[Tensor, Tensor]:
    """The likeliest of the hidden tokens, and the negative log-likelihood of the true ones, read in pieces."""
    shown = ids.masked_fill(hidden, tokenizer.mask_token_id)
    logits = []
    size = context - 2
    for rows, are_hidden in zip(_rows(shown, size), _rows(hidden, size), strict=True):
        first, last = (torch.full_like(rows[:, :1], end) for end in (tokenizer.bos_token_id, tokenizer.eos_token_id))
        inputs = torch.cat([first, rows, last], 1).to(model.device)
        logits.append(model(input_ids=inputs).logits[:, 1:-1].cpu()[are_hidden].float())
    found = torch.cat(logits)
    return found.argmax(-1), F.cross_entropy(found, ids[hidden], reduction="none")


def _rows(tokens: Tensor, size: int) -> Iterator[Tensor]:
    """(N) -> (B, size), as many rows at once as a batch may hold; what is left over is a last, shorter row."""
    whole = len(tokens) // size * size
    if whole:
        yield from tokens[:whole].view(-1, size).split(max(_TOKENS_OF_A_BATCH // size, 1))
    if whole < len(tokens):
        yield tokens[None, whole:]


def _predict(
    model: PreTrainedModel, tokenizer: TokenizersBackend, rows: Sequence[Row], **options: Any
) -> list[dict[str, Any]]:
    """The `masks` of each row: where each stands, and its likeliest tokens. `options` are those of `fill_masks`."""
    found = fill_masks(model, tokenizer, [row["text"] for row in rows], **options)
    return [{"masks": [asdict(mask) for mask in masks]} for masks in found]


def fill_prompts(
    model: PreTrainedModel, tokenizer: TokenizersBackend, prompts: Sequence[str], top_k: int = 5
) -> dict[str, list[str]]:
    """The likeliest tokens in place of the one mask of each prompt.

    Raises:
        ValueError: a prompt has no mask, or several.
    """
    for prompt in prompts:
        if (count := prompt.count(str(tokenizer.mask_token))) != 1:
            raise ValueError(f"{prompt!r} has {count} masks: write {tokenizer.mask_token} exactly once.")
    found = fill_masks(model, tokenizer, prompts, top_k=top_k)
    return {prompt: [fill.text for fill in mask.fills] for prompt, (mask,) in zip(prompts, found, strict=True)}


TASK = Task(
    name="fill-mask",
    aliases=("masked-lm",),
    model=LongformerPlusForMaskedLM,
    collator=DataCollatorForLongformerMaskedLM,
    columns={"text": "of any length"},
    check_input=check_text,
    check=check_text,
    is_packed=True,
    collator_options=("masked_share",),
    initialize=_initialize,
    join=_join,
    shrink_logits=likeliest_tokens,
    logits_dimensions=3,
    scorer=_scorer,
    scores=("accuracy", "token_loss", "perplexity"),
    evaluate=_evaluate,
    evaluation="loss and accuracy of the same hidden tokens, read in pieces of each context's length",
    compares_contexts=True,
    predict=_predict,
    # The decoder is the word embeddings' matrix, and stays as it is.
    modules_to_save=("lm_head.dense", "lm_head.layer_norm"),
)
