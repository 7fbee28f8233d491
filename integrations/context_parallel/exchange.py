"""Exchanges between the processes of a group that autograd knows.

Each backward pass sends along the reversed way. A process's loss is the whole loss, so that the sum over the processes
is as many times the loss: gradients of parameters are to be averaged over the processes, as DistributedDataParallel and
FSDP2 do.

Shapes: S rows sent, R rows received, ... features of a row.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import ProcessGroup

# After a failure, how long the processes wait for the reports of one another.
_SECONDS_TO_REPORT = 10.0


def all_to_all(rows: Tensor, sends: Sequence[int], receives: Sequence[int], group: ProcessGroup) -> Tensor:
    """Send rows to every process of a group, and receive theirs.

    Args:
        rows: (S, ...) by receiver, in the order of ranks.
        sends: how many of them go to each rank.
        receives: how many come from each rank.
        group: the processes; each must take part.

    Returns:
        (R, ...) by sender, in the order of ranks.

    Raises:
        RuntimeError: another process does not take part within the time limit of the group.
    """
    received: Tensor = _AllToAll.apply(rows, list(sends), list(receives), group)
    return received


def add_up(rows: Tensor, group: ProcessGroup) -> Tensor:
    """The sum of the processes' tensors, which have one shape, on each of them. Raises as `all_to_all` does."""
    total: Tensor = _AddUp.apply(rows, group)
    return total


def gather_on_all(values: Tensor, group: ProcessGroup) -> Tensor:
    """(...) of each of P processes -> (P, ...) on each of them, without gradients. Raises as `all_to_all` does."""
    gathered = [torch.empty_like(values) for _ in range(dist.get_world_size(group))]
    with _named_failures(group):
        dist.all_gather(gathered, values.contiguous(), group=group)
    return torch.stack(gathered)


def average_gradients(model: nn.Module, group: ProcessGroup) -> None:
    """Average the gradients of a model over the processes of a group: what DistributedDataParallel and FSDP2 do.

    Every process has a gradient of the same parameters.
    """
    gradients: Iterable[Tensor | None] = (parameter.grad for parameter in model.parameters())
    with _named_failures(group):
        for gradient in gradients:
            if gradient is not None:
                dist.all_reduce(gradient, group=group)
                gradient /= dist.get_world_size(group)


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(rows: Tensor, sends: list[int], receives: list[int], group: ProcessGroup) -> Tensor:
        received = rows.new_empty(sum(receives), *rows.shape[1:])
        # The compiler knows the collective, and no errors of it.
        with nullcontext() if torch.compiler.is_compiling() else _named_failures(group):
            dist.all_to_all_single(received, rows.contiguous(), receives, sends, group=group)
        return received

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.sends, ctx.receives, ctx.group = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return all_to_all(grad, ctx.receives, ctx.sends, ctx.group), None, None, None


class _AddUp(torch.autograd.Function):
    @staticmethod
    def forward(rows: Tensor, group: ProcessGroup) -> Tensor:
        total = rows.clone(memory_format=torch.contiguous_format)
        with nullcontext() if torch.compiler.is_compiling() else _named_failures(group):
            dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return add_up(grad, ctx.group), None


@contextmanager
def _named_failures(group: ProcessGroup) -> Iterator[None]:
    """Say in an error of a collective which process met it, and which ones it waited for."""
    try:
        yield
    except RuntimeError as error:
        absent = _absent(group)
        awaited = f"rank {' and rank '.join(map(str, absent))}" if absent else "another one"
        raise RuntimeError(
            f"Rank {dist.get_rank(group)} of the {dist.get_world_size(group)} processes that share a document waited "
            f"in vain for {awaited}: it has ended, or is slower than the time limit of the group "
            "(init_process_group(timeout=...)). Its own log says why. "
            f"The failure was: {error}"
        ) from error


def _absent(group: ProcessGroup) -> list[int]:
    """The ranks of a group that do not come to the failure of a collective within a few seconds.

    None where it cannot be known: the store by which the processes found one another is gone, or this torch, in which
    it is not public, has it elsewhere.
    """
    default_store = getattr(dist.distributed_c10d, "_get_default_store", None)
    if default_store is None:
        return []
    absent, until = [], time.monotonic() + _SECONDS_TO_REPORT
    try:
        store = dist.PrefixStore(f"split_sequence {group.group_name}", default_store())
        store.set(str(dist.get_rank(group)), "waited in vain")
        for rank in range(dist.get_world_size(group)):
            try:
                store.wait([str(rank)], timedelta(seconds=max(until - time.monotonic(), 0.1)))
            except dist.DistStoreError:
                absent.append(rank)
    except RuntimeError:
        return []
    return absent
