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

POLICIES = ("auto", "cls", "last", "question", "choice", "separators", "none")

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
    places: Tensor | None = None,
) -> Tensor | None:
    """The global attention mask of a batch under a policy.

    Args:
        policy: "cls" (the first valid token), "last" (the last one), "question" (the valid tokens before the first
            separator), "choice" (the valid tokens after the first separator, or after the first two if they are
            adjacent), "separators", "none", or a list of token ids. The caller must resolve "auto".
        input_ids: (B, N) token ids, or None when only embeddings are known; then "cls" stands in for the policy.
        valid: (B, N) bool, False on padding.
        sep_token_id: the id that separates the parts of an input.
        places: (B, N) each token's distance from the first one of its document, where rows hold several documents, one
            after another; the policy is applied to each. None where each row is one document.

    Returns:
        (B, N) int64 of 0 and 1, or None for "none". If the policy finds no token in a document, its first valid token
        is global; on a CPU this is checked and warned about once. A document without valid tokens has no global token.

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
    documents = _Documents(valid, places)
    first_valid = valid & (documents.count(valid) == 1)
    if policy == "cls":
        return first_valid.long()
    if policy == "last":
        return (valid & (documents.count(valid) == documents.total(valid))).long()
    if input_ids is None:
        logger.warning_once(
            f"global_attention={policy!r} looks at token ids, and only inputs_embeds are given: the first valid token "
            "of each row attends globally instead. Pass global_attention_mask to choose the tokens."
        )
        return first_valid.long()
    chosen = _select(policy, input_ids, valid, sep_token_id, documents) & valid
    found = documents.total(chosen) > 0
    can_look = valid.device.type == "cpu" and not torch.compiler.is_compiling()
    if can_look and not bool((found | (documents.total(valid) == 0)).all()):
        logger.warning_once(
            f"global_attention={policy!r} finds no token in some rows: the first valid token attends globally there. "
            "Pass global_attention_mask to choose the tokens."
        )
    return torch.where(found, chosen, first_valid).long()


class _Documents:
    """The documents of a batch: its rows, or those that `places` describes.

    Args:
        rows: (B, N) any tensor of the batch, for its shape and device.
        places: as in `build_global_attention_mask`.
    """

    def __init__(self, rows: Tensor, places: Tensor | None) -> None:
        self._start: Tensor | None = None
        self._number = torch.zeros(rows.shape, dtype=torch.int64, device=rows.device)
        if places is not None:
            self._start = torch.arange(rows.shape[1], device=rows.device) - places
            self._number = (places == 0).long().cumsum(dim=1)

    def count(self, flags: Tensor) -> Tensor:
        """(B, N) bool -> (B, N) int64, how many are True from the first token of the document up to each token."""
        flags = flags.long()
        count = flags.cumsum(dim=1)
        return count if self._start is None else count - (count - flags).gather(1, self._start)

    def total(self, flags: Tensor) -> Tensor:
        """(B, N) bool -> (B, N) int64, how many are True in the document of each token."""
        sums = torch.zeros(flags.shape[0], flags.shape[1] + 1, dtype=torch.int64, device=flags.device)
        return sums.scatter_add(1, self._number, flags.long()).gather(1, self._number)


def _is_token_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _select(
    policy: Policy, input_ids: Tensor, valid: Tensor, sep_token_id: int | None, documents: _Documents
) -> Tensor:
    """The tokens that a policy names, (B, N) bool, without regard to padding."""
    if not isinstance(policy, str):
        # Not torch.isin: the list would be copied to the device, and the host would wait for that.
        chosen = torch.zeros_like(input_ids, dtype=torch.bool)
        for token_id in policy:
            chosen = chosen | (input_ids == token_id)
        return chosen
    if sep_token_id is None:
        raise ValueError(
            f"global_attention={policy!r} looks for separators, but config.sep_token_id is None. Set sep_token_id, or "
            "pass global_attention_mask."
        )
    is_separator = (input_ids == sep_token_id) & valid
    if policy == "separators":
        return is_separator
    separators_so_far = documents.count(is_separator)
    if policy == "question":
        return (separators_so_far == 0) & (documents.total(is_separator) > 0)
    is_first = is_separator & (separators_so_far == 1)
    is_twin = is_separator & (separators_so_far == 2) & F.pad(is_first[:, :-1], (1, 0))
    return (separators_so_far > 0) & ~is_first & ~is_twin
