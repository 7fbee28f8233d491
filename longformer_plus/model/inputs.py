"""Checks of a model's inputs: each wrong input gets one error that says what to do.

Shapes are always checked. Checks of values (ids in range, masks of 0 and 1) are collected in `ValueChecks`, which reads
all of them at once. torch.compile and export skip them, since reading would break the graph.

Shapes: B batch, N tokens, L layers, H heads, E hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..attention import places_in, segments_of
from ..configuration import LongformerPlusConfig
from ..ops.host_reads import ValueChecks
from .cache import LongformerPlusCache


@dataclass(frozen=True)
class ModelInputs:
    """The tensors passed to a forward, with either `input_ids` or `inputs_embeds`.

    Attributes:
        input_ids: (B, N).
        inputs_embeds: (B, N, E).
        token_type_ids: (B, N), or None for type 0.
        position_ids: (B, N), or (1, N) for all rows; None until they are made.
        attention_mask: (B, N), or None where every token is valid.
        global_attention_mask: (B, N), or None to let the policy choose.
        document_ids: (B, N), or None where each row is one document.
    """

    input_ids: Tensor | None
    inputs_embeds: Tensor | None
    token_type_ids: Tensor | None
    position_ids: Tensor | None
    attention_mask: Tensor | None
    global_attention_mask: Tensor | None
    document_ids: Tensor | None

    @property
    def embedded(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """The arguments of the embeddings: ids, types, positions, and word embeddings in place of ids."""
        return self.input_ids, self.token_type_ids, self.position_ids, self.inputs_embeds

    @property
    def tokens(self) -> Tensor:
        """(B, N) ids or (B, N, E) embeddings, whichever were given."""
        return self.input_ids if self.inputs_embeds is None else self.inputs_embeds  # type: ignore[return-value]


def checked_inputs(
    config: LongformerPlusConfig,
    inputs: ModelInputs,
    num_embeddings: int,
    cache: LongformerPlusCache | None,
    arguments: Mapping[str, Any],
    checks: ValueChecks,
) -> ModelInputs:
    """Check the inputs of a forward, cut the masks to the new tokens, and convert any packing to `document_ids`.

    Args:
        config: the model's configuration.
        inputs: as the caller passed them.
        num_embeddings: rows of the word embeddings, which resizing may have changed.
        cache: the cache, if any; the masks may include the cached tokens.
        arguments: the other arguments of the forward; see `flattened_documents`.
        checks: collects the checks of values.

    Raises:
        TypeError: the cache is another model's.
        ValueError: an input is missing, given twice, or of a wrong shape.
    """
    inputs = replace(
        inputs,
        attention_mask=new_columns(inputs.attention_mask, cache, inputs.tokens),
        global_attention_mask=new_columns(inputs.global_attention_mask, cache, inputs.tokens),
    )
    _check_tokens(config, inputs.input_ids, inputs.inputs_embeds)
    _check_masks_and_ids(config, inputs, num_embeddings, checks)
    if inputs.document_ids is None:
        document_ids = flattened_documents(arguments, inputs.position_ids, inputs.tokens.shape[1], checks)
        if document_ids is not None:
            inputs = replace(inputs, document_ids=document_ids, position_ids=None)
    check_cache(config, cache, inputs.document_ids)
    check_document_ids(inputs.document_ids, inputs.attention_mask, inputs.tokens.shape[:2], checks)
    return inputs


def check_length(config: LongformerPlusConfig, num_tokens: int, position_ids: Tensor, checks: ValueChecks) -> None:
    """Refuse a document that is longer than the position table.

    Args:
        config: the model's configuration.
        num_tokens: N, padding included.
        position_ids: (B, N) or (1, N), as made from the input: padding takes no position.
        checks: collects the check.
    """
    if num_tokens <= config.max_tokens or not position_ids.numel():
        return

    def too_long() -> ValueError:
        return ValueError(
            f"The document has {int(position_ids.max()) - config.pad_token_id} tokens, but the model has positions for "  # type: ignore[operator]
            f"{config.max_tokens} (max_position_embeddings={config.max_position_embeddings}, of which the first "
            f"{config.max_position_embeddings - config.max_tokens} are not for tokens). Truncate it (tokenizer(..., "
            f"truncation=True, max_length={config.max_tokens})), split it into parts, pass position_ids of your own, "
            "or give the model a longer position table."
        )

    checks.refuse(lambda: position_ids.max() >= config.max_position_embeddings, too_long)


def check_global_tokens(is_global: Tensor | None, max_global_tokens: int | None, checks: ValueChecks) -> None:
    """Refuse a row of the (B, N) bool mask with more than `max_global_tokens` global tokens.

    Raises:
        ValueError: `max_global_tokens` is not an int, or is below 0.
    """
    if max_global_tokens is None:
        return
    if not isinstance(max_global_tokens, int) or max_global_tokens < 0:
        raise ValueError(f"max_global_tokens={max_global_tokens!r} is not allowed: it must be an int not below 0.")
    if is_global is None or not len(is_global):
        return
    most = is_global.sum(1).amax()

    def too_many() -> ValueError:
        return ValueError(
            f"A row has {int(most)} global tokens, but max_global_tokens={max_global_tokens} was promised. Raise it, "
            "or leave it out to have them counted."
        )

    checks.refuse(lambda: most > max_global_tokens, too_many)


def check_document_ids(
    document_ids: Tensor | None, attention_mask: Tensor | None, shape: Sequence[int], checks: ValueChecks
) -> None:
    """Check (B, N) document ids, if given: the tokens of a document must be adjacent.

    Raises:
        ValueError: they are not integers, or have another shape.
    """
    if document_ids is None:
        return
    _check_integers("document_ids", document_ids)
    if document_ids.shape != tuple(shape):
        given = tuple(document_ids.shape)
        raise ValueError(f"document_ids has shape {given}, the input has {tuple(shape)} (batch, tokens).")
    if not document_ids.numel():
        return

    def stands_twice() -> Tensor:
        # After sorting by id, neighbours of the same id must be of the same run. Masked tokens get an unused id.
        ids = document_ids.long()
        if attention_mask is not None:
            ids = torch.where(attention_mask > 0, ids, ids.max() + 1)
        ordered, places = ids.sort(dim=1, stable=True)
        runs = segments_of(document_ids).gather(1, places)
        is_same, is_parted = ordered[:, 1:] == ordered[:, :-1], runs[:, 1:] != runs[:, :-1]
        if attention_mask is not None:
            is_same = is_same & (attention_mask > 0).gather(1, places)[:, 1:]
        return (is_same & is_parted).any()

    def twice() -> ValueError:
        return ValueError(
            "document_ids has the same id in two places of a row: the tokens of a document stand side by side, and "
            "each document of a row has an id of its own."
        )

    checks.refuse(stands_twice, twice)


def check_cache(config: LongformerPlusConfig, cache: object, document_ids: Tensor | None) -> None:
    """Check that a model can continue `past_key_values`, if given.

    Raises:
        TypeError: it is another kind of cache.
        ValueError: the model is not causal, or rows hold several documents.
    """
    if cache is None:
        return
    if not isinstance(cache, LongformerPlusCache):
        raise TypeError(
            f"past_key_values of type {type(cache).__name__} is not allowed: pass a LongformerPlusCache(model.config), "
            "or leave it out and set use_cache=True."
        )
    if not config.is_causal:
        raise ValueError("past_key_values goes with a causal model only. Leave it out, or set config.is_causal=True.")
    if document_ids is not None:
        raise ValueError(
            "document_ids with past_key_values or use_cache=True is not allowed: a row with a cache is one document. "
            "Give each document a row of its own."
        )


def new_columns(mask: Tensor | None, cache: LongformerPlusCache | None, tokens: Tensor | None) -> Tensor | None:
    """Cut a (B, cached tokens + N) mask to the N new tokens; other masks are returned as they are."""
    if mask is None or cache is None or tokens is None:
        return mask
    before = cache.get_seq_length()
    return mask[:, before:] if mask.dim() == 2 and mask.shape[1] == before + tokens.shape[1] else mask


def check_continuation(
    cache: LongformerPlusCache | None, num_rows: int, is_global: Tensor | None, checks: ValueChecks
) -> None:
    """Check that the batch has the rows of the cache; none of the (B, N) new tokens may be global.

    Raises:
        ValueError: the number of rows differs.
    """
    if cache is None or not cache.get_seq_length():
        return
    if cache.num_rows != num_rows:
        raise ValueError(f"The input has {num_rows} rows, but past_key_values has {cache.num_rows}. Give as many.")
    if is_global is None:
        return

    def new_global() -> ValueError:
        return ValueError(
            "A token that continues a cached document attends globally; only those of its first forward can: what a "
            "global token looks at is not kept. Put global tokens into the prompt, and the prompt into one forward."
        )

    checks.refuse(is_global.any, new_global)


def flattened_documents(
    arguments: Mapping[str, Any], position_ids: Tensor | None, num_tokens: int, checks: ValueChecks
) -> Tensor | None:
    """(1, N) document ids from the arguments of transformers' flattening collator; None without these arguments.

    Args:
        arguments: may contain `seq_idx` (1, N), or `cu_seq_lens_q` (documents + 1), the first token of each document
            and the end of the last.
        position_ids: (1, N) or None; the collator counts them from 0 in each document.
        num_tokens: N.
        checks: collects the check of the position ids.

    Raises:
        ValueError: the position ids have another shape.
    """
    document_ids, starts = arguments.get("seq_idx"), arguments.get("cu_seq_lens_q")
    if document_ids is None and starts is not None:
        tokens = torch.arange(num_tokens, device=starts.device)
        document_ids = torch.bucketize(tokens, starts[1:].long(), right=True)[None]
    if document_ids is None or position_ids is None:
        return document_ids
    places = places_in(segments_of(document_ids))

    def other_positions() -> ValueError:
        return ValueError(
            "position_ids beside seq_idx or cu_seq_lens_q must count the tokens of each document from 0, "
            "as transformers' flattening collator has them. For positions of your own pass document_ids instead."
        )

    if position_ids.shape != places.shape:
        raise other_positions()
    checks.refuse(lambda: (position_ids.long() != places).any(), other_positions)
    return document_ids


def check_head_mask(config: LongformerPlusConfig, head_mask: Tensor | None) -> list[Tensor | None]:
    """One (H) mask per layer, or None for each, from a `head_mask` of (H) or (L, H).

    Raises:
        ValueError: it has another shape.
    """
    if head_mask is None:
        return [None] * config.num_hidden_layers
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    if head_mask.shape == (heads,):
        return [head_mask] * layers
    if head_mask.shape == (layers, heads):
        return list(head_mask.unbind(0))
    raise ValueError(
        f"head_mask of shape {tuple(head_mask.shape)} is not allowed: it must be ({heads},), one factor per head, or "
        f"({layers}, {heads}), one per layer and head."
    )


def _check_tokens(config: LongformerPlusConfig, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> None:
    """Check that exactly one of (B, N) `input_ids` and (B, N, E) `inputs_embeds` is given, with at least one token."""
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise ValueError(f"Pass exactly one of input_ids and inputs_embeds; {given} of them were given.")
    if input_ids is not None:
        _check_dimensions("input_ids", input_ids, "(batch, tokens)", 2)
        _check_integers("input_ids", input_ids)
        tokens = input_ids.shape[1]
    else:
        _check_dimensions("inputs_embeds", inputs_embeds, "(batch, tokens, hidden_size)", 3)  # type: ignore[arg-type]
        tokens, width = inputs_embeds.shape[1:]  # type: ignore[union-attr]
        if width != config.hidden_size:
            raise ValueError(
                f"inputs_embeds has {width} features per token; config.hidden_size is {config.hidden_size}."
            )
    if not torch.compiler.is_compiling() and not tokens:
        raise ValueError("The input has no tokens: give at least one token per document.")


def _check_masks_and_ids(
    config: LongformerPlusConfig, inputs: ModelInputs, num_embeddings: int, checks: ValueChecks
) -> None:
    """Check the shapes and values of the masks and ids of a forward."""
    shape = (inputs.tokens.shape[0], inputs.tokens.shape[1])
    if inputs.attention_mask is not None:
        _check_mask("attention_mask", inputs.attention_mask, shape, 2, checks)
    if inputs.global_attention_mask is not None:
        _check_mask("global_attention_mask", inputs.global_attention_mask, shape, 1, checks)
    if inputs.input_ids is not None:
        _check_ids("input_ids", inputs.input_ids, num_embeddings, shape, checks)
    if inputs.token_type_ids is not None:
        _check_ids("token_type_ids", inputs.token_type_ids, config.type_vocab_size, shape, checks)
    if inputs.position_ids is not None:
        _check_ids("position_ids", inputs.position_ids, config.max_position_embeddings, shape, checks)


def _check_dimensions(name: str, values: Tensor, meaning: str, dimensions: int) -> None:
    if values.dim() != dimensions:
        raise ValueError(
            f"{name} of shape {tuple(values.shape)} is not allowed: it must have {dimensions} dimensions, {meaning}."
        )


def _check_integers(name: str, values: Tensor) -> None:
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"{name} of dtype {values.dtype} is not allowed: ids are integers (torch.long or torch.int).")


def _check_mask(name: str, mask: Tensor, shape: tuple[int, int], largest: int, checks: ValueChecks) -> None:
    if mask.dim() != 2:
        raise ValueError(
            f"{name} of shape {tuple(mask.shape)} is not allowed: it must be (batch, tokens). Who attends to whom "
            "beyond padding is given by the window and by global_attention_mask; no mask of query by key is taken."
        )
    if tuple(mask.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(mask.shape)}, the input has {shape} (batch, tokens).")
    if mask.dtype == torch.bool:
        return

    def other_values() -> ValueError:
        return ValueError(
            f"{name} has values from {mask.min().item()} to {mask.max().item()}: it must hold 1 for "
            f"{'valid tokens and 0 for padding' if largest == 2 else 'tokens that attend globally and 0 for others'}. "
            "Masks to be added to scores (0 and large negative numbers) are not taken: pass `mask == 0` instead."
        )

    checks.refuse(lambda: ((mask != 0) & (mask != 1) & ((mask != 2) | (largest < 2))).any(), other_values)


def _check_ids(name: str, values: Tensor, size: int, shape: tuple[int, int], checks: ValueChecks) -> None:
    _check_integers(name, values)
    if values.dim() != 2 or values.shape[1] != shape[1] or values.shape[0] not in (1, shape[0]):
        raise ValueError(f"{name} has shape {tuple(values.shape)}, the input has {shape} (batch, tokens).")

    def out_of_range() -> ValueError:
        return ValueError(
            f"{name} has values from {int(values.min())} to {int(values.max())}, but the table they index has {size} "
            f"rows (0 to {size - 1}). {_REMEDIES[name]}"
        )

    checks.refuse(lambda: ((values < 0) | (values >= size)).any(), out_of_range)


_REMEDIES = {
    "input_ids": "Use the tokenizer of this checkpoint, or resize_token_embeddings after adding tokens.",
    "token_type_ids": "Longformer uses a single token type: leave token_type_ids out, or set config.type_vocab_size.",
    "position_ids": "Positions start at pad_token_id + 1; leave position_ids out to have them made. For longer "
    "documents give the model a longer position table; when generating, ask for fewer tokens.",
}
