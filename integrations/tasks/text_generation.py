"""Causal language modelling: each token is predicted from those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from longformer_plus import LongformerPlusForCausalLM

from ..data.checks import check_text
from ..data.collators import DataCollatorForLongformerCausalLM
from .task import Scorer, Task, first_logits, likeliest_tokens, score_tokens


def _scorer(prepared: Any, names: Sequence[str]) -> Scorer:
    def score(predictions: Any, labels: np.ndarray) -> dict[str, float]:
        return score_tokens(predictions, labels[:, 1:])

    return score


def _shrink_logits(logits: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N - 1) likeliest tokens and losses, of the tokens from the second on."""
    return likeliest_tokens(first_logits(logits)[:, :-1], labels[:, 1:])


TASK = Task(
    name="text-generation",
    aliases=("causal-lm",),
    model=LongformerPlusForCausalLM,
    collator=DataCollatorForLongformerCausalLM,
    columns={"text": "of any length"},
    check_input=check_text,
    check=check_text,
    is_packed=True,
    # The tokenizer is saved with the model, for prompts that the model continues.
    tokenizer_options={"close_documents": False},
    scorer=_scorer,
    scores=("accuracy", "token_loss", "perplexity"),
    shrink_logits=_shrink_logits,
    logits_dimensions=3,
    peft_type="CAUSAL_LM",
    has_onnx=False,
)
