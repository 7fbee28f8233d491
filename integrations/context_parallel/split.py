"""`split_sequence`: run a model on a slice of the tokens in each process of a group.

with split_sequence(model, mesh["cp"]):
    loss = model(**batch).loss
loss.backward()

Shapes: B batch, N tokens, n tokens of a slice, E hidden size; (1, T) tokens where the padding is taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from longformer_plus.attention import AttentionPattern
from longformer_plus.model.encoder import LongformerPlusModel, pooled_token
from longformer_plus.model.layers import LongformerPlusSelfAttention
from longformer_plus.model.losses import IGNORED_LABEL, Count, token_loss
from longformer_plus.model.padding import Padding

from .agreement import check_agreement
from .attention import SplitAttention
from .exchange import add_up, all_to_all
from .plan import Slices


@contextmanager
def split_sequence(model: nn.Module, processes: DeviceMesh | ProcessGroup) -> Iterator[None]:
    """Spread the tokens of each batch over the processes of a group.

    Within it every process calls the model with the same whole batch. It computes the states of its own slice of the
    tokens, and gets the whole loss; logits and states of tokens are those of its slice, and of (1, T) tokens where
    padding was taken out; logits of documents and of answers are whole. The backward pass may come after it.

    Gradients are to be averaged over the processes: DistributedDataParallel and FSDP2 do that over all processes, of
    one document or of several; else call `average_gradients`.

    Args:
        model: a LongformerPlus model, or what is wrapped around one; it is what is called.
        processes: a group of processes that this one is of, or a mesh of one dimension.

    Raises:
        TypeError: `processes` is something else.
        ValueError: there is no LongformerPlus model in `model`, it is split already, the mesh has several dimensions,
            or this process is not of the group. In a forward: the processes are given different batches, or attentions
            or a cache are asked for; each process raises it.
        RuntimeError: in a forward or backward, another process does not take part within the time limit of the group.
    """
    group = _group(processes)
    encoders = [module for module in model.modules() if isinstance(module, LongformerPlusModel)]
    if not encoders:
        raise ValueError(f"A {type(model).__name__} is not allowed: it holds no LongformerPlusModel to be split.")
    if any(encoder.sequence_split is not None for encoder in encoders):
        raise ValueError("The model is split already: leave the first split_sequence before the next one.")
    streams = _RandomStreams(group)
    with ExitStack() as stack:

        def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            check_agreement(module, args, kwargs, group)
            streams.enter(module)

        stack.callback(model.register_forward_pre_hook(before, with_kwargs=True).remove)
        stack.callback(model.register_forward_hook(lambda *_: streams.leave(), always_call=True).remove)
        for encoder in encoders:
            encoder.sequence_split = SplitOverProcesses(group, encoder)
            stack.callback(setattr, encoder, "sequence_split", None)
        yield


def neighbours(size: int) -> ProcessGroup:
    """The group of this process when all are taken in the order of their ranks, `size` of them a group.

    Every process calls it.

    Raises:
        ValueError: `size` does not divide the number of processes, or there is no process group.
    """
    world = dist.get_world_size() if dist.is_initialized() else 1
    if not dist.is_initialized() or size < 1 or world % size:
        raise ValueError(
            f"Groups of {size} are not allowed among {world} processes: `size` must divide their number, and "
            "torch.distributed must be initialized, as torchrun and accelerate launch have it done."
        )
    group: ProcessGroup = dist.new_subgroups(size)[0]
    return group


def _group(processes: DeviceMesh | ProcessGroup) -> ProcessGroup:
    """The group of a mesh, or the group itself, checked."""
    if isinstance(processes, DeviceMesh):
        if processes.ndim != 1:
            raise ValueError(
                f"A mesh of {processes.ndim} dimensions is not allowed: pass the one along which documents are split, "
                'such as mesh["cp"].'
            )
        return processes.get_group()
    if not isinstance(processes, ProcessGroup):
        raise TypeError(
            f"processes of type {type(processes).__name__} is not allowed: pass a DeviceMesh of one dimension or a "
            "process group that this process is of."
        )
    return processes


class _RandomStreams:
    """A stream of random numbers for each process while it trains, so that the slices' dropout differs.

    It starts anew in each forward from torch's own stream, which goes on by one number: what is prepared outside, such
    as masked tokens, is alike on processes with one seed.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self._rank = dist.get_rank(group)
        self._stack = ExitStack()

    def enter(self, model: nn.Module) -> None:
        """Start the stream of a forward; nothing in evaluation."""
        if not model.training:
            return
        device = next(model.parameters()).device
        seed = (int(torch.randint(2**62, ())) ^ (self._rank * 0x9E3779B97F4A7C15)) % 2**63
        if device.type == "cpu":
            self._stack.enter_context(torch.random.fork_rng(devices=[]))
        else:
            accelerator = torch.get_device_module(device)
            self._stack.enter_context(torch.random.fork_rng([device.index or 0], device_type=device.type))
            with accelerator.device(device):
                accelerator.manual_seed(seed)
        torch.default_generator.manual_seed(seed)

    def leave(self) -> None:
        """Go on with torch's own stream."""
        self._stack.close()


class SplitOverProcesses:
    """What a model whose tokens are spread over processes asks for; `LongformerPlusModel.sequence_split`.

    Args:
        group: the processes.
        encoder: the model.
    """

    def __init__(self, group: ProcessGroup, encoder: LongformerPlusModel) -> None:
        self.group = group
        layers = [module for module in encoder.modules() if isinstance(module, LongformerPlusSelfAttention)]
        self._reaches = {layer.window // 2 * dilation for layer in layers for dilation in layer.dilations}
        self._padding: Padding | None = None
        self._slices = Slices.of(0, dist.get_world_size(group), dist.get_rank(group))
        self._shape = (0, 0)

    def start(self, shape: tuple[int, int], padding: Padding | None) -> None:
        """Begin a forward of (B, N) tokens, of which `padding` is taken out."""
        self._padding, self._shape = padding, shape
        num_tokens = shape[1] if padding is None else len(padding.index)
        self._slices = Slices.of(num_tokens, dist.get_world_size(self.group), dist.get_rank(self.group))

    def own(self, rows: Tensor) -> Tensor:
        """(B, N, ...) -> (B, n, ...), or from (1, N, ...) the same for all rows; without padding that is taken out."""
        if self._padding is not None:
            rows = self._padding.remove(rows)
        return rows[:, self._slices.own.start : self._slices.own.stop]

    @torch.compiler.disable(
        reason="split_sequence decides on the host, from the values of the masks, which process sends what. Compile "
        "each layer, by layer.compile(fullgraph=True), or the whole model without fullgraph=True."
    )
    def pattern(self, whole: AttentionPattern) -> AttentionPattern:
        """The pattern of the own tokens, by which the layers exchange what they lack."""
        own = slice(self._slices.own.start, self._slices.own.stop)
        return AttentionPattern(
            whole.segments[:, own],
            None,
            None,
            None,
            whole.is_uniform,
            whole.is_packed,
            whole.is_causal,
            whole.dilations,
            exchange=SplitAttention(whole, self._slices, self.group, self._reaches),
        )

    def pooled(self, hidden_states: Tensor, attention_mask: Tensor | None, is_causal: bool) -> Tensor:
        """(B, n, E) -> (B, E) on each process, what `pooled_token` takes from the whole batch."""
        num_rows, num_tokens = self._shape
        places = torch.arange(num_tokens, device=hidden_states.device)[None, :, None].expand(num_rows, -1, -1)
        place = pooled_token(places, attention_mask, is_causal)  # (B, 1)
        row, column = self.own((places[..., 0] == place).long()).nonzero(as_tuple=True)
        number = self.own(torch.arange(num_rows, device=hidden_states.device)[:, None].expand(self._shape))
        states = hidden_states.new_zeros(num_rows, hidden_states.shape[-1])
        return add_up(states.index_add(0, number[row, column], hidden_states[row, column]), self.group)

    def gather(self, rows: Tensor) -> Tensor:
        """(B, n, C) of each process -> (B, N, C) on all of them, for a few features of each token."""
        flat = rows.flatten(0, 1)
        sizes = [len(rows) * len(span) for span in self._slices.spans]
        received = all_to_all(flat.repeat(len(sizes), 1), [len(flat)] * len(sizes), sizes, self.group)
        whole = torch.cat([part.unflatten(0, (len(rows), -1)) for part in received.split(sizes) if len(part)], dim=1)
        return whole if self._padding is None else self._padding.restore(whole)

    def token_loss(self, logits: Tensor, labels: Tensor, num_items_in_batch: Count = None) -> Tensor:
        """The loss of the whole batch, as `losses.token_loss` gives it, on each process.

        Args:
            logits: (B, n, C) of the own tokens, or of those with a label alone.
            labels: (B, N) of the whole batch.
            num_items_in_batch: what to divide the sum by, in place of the number of labels.

        Raises:
            ValueError: padding that is taken out has labels.
        """
        labels = labels.to(logits.device)
        is_labelled = labels != IGNORED_LABEL
        if self._padding is not None and bool((is_labelled & ~self._padding.valid).any()):
            raise ValueError("Padding has labels, which is not allowed within split_sequence: set them to -100.")
        own = self.own(labels)
        if logits.dim() == 2:
            own = own[own != IGNORED_LABEL]
        count = is_labelled.sum() if num_items_in_batch is None else num_items_in_batch
        return add_up(token_loss(logits, own, count), self.group)
