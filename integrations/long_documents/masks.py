"""The words that a masked language model puts in place of the masks of documents of any length.

Shapes: N tokens of one stretch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel, TokenizersBackend

from ..data.stretches import Stretch, StretchReader

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Fill:
    """What may stand in place of a mask.

    Attributes:
        text: the token, without spaces around it.
        score: its probability.
    """

    text: str
    score: float


@dataclass(frozen=True)
class FilledMask:
    """A mask of a document.

    Attributes:
        start: its first character in the document.
        end: the character after its last.
        fills: the likeliest tokens, the likeliest first.
    """

    start: int
    end: int
    fills: list[Fill]


def fill_masks(
    model: PreTrainedModel | PeftModel,
    tokenizer: TokenizersBackend,
    documents: Sequence[str],
    *,
    top_k: int = 5,
    **options: Any,
) -> list[list[FilledMask]]:
    """The likeliest tokens for each mask of documents of any length, from the stretch where it has most context.

    Args:
        model: one with a head for masked language modelling.
        tokenizer: its tokenizer, whose mask token stands in the documents.
        documents: their texts. Of one without a mask no stretch is read.
        top_k: tokens for each mask.
        options: those of `StretchReader`; `batch_size` is 1 by default, since the logits are as wide as the vocabulary.

    Returns:
        For each document its masks, in order.

    Raises:
        TypeError: the model is no Longformer, or has no head for masked language modelling.
        ValueError: an option is out of range, the tokenizer has no mask token, or a document is empty.
    """
    if tokenizer.mask_token_id is None:
        raise ValueError("The tokenizer has no mask token: use one of a masked language model.")
    vocabulary = model.config.vocab_size
    if not 1 <= top_k <= vocabulary:
        raise ValueError(f"top_k={top_k} is not allowed: it must be from 1 to {vocabulary}.")
    reader = StretchReader(model, tokenizer, **{"batch_size": 1, **options})

    def places(stretch: Stretch) -> list[int]:
        start = stretch.tokens.start
        own = range(start + stretch.own.start, start + stretch.own.stop)
        return [place for place in own if stretch.encoding.ids[place] == tokenizer.mask_token_id]

    def judge(stretch: Stretch, logits: dict[str, Tensor]) -> list[FilledMask]:
        if "logits" not in logits or logits["logits"].shape[1:] != (vocabulary,):
            raise TypeError(f"A {type(model).__name__} fills no masks: load it for masked language modelling.")
        masks = []
        for place in places(stretch):
            best = logits["logits"][place].softmax(-1).topk(top_k)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            fills = [Fill(str(tokenizer.decode([token])).strip(), score) for token, score in pairs]
            masks.append(FilledMask(*stretch.encoding.offsets[place], fills))
        return masks

    read = reader.read(documents, judge, is_read=lambda stretch: bool(places(stretch)))
    return [[mask for masks in stretches for mask in masks] for stretches in read]
