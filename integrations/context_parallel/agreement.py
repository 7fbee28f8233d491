"""Whether the processes that share a document are called alike: a fingerprint of each call is compared first.

Else their exchanges would not fit, which ends a process without a word, or the numbers would be wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from .exchange import gather_on_all


def check_agreement(
    model: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], group: ProcessGroup
) -> None:
    """Refuse a call that is not the same on every process of a group.

    Compared are the values of integers and masks, the shapes and dtypes of floats, all else that has a short text,
    the mode of the model, and autocast.

    Raises:
        ValueError: on every process, with the names of what differs.
    """
    named = {**{f"argument {number}": value for number, value in enumerate(arguments)}, **keywords}
    named = {name: value for name, value in named.items() if value is not None}
    device = next(model.parameters()).device
    modes = (model.training, torch.is_grad_enabled(), torch.is_autocast_enabled(device.type))
    named["the mode (training, gradients, autocast)"] = repr(modes)
    ordered = sorted(named)
    fingerprints = torch.stack([_fingerprint(named[name]).to(device) for name in ordered])
    # Two numbers in one exchange, which is all there is where the processes agree.
    names = torch.tensor(_number(repr(ordered)), device=device)
    everyones = gather_on_all(torch.stack([names, _mix(fingerprints)]), group)
    names_differ, values_differ = (everyones != everyones[0]).any(0).tolist()
    if names_differ:
        raise ValueError(
            "The processes that share a document are called with different arguments; this one with "
            f"{', '.join(ordered)}. Give each process the whole batch."
        )
    if values_differ:
        everyones = gather_on_all(fingerprints, group)
        differs = (everyones != everyones[0]).any(0).tolist()
        wrong = ", ".join(name for name, is_wrong in zip(ordered, differs, strict=True) if is_wrong)
        raise ValueError(
            f"The processes that share a document are given different values of: {wrong}. Give each process the same "
            "whole batch: a sampler must not split it between them."
        )


def _fingerprint(value: Any) -> Tensor:
    """An int64 without dimensions, on the device of a tensor."""
    if not isinstance(value, Tensor):
        return torch.tensor(_number(repr(value)[:200] if isinstance(value, (bool, int, float, str)) else ""))
    shape = torch.full((), _number(f"{tuple(value.shape)} {value.dtype}"), device=value.device)
    if value.is_floating_point() or not value.numel():
        return shape
    return shape ^ _mix(value.reshape(-1).long())


def _mix(numbers: Tensor) -> Tensor:
    """(n) int64 -> one of them, that depends on each and on its place. Sums wrap around, alike on every device."""
    places = torch.arange(1, len(numbers) + 1, device=numbers.device) * 0x5851F42D4C957F2D
    return ((numbers + 1) * (places ^ (places >> 29))).sum()


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 2**63
