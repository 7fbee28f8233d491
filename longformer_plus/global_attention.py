"""Which tokens attend globally: the policies that the heads, the tokenizer and the collators share.

A policy is one of the names in `POLICIES`, or a list of token ids, and is turned into a `global_attention_mask`
(B, N; B batch, N tokens) of 0 and 1. Padding is never global.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import logging

logger = logging.get_logger(__name__)

POLICIES = ("auto", "cls", "question", "choice", "separators", "none")

Policy = str | Sequence[int]


def check_policy(policy: object) -> None:
    """Raise a ValueError where `policy` is neither a name in `POLICIES` nor a list of token ids."""
    if isinstance(policy, str):
        if policy in POLICIES:
            return
    elif isinstance(policy, (list, tuple)) and policy and all(map(_is_token_id, policy)):
        return
    raise ValueError(
        f"global_attention={policy!r} is not allowed: it must be one of {', '.join(map(repr, POLICIES))}, or a list "
        "with at least one token id."
    )


def build_global_attention_mask(
    policy: Policy,
    input_ids: Tensor | None,
    valid: Tensor,
    sep_token_id: int | None,
) -> Tensor | None:
    """The global attention mask of a batch under a policy.

    Args:
        policy: "cls" (the first valid token), "question" (the valid tokens before the first separator), "choice" (the
            valid tokens after the first separator and its twin, where one follows it directly, up to the end),
            "separators", "none", or a list of token ids. "auto" is the caller's to resolve.
        input_ids: (B, N) token ids, or None when only embeddings are known; then "cls" stands in for the policy.
        valid: (B, N) bool, False on padding.
        sep_token_id: the id that separates the parts of an input.

    Returns:
        (B, N) int64 of 0 and 1, or None for "none". In a row where the policy finds nothing the first valid token is
        global, and one warning says so. A row without valid tokens has no global token.

    Raises:
        ValueError: the policy is unknown or still "auto", or needs a separator and `sep_token_id` is None.

    The rules for "cls", "question" and "choice" give what transformers' Longformer heads give for inputs with exactly
    three separators, and extend them to any number.
    """
    check_policy(policy)
    if policy == "auto":
        raise ValueError('global_attention="auto" must be resolved to the policy of a head before a mask is built.')
    if policy == "none":
        return None
    first_valid = valid & (valid.long().cumsum(dim=1) == 1)
    if policy == "cls":
        return first_valid.long()
    if input_ids is None:
        logger.warning_once(
            f"global_attention={policy!r} looks at token ids, and only inputs_embeds are given: the first valid token "
            "of each row attends globally instead. Pass global_attention_mask to choose the tokens."
        )
        return first_valid.long()
    chosen = _select(policy, input_ids, valid, sep_token_id) & valid
    found = chosen.any(dim=1, keepdim=True)
    if not torch.compiler.is_compiling() and not bool((found | ~valid.any(dim=1, keepdim=True)).all()):
        logger.warning_once(
            f"global_attention={policy!r} finds no token in some rows: the first valid token attends globally there. "
            "Pass global_attention_mask to choose the tokens."
        )
    return torch.where(found, chosen, first_valid).long()


def build_by_document(
    policy: Policy,
    input_ids: Tensor | None,
    valid: Tensor,
    sep_token_id: int | None,
    segments: Tensor,
    places: Tensor,
) -> Tensor | None:
    """`build_global_attention_mask` for rows that hold several documents, each of which the policy is applied to.

    Args:
        policy, input_ids, valid, sep_token_id: as there.
        segments: (B, N) the documents of the batch, numbered from 0.
        places: (B, N) each token's distance from the first one of its document.

    Raises:
        ValueError: as there; or in a traced graph, which holds for any number of documents.
    """
    if torch.compiler.is_compiling():
        raise ValueError(
            f"global_attention={policy!r} for several documents in a row is not traced. Pass global_attention_mask."
        )
    shape = int(segments.max()) + 1, int(places.max()) + 1
    place = segments * shape[1] + places

    def by_document(rows: Tensor) -> Tensor:
        flat = rows.new_zeros(shape[0] * shape[1])
        return flat.index_put((place.flatten(),), rows.flatten()).view(shape)

    ids = None if input_ids is None else by_document(input_ids)
    mask = build_global_attention_mask(policy, ids, by_document(valid), sep_token_id)
    return None if mask is None else mask.flatten()[place]


def _is_token_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _select(policy: Policy, input_ids: Tensor, valid: Tensor, sep_token_id: int | None) -> Tensor:
    """The tokens that a policy names, (B, N) bool, without regard to padding."""
    if not isinstance(policy, str):
        wanted = torch.tensor(list(policy), device=input_ids.device, dtype=input_ids.dtype)
        return torch.isin(input_ids, wanted)
    if sep_token_id is None:
        raise ValueError(
            f"global_attention={policy!r} looks for separators, but config.sep_token_id is None. Set sep_token_id, or "
            "pass global_attention_mask."
        )
    is_separator = (input_ids == sep_token_id) & valid
    if policy == "separators":
        return is_separator
    separators_so_far = is_separator.long().cumsum(dim=1)
    if policy == "question":
        return (separators_so_far == 0) & is_separator.any(dim=1, keepdim=True)
    is_first = is_separator & (separators_so_far == 1)
    is_twin = is_separator & F.pad(is_first[:, :-1], (1, 0))
    return (separators_so_far > 0) & ~is_first & ~is_twin
