"""What the models return: transformers' own output classes, each with `global_attentions` at its end.

Shapes: B batch, N tokens, H heads, G global tokens, W attention window of the layer.

attentions: one (B, H, N, G + W + 1) per layer. The first G columns are the global tokens of the row in order of
    position; the W + 1 others are the window, the token itself in its middle. A global token in the window has weight 0
    there, since it stands in the first columns; rows of tokens that attend globally, and of padding, are 0. In a head
    of dilation d, neighbouring columns of the window are d tokens apart; in a causal model those after its middle are
    0.
global_attentions: one (B, H, N, G) per layer: entry (b, h, j, g) is the weight that the g-th global token gives to
    token j. None when no token of the batch is global.

In generation N counts the new tokens of a forward.

The layout is that of transformers' Longformer, trimmed to N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor
from transformers import Cache
from transformers import modeling_outputs as base

from .padding import Padding


@dataclass
class LongformerPlusModelOutput(base.BaseModelOutputWithPooling):
    """Output of LongformerPlusModel."""

    last_hidden_state: Tensor = None  # type: ignore[assignment]
    global_attentions: tuple[Tensor, ...] | None = None
    past_key_values: Cache | None = None
    # Not an output: heads that work token by token use it to skip padding.
    padding = cast("Padding | None", None)


@dataclass
class LongformerPlusCausalLMOutput(base.CausalLMOutputWithPast):
    """Output of LongformerPlusForCausalLM."""

    global_attentions: tuple[Tensor, ...] | None = None


@dataclass
class LongformerPlusMaskedLMOutput(base.MaskedLMOutput):
    """Output of LongformerPlusForMaskedLM."""

    global_attentions: tuple[Tensor, ...] | None = None


@dataclass
class LongformerPlusSequenceClassifierOutput(base.SequenceClassifierOutput):
    """Output of LongformerPlusForSequenceClassification."""

    global_attentions: tuple[Tensor, ...] | None = None


@dataclass
class LongformerPlusQuestionAnsweringOutput(base.QuestionAnsweringModelOutput):
    """Output of LongformerPlusForQuestionAnswering."""

    global_attentions: tuple[Tensor, ...] | None = None


@dataclass
class LongformerPlusTokenClassifierOutput(base.TokenClassifierOutput):
    """Output of LongformerPlusForTokenClassification."""

    global_attentions: tuple[Tensor, ...] | None = None


@dataclass
class LongformerPlusMultipleChoiceOutput(base.MultipleChoiceModelOutput):
    """Output of LongformerPlusForMultipleChoice."""

    global_attentions: tuple[Tensor, ...] | None = None
