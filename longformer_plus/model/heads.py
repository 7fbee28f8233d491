"""The task heads: LongformerPlusFor...

Each runs the encoder and puts a small network on its states. Every signature names the columns of a batch, since
`Trainer` looks for them. `LongformerPlusModel.forward` documents them, and receives all other arguments. Parameter
names are those of transformers' Longformer heads.

Shapes: B batch, N tokens, E hidden size, C classes or choices, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.processing_utils import Unpack
from transformers.utils import can_return_tuple

from ..configuration import LongformerPlusConfig
from ..ops import apply_linear
from .arguments import EncoderArguments
from .encoder import LongformerPlusModel
from .losses import IGNORED_LABEL, Count, sequence_loss, span_loss, token_loss
from .outputs import (
    LongformerPlusMaskedLMOutput,
    LongformerPlusModelOutput,
    LongformerPlusMultipleChoiceOutput,
    LongformerPlusQuestionAnsweringOutput,
    LongformerPlusSequenceClassifierOutput,
    LongformerPlusTokenClassifierOutput,
)
from .padding import Padding
from .pretrained import LongformerPlusPreTrainedModel


class LongformerPlusHead(LongformerPlusPreTrainedModel):
    """An encoder with a task head."""

    longformer: LongformerPlusModel

    def add_encoder(self, add_pooling_layer: bool = False) -> None:
        """Make the encoder, and give it this head's meaning of global_attention="auto"."""
        self.longformer = LongformerPlusModel(self.config, add_pooling_layer)
        self.longformer.auto_global_attention = self.auto_global_attention

    def own(self, rows: Tensor) -> Tensor:
        """(B, N, ...) -> those of the tokens whose states the encoder gives: all, but where it is split."""
        split = self.longformer.sequence_split
        return rows if split is None else split.own(rows)

    def token_loss(self, logits: Tensor, labels: Tensor, num_items_in_batch: Count = None) -> Tensor:
        """`losses.token_loss` of the whole batch, from the logits of those tokens and all labels (B, N)."""
        split = self.longformer.sequence_split
        loss = token_loss if split is None else split.token_loss
        return loss(logits, labels, num_items_in_batch)


def recorded(outputs: LongformerPlusModelOutput) -> dict[str, Any]:
    """The fields that every head's output takes from the encoder's."""
    return {name: outputs.get(name) for name in ("hidden_states", "attentions", "global_attentions")}


class LongformerPlusLMHead(nn.Module):
    """Dense, GELU and normalisation, then the vocabulary (its matrix tied to the word embeddings)."""

    def __init__(self, config: LongformerPlusConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, N, E) -> (B, N, V)."""
        transformed = self.layer_norm(F.gelu(apply_linear(self.dense, hidden_states)))
        return apply_linear(self.decoder, transformed)


class LongformerPlusLanguageModel(LongformerPlusHead):
    """An encoder with a language modelling head, the base of masked and causal language models."""

    _tied_weights_keys = {
        "lm_head.decoder.weight": "longformer.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.add_encoder()
        self.lm_head = LongformerPlusLMHead(self.config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The layer that gives the logits."""
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the layer that gives the logits."""
        self.lm_head.decoder = new_embeddings

    def logits(self, hidden_states: Tensor, padding: Padding | None = None) -> Tensor:
        """(B, N, E) -> (B, N, V), not computed for the tokens that `padding` takes out."""
        if padding is None:
            return self.lm_head(hidden_states)
        return padding.restore(self.lm_head(padding.remove(hidden_states)))


class LongformerPlusForMaskedLM(LongformerPlusLanguageModel):
    """Masked language modelling."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        document_ids: Tensor | None = None,
        max_global_tokens: int | None = None,
        num_items_in_batch: Count = None,
        **kwargs: Unpack[EncoderArguments],
    ) -> LongformerPlusMaskedLMOutput:
        """
        Args:
            labels: (B, N) token ids to predict, -100 for tokens without a label.

        Returns:
            LongformerPlusMaskedLMOutput: `logits` (B, N, V), and `loss` where labels are given. While a model with
            `config.sparse_prediction` is trained with labels, the logits are those of the labelled tokens alone.
        """
        outputs = self.longformer(
            input_ids,
            attention_mask,
            global_attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            document_ids=document_ids,
            max_global_tokens=max_global_tokens,
            **{**kwargs, "return_dict": True},
        )
        states = outputs.last_hidden_state
        if labels is not None and self.training and self.config.sparse_prediction:
            logits = self.logits(states[self.own(labels.to(states.device)) != IGNORED_LABEL])
        else:
            logits = self.logits(states, outputs.padding)
        loss = None if labels is None else self.token_loss(logits, labels, num_items_in_batch)
        return LongformerPlusMaskedLMOutput(loss=loss, logits=logits, **recorded(outputs))


class LongformerPlusClassificationHead(nn.Module):
    """Dense and tanh on the first token, then the classes."""

    def __init__(self, config: LongformerPlusConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)  # type: ignore[arg-type]

    def forward(self, first_token: Tensor) -> Tensor:
        """(B, E) -> (B, C)."""
        hidden = torch.tanh(self.dense(self.dropout(first_token)))
        return self.out_proj(self.dropout(hidden))


class LongformerPlusForSequenceClassification(LongformerPlusHead):
    """Classification or regression of whole documents, from the first valid token; of a causal model, from the last."""

    auto_global_attention = "cls"

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.num_labels: int = self.config.num_labels  # type: ignore[assignment]
        self.add_encoder()
        self.classifier = LongformerPlusClassificationHead(self.config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        document_ids: Tensor | None = None,
        max_global_tokens: int | None = None,
        num_items_in_batch: Count = None,
        **kwargs: Unpack[EncoderArguments],
    ) -> LongformerPlusSequenceClassifierOutput:
        """
        Args:
            labels: (B,) class ids, (B, C) floats for several labels at once, or floats for regression.
                `config.problem_type` decides between the three; if it is None, C and the labels' dtype do.

        Returns:
            LongformerPlusSequenceClassifierOutput: `logits` (B, C), and `loss` where labels are given.
        """
        outputs = self.longformer(
            input_ids,
            attention_mask,
            global_attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            document_ids=document_ids,
            max_global_tokens=max_global_tokens,
            **{**kwargs, "return_dict": True},
        )
        logits = self.classifier(self.longformer.pooled(outputs.last_hidden_state, attention_mask))
        loss = None
        if labels is not None:
            loss = sequence_loss(logits, labels, self.config.problem_type, num_items_in_batch)
        return LongformerPlusSequenceClassifierOutput(loss=loss, logits=logits, **recorded(outputs))


class LongformerPlusForQuestionAnswering(LongformerPlusHead):
    """Extractive question answering: where in the document the answer starts and ends."""

    auto_global_attention = "question"

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        if self.config.num_labels != 2:
            raise ValueError(
                f"num_labels={self.config.num_labels} is not allowed for question answering: it has two outputs per "
                "token, the start and the end of the answer. Set num_labels=2."
            )
        self.num_labels: int = self.config.num_labels
        self.add_encoder()
        self.qa_outputs = nn.Linear(self.config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        document_ids: Tensor | None = None,
        max_global_tokens: int | None = None,
        num_items_in_batch: Count = None,
        **kwargs: Unpack[EncoderArguments],
    ) -> LongformerPlusQuestionAnsweringOutput:
        """
        Args:
            start_positions, end_positions: (B,) the answer's first and last token; a position outside the input (such
                as -1) for a row without an answer.

        Returns:
            LongformerPlusQuestionAnsweringOutput: `start_logits` and `end_logits` (B, N), and `loss` where both
            positions are given.
        """
        outputs = self.longformer(
            input_ids,
            attention_mask,
            global_attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            document_ids=document_ids,
            max_global_tokens=max_global_tokens,
            **{**kwargs, "return_dict": True},
        )
        logits = self.qa_outputs(outputs.last_hidden_state)
        if self.longformer.sequence_split is not None:
            logits = self.longformer.sequence_split.gather(logits)
        start_logits, end_logits = logits.unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start_logits, end_logits, start_positions, end_positions, num_items_in_batch)
        return LongformerPlusQuestionAnsweringOutput(
            loss=loss,
            start_logits=start_logits.contiguous(),
            end_logits=end_logits.contiguous(),
            **recorded(outputs),
        )


class LongformerPlusForTokenClassification(LongformerPlusHead):
    """A class for every token."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.num_labels: int = self.config.num_labels  # type: ignore[assignment]
        self.add_encoder()
        self.dropout = nn.Dropout(self.config.hidden_dropout_prob)
        self.classifier = nn.Linear(self.config.hidden_size, self.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        document_ids: Tensor | None = None,
        max_global_tokens: int | None = None,
        num_items_in_batch: Count = None,
        **kwargs: Unpack[EncoderArguments],
    ) -> LongformerPlusTokenClassifierOutput:
        """
        Args:
            labels: (B, N) class ids, -100 for tokens without a label.

        Returns:
            LongformerPlusTokenClassifierOutput: `logits` (B, N, C), and `loss` where labels are given.
        """
        outputs = self.longformer(
            input_ids,
            attention_mask,
            global_attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            document_ids=document_ids,
            max_global_tokens=max_global_tokens,
            **{**kwargs, "return_dict": True},
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None if labels is None else self.token_loss(logits, labels, num_items_in_batch)
        return LongformerPlusTokenClassifierOutput(loss=loss, logits=logits, **recorded(outputs))


class LongformerPlusForMultipleChoice(LongformerPlusHead):
    """Which of C inputs (a context with each of C choices) is the right one."""

    auto_global_attention = "choice"

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.add_encoder(add_pooling_layer=True)
        self.dropout = nn.Dropout(self.config.hidden_dropout_prob)
        self.classifier = nn.Linear(self.config.hidden_size, 1)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        document_ids: Tensor | None = None,
        max_global_tokens: int | None = None,
        num_items_in_batch: Count = None,
        **kwargs: Unpack[EncoderArguments],
    ) -> LongformerPlusMultipleChoiceOutput:
        """
        Args:
            input_ids, token_type_ids, attention_mask, global_attention_mask, position_ids, document_ids: (B, C, N).
            inputs_embeds: (B, C, N, E).
            labels: (B,) the index of the right choice.

        Returns:
            LongformerPlusMultipleChoiceOutput: `logits` (B, C), and `loss` where labels are given. `hidden_states` and
            attentions are those of the B * C inputs.

        Raises:
            ValueError: the inputs have no dimension of choices.
        """
        given = input_ids if input_ids is not None else inputs_embeds
        dimensions = 3 if input_ids is not None else 4
        if given is not None and given.dim() != dimensions:
            raise ValueError(
                f"Inputs of shape {tuple(given.shape)} are not allowed for multiple choice: they must be (batch, "
                "choices, tokens), or (batch, choices, tokens, hidden_size) for inputs_embeds."
            )
        num_choices = 1 if given is None else given.shape[1]
        flat = {
            name: None if tensor is None else tensor.flatten(0, 1)
            for name, tensor in {
                "input_ids": input_ids,
                "attention_mask": attention_mask,
                "global_attention_mask": global_attention_mask,
                "inputs_embeds": inputs_embeds,
                "token_type_ids": token_type_ids,
                "position_ids": position_ids,
                "document_ids": document_ids,
            }.items()
        }
        outputs = self.longformer(**flat, max_global_tokens=max_global_tokens, **{**kwargs, "return_dict": True})
        logits = self.classifier(self.dropout(outputs.pooler_output)).view(-1, num_choices)
        loss = None if labels is None else token_loss(logits, labels, num_items_in_batch)
        return LongformerPlusMultipleChoiceOutput(loss=loss, logits=logits, **recorded(outputs))
