"""Running a model on a document and keeping its attention, layer by layer.

A base-size model has 1.2 GB of float32 attentions for a document of 4096 tokens. Here each layer's are packed as soon
as they are computed and then let go, so that one layer's at a time are held in full.

Shapes: N tokens, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TokenizersBackend

from ..global_attention import Policy, build_global_attention_mask
from ..model.layers import LongformerPlusAttentionBlock, LongformerPlusSelfAttention
from ..model.pretrained import LongformerPlusPreTrainedModel
from .contributions import value_products
from .layer import LayerMaps, Layout
from .maps import AttentionMaps
from .words import Words

_BETWEEN_TEXTS = "\n\n"


@dataclass(frozen=True)
class DocumentMaps:
    """A text, how it was tokenized, and what the model attended to in it.

    Attributes:
        text: what was given; of two texts both, with an empty line between them.
        tokens: N texts, one for each token: the characters it stands for, or the name of a special token.
        offsets: N pairs of character positions, start and stop; equal for special tokens.
        maps: the attention.
        parts: N numbers of the texts that the tokens come from, 0, or 1 where there are two; -1 for special tokens.
    """

    text: str
    tokens: list[str]
    offsets: list[tuple[int, int]]
    maps: AttentionMaps
    parts: list[int]

    @property
    def words(self) -> Words:
        """The words of the text, to merge weights by."""
        return Words.find(self.text, self.offsets)


def attention_maps(
    model: LongformerPlusPreTrainedModel,
    tokenizer: TokenizersBackend,
    text: str,
    global_attention: Policy | None = None,
    global_positions: list[int] | None = None,
    bits: int = 8,
    second_text: str | None = None,
    with_values: bool = False,
) -> DocumentMaps:
    """What a model attends to in a text, or in a question and a passage.

    Only the encoder is run; for what the head makes of it see `record`.

    Args:
        model: a LongformerPlus model, with any head.
        tokenizer: its tokenizer; a fast one, which knows where in the text each token stands.
        text: a document. What the model has no room for is left out.
        global_attention: a policy of `longformer_plus.global_attention`; by default the model's.
        global_positions: positions of tokens that attend globally, in place of a policy.
        bits: 8, 16 or 32 for each weight.
        second_text: what the model reads after the text, as the passage after a question. It alone is cut where there
            is no room for both.
        with_values: keep what `contributions` needs.

    Raises:
        ValueError: a text is empty, a position is outside of it, or both a policy and positions are given.
    """
    if not text.strip() or (second_text is not None and not second_text.strip()):
        raise ValueError("The text is empty. Give a document with at least one word.")
    if global_attention is not None and global_positions is not None:
        raise ValueError("Both global_attention and global_positions are given. Leave one of them out.")
    encoding = tokenizer(
        text,
        second_text,
        truncation=True if second_text is None else "only_second",
        max_length=model.config.max_tokens,
        return_offsets_mapping=True,
        return_tensors="pt",
    )
    ids: Tensor = encoding["input_ids"]
    if global_positions is not None:
        mask: Tensor | None = mask_of(global_positions, ids.shape[1])
    elif global_attention is None or global_attention == "auto":
        mask = model.choose_global_attention(ids, None, None)
    else:
        mask = build_global_attention_mask(global_attention, ids, torch.ones_like(ids) > 0, tokenizer.sep_token_id)
    mask = torch.zeros_like(ids) if mask is None else mask
    inputs = {"input_ids": ids.to(model.device), "global_attention_mask": mask.to(model.device)}
    _, maps = record(model.base_model, inputs, bits, with_values)
    parts = [-1 if part is None else part for part in encoding.sequence_ids(0)]
    # Where each text starts in both.
    starts = {-1: 0, 0: 0, 1: len(text) + len(_BETWEEN_TEXTS)}
    offsets = [
        (start + starts[part], stop + starts[part])
        for (start, stop), part in zip(encoding["offset_mapping"][0].tolist(), parts, strict=True)
    ]
    text = text if second_text is None else text + _BETWEEN_TEXTS + second_text
    tokens = [
        text[start:stop] if stop > start else str(tokenizer.decode([index]))
        for index, (start, stop) in zip(ids[0].tolist(), offsets, strict=True)
    ]
    return DocumentMaps(text, tokens, offsets, maps, parts)


@torch.no_grad()
def record(
    model: nn.Module, inputs: Mapping[str, Tensor], bits: int = 8, with_values: bool = False
) -> tuple[Any, AttentionMaps]:
    """Run a model on one document, without gradients and dropout, and keep its attention.

    Args:
        model: a LongformerPlus model, with any head.
        inputs: what its forward takes: one document, without padding.
        bits: 8, 16 or 32 for each weight.
        with_values: keep what `contributions` needs: H * H numbers for each token and layer, twice with global tokens.

    Returns:
        What the model returns, and the attention of its layers.

    Raises:
        ValueError: the model is none of LongformerPlus, or the inputs are several documents or padded.
    """
    shape = next(iter(inputs.values())).shape
    mask = inputs.get("attention_mask")
    if shape[0] != 1 or len(shape) != 2 or (mask is not None and not bool((mask > 0).all())):
        raise ValueError(
            f"Inputs of shape {tuple(shape)}, or with padding, are not allowed: give one document without padding. For "
            "batches call the model with output_attentions=True and use AttentionMaps.from_outputs."
        )
    layers: list[LayerMaps] = []
    layouts: list[Layout] = []

    def keep(block: LongformerPlusAttentionBlock, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> None:
        attention, (hidden_states, pattern) = block.self, inputs[:2]
        if not layouts:
            is_global = torch.zeros_like(pattern.valid) if pattern.is_global is None else pattern.is_global
            layouts.append(Layout.build(pattern.valid[0], is_global[0]))
        local, global_ = weights
        one = None if global_ is None else global_[0]
        layer = LayerMaps.build(local[0], one, layouts[0], attention.dilations, bits)
        layers.append(_with_values(layer, block, hidden_states[0]) if with_values else layer)

    was_training = model.training
    model.eval()
    try:
        with _recording(model, keep):
            outputs = model(**inputs, return_dict=True)
    finally:
        model.train(was_training)
    return outputs, AttentionMaps(layers)


@torch.no_grad()
def add_values(maps: AttentionMaps, model: nn.Module, inputs: Mapping[str, Tensor]) -> AttentionMaps:
    """The attention that was recorded of a document, with what `contributions` needs: the model runs once more.

    Args:
        maps: of `record`, with the same model and inputs.
        model, inputs: as of `record`.

    Returns:
        Maps that share the weights with those given.

    Raises:
        ValueError: the model has another number of layers than the maps.
    """
    blocks = [module for module in model.modules() if isinstance(module, LongformerPlusAttentionBlock)]
    if len(blocks) != maps.num_layers:
        raise ValueError(
            f"The maps have {maps.num_layers} layers, the model has {len(blocks)}. Pass the model that they are of."
        )
    layers: list[LayerMaps] = []

    def keep(block: nn.Module, inputs: tuple[Any, ...]) -> None:
        layers.append(_with_values(maps.layers[len(layers)], block, inputs[0][0]))  # type: ignore[arg-type]

    was_training = model.training
    model.eval()
    hooks = [block.register_forward_pre_hook(keep) for block in blocks]
    try:
        model(**inputs, return_dict=True)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return AttentionMaps(layers)


def _with_values(layer: LayerMaps, block: LongformerPlusAttentionBlock, hidden_states: Tensor) -> LayerMaps:
    """The layer with the products of its values, made of its input (N, E)."""
    attention, output = block.self, block.output.dense
    values = value_products(attention.value, output, hidden_states, layer.num_heads)
    if not len(layer.layout.global_positions):
        return replace(layer, values=values)
    global_values = value_products(attention.value_global, output, hidden_states, layer.num_heads)
    return replace(layer, values=values, global_values=global_values)


@contextmanager
def _recording(
    model: nn.Module, keep: Callable[[LongformerPlusAttentionBlock, tuple[Any, ...], tuple[Any, ...]], None]
) -> Iterator[None]:
    """While it lasts, every self-attention of a model computes its weights and hands them to `keep`.

    Not for a model that another thread runs at the same time: its layers would be kept too.

    Args:
        model: a LongformerPlus model.
        keep: is called with each layer's attention block, the arguments of its self-attention, and (attentions,
            global_attentions).
    """
    blocks = {module.self: module for module in model.modules() if isinstance(module, LongformerPlusAttentionBlock)}
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} is no LongformerPlus model: it has no attention to record. Load the checkpoint "
            "with a LongformerPlus class."
        )

    def ask_for_weights(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden_states, pattern, head_mask, _, *others = inputs
        return hidden_states, pattern, head_mask, True, *others

    def hand_over(
        module: LongformerPlusSelfAttention, inputs: tuple[Any, ...], outputs: tuple[Any, ...]
    ) -> tuple[Any, None, None]:
        keep(blocks[module], inputs, outputs[1:])
        return outputs[0], None, None

    hooks = [module.register_forward_pre_hook(ask_for_weights) for module in blocks]
    hooks += [module.register_forward_hook(hand_over) for module in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def mask_of(positions: list[int], num_tokens: int) -> Tensor:
    """(1, N) int64 global attention mask with these positions in it.

    Raises:
        ValueError: a position is outside of the document.
    """
    wrong = [position for position in positions if not 0 <= position < num_tokens]
    if wrong:
        raise ValueError(f"Global positions {wrong} are not allowed: the document has 0 to {num_tokens - 1}.")
    mask = torch.zeros(1, num_tokens, dtype=torch.long)
    mask[0, positions] = 1
    return mask
