"""Which backends can run on this machine, tested with a small model."""

from __future__ import annotations

import torch

from ..attention.flex import reason_unsupported
from ..configuration import LongformerPlusConfig
from ..model.encoder import LongformerPlusModel

# The tokens, heads and head size of the small model.
_SMALL = (300, 2, 16)


def reason_against_forward(backend: str, device: str = "cpu") -> str | None:
    """Why a backend cannot compute a forward on a device, in a few words; None where it can.

    Runs a small model, for which FlexAttention is compiled: on a CPU this takes tens of seconds.

    Args:
        backend: its `attn_implementation`.
        device: as torch names it.
    """
    try:
        run_small_model(backend, device, with_gradient=False)
    except Exception as error:
        return first_sentence(error)
    # A failed compilation raises no error: the model runs on sdpa instead.
    return reason_against_flex(device, with_gradient=False) if backend == "flex_attention" else None


def reason_against_flex(device: str, with_gradient: bool) -> str | None:
    """Why `run_small_model` did not run on FlexAttention; None if it did, or was not run."""
    return reason_unsupported(torch.empty(1, *_SMALL, device=device), with_gradient)


def run_small_model(backend: str, device: str, with_gradient: bool) -> None:
    """A forward, or a forward and a backward, of a small model over 300 tokens."""
    num_tokens, num_heads, head_size = _SMALL
    config = LongformerPlusConfig(
        vocab_size=32,
        hidden_size=num_heads * head_size,
        num_hidden_layers=1,
        num_attention_heads=num_heads,
        intermediate_size=32,
    )
    model = LongformerPlusModel._from_config(config, attn_implementation=backend).to(device).eval()
    ids = torch.full((1, num_tokens), 5, device=device)
    with torch.set_grad_enabled(with_gradient):
        states = model(ids, global_attention_mask=torch.zeros_like(ids)).last_hidden_state
    if with_gradient:
        states.sum().backward()


def first_sentence(error: Exception) -> str:
    """The first sentence of an error."""
    sentence = str(error).strip().splitlines()[0].partition(". ")[0] if str(error).strip() else ""
    return sentence or type(error).__name__
