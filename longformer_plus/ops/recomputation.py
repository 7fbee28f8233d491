"""Activation checkpointing of one function: only its inputs are kept, and the backward pass computes it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def recompute(function: Callable[..., Tensor], *tensors: Tensor, draws: bool = False) -> Tensor:
    """Compute `function(*tensors)`; only `tensors` are kept for its gradient.

    Args:
        function: a differentiable function of the tensors. Other values that it reads must not change.
        tensors: its arguments.
        draws: whether it draws random numbers on the tensors' device. The backward pass then draws the same ones.
    """
    wants_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if torch.compiler.is_compiling() or not wants_gradient:
        # The compiler chooses itself which activations to keep.
        return function(*tensors)
    device = tensors[0].device
    state = _RandomState(device) if draws and device.type != "meta" else None
    result: Tensor = _Recomputed.apply(function, state, *tensors)
    return result


class _Recomputed(torch.autograd.Function):
    """Function, random state and tensors -> the function's result."""

    @staticmethod
    def forward(function: Callable[..., Tensor], state: _RandomState | None, *tensors: Tensor) -> Tensor:
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.function, ctx.state, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        raise no_forward_mode()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        keeps_graph = torch.is_grad_enabled()
        needed = ctx.needs_input_grad[2:]
        if keeps_graph and ctx.state is not None and grad.device.type != "cpu":
            # The kernel that has second derivatives would not drop the weights that the forward pass dropped.
            raise RuntimeError(
                'Second derivatives through dropout on an accelerator need attn_implementation="eager", or '
                "attention_probs_dropout_prob=0."
            )
        with torch.enable_grad():
            # Views, so that a tensor passed twice gets two gradients. For a second derivative they stay in the graph.
            inputs = [
                tensor.view_as(tensor) if keeps_graph else tensor.detach().requires_grad_(wanted)
                for tensor, wanted in zip(ctx.saved_tensors, needed, strict=True)
            ]
            with ctx.state.replayed() if ctx.state else nullcontext(), _twice_differentiable(keeps_graph):
                result = ctx.function(*inputs)
        wanted_inputs = [tensor for tensor, wanted in zip(inputs, needed, strict=True) if wanted]
        gradients = iter(torch.autograd.grad(result, wanted_inputs, grad, create_graph=keeps_graph))
        return None, None, *(next(gradients) if wanted else None for wanted in needed)


@contextmanager
def _twice_differentiable(wanted: bool) -> Iterator[None]:
    """If wanted, compute attention by the math kernel: the gradients of the other kernels are not differentiable."""
    with sdpa_kernel(SDPBackend.MATH) if wanted else nullcontext():
        yield


def no_forward_mode() -> NotImplementedError:
    """The error of forward-mode derivatives where torch's kernels of attention, which are called inside, have none."""
    return NotImplementedError(
        'Forward-mode derivatives (torch.func.jvp, torch.autograd.forward_ad) need attn_implementation="eager".'
    )


class _RandomState:
    """The state of a device's random number generator. Not a tensor, which `torch.func` would wrap.

    Args:
        device: the one that draws them.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._module: Any = torch if device.type == "cpu" else torch.get_device_module(device)
        self._state: Tensor = torch.get_rng_state() if device.type == "cpu" else self._module.get_rng_state(device)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw the numbers that follow this state, and go on from the present one afterwards."""
        arguments = () if self._device.type == "cpu" else (self._device,)
        present = self._module.get_rng_state(*arguments)
        self._module.set_rng_state(self._state, *arguments)
        try:
            yield
        finally:
            self._module.set_rng_state(present, *arguments)
