"""Batches, configurations and random weights that the tests share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LongformerConfig

from longformer_plus.attention import ALL_ATTENTION_FUNCTIONS
from longformer_plus.attention.sdpa import dense_local_rows, windowed_local_rows

BACKENDS = ("eager", "sdpa")

# The ways of "sdpa" on other devices than the CPU, to be tested here too.
ALL_ATTENTION_FUNCTIONS.register("sdpa windows", lambda *args, **kwargs: (windowed_local_rows(*args, **kwargs), None))
ALL_ATTENTION_FUNCTIONS.register("sdpa dense", lambda *args, **kwargs: (dense_local_rows(*args, **kwargs), None))
LOCAL_ROWS = (*BACKENDS, "sdpa windows", "sdpa dense")


def small_config(**changes: Any) -> LongformerConfig:
    """A Longformer configuration that runs in milliseconds, without dropout."""
    fields: dict[str, Any] = {
        "vocab_size": 60,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 600,
        "type_vocab_size": 2,
        "attention_window": [8, 16],
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return LongformerConfig(**{**fields, **changes})


def spread(model: nn.Module, scale: float = 0.3, seed: int = 0) -> nn.Module:
    """Move every parameter of a model away from its initialisation, so that attention is far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


@dataclass
class Case:
    """One batch and one window, as hypothesis draws them."""

    valid: Tensor
    is_global: Tensor
    window: int
    seed: int
    dilation: int | list[int] = 1
    is_causal: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        return self.valid.shape[0], self.valid.shape[1]


WINDOWS = (2, 4, 6, 8, 16, 34)


@st.composite
def cases(draw: st.DrawFn, windows: tuple[int, ...] = WINDOWS, most_windows: int = 4) -> Case:
    """Batches of 1 to 3 rows, from 1 token to `most_windows` windows + 1; for layers of three heads.

    Padded on either side and with holes, with none to all tokens global, sometimes with a row that is all padding.
    """
    window = draw(st.sampled_from(windows))
    landmarks = [1, window // 2 + 1, window, window + 1, most_windows * window, most_windows * window + 1]
    tokens = draw(st.one_of(st.sampled_from(landmarks), st.integers(1, most_windows * window + 1)))
    batch = draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    valid = torch.ones(batch, tokens, dtype=torch.bool)
    is_global = torch.zeros(batch, tokens, dtype=torch.bool)
    for row in range(batch):
        padding = draw(st.sampled_from(["none", "left", "right", "holes", "all"]))
        amount = draw(st.integers(0, tokens - 1))
        if padding == "left":
            valid[row, :amount] = False
        elif padding == "right":
            valid[row, tokens - amount :] = False
        elif padding == "holes":
            valid[row, torch.randperm(tokens, generator=generator)[:amount]] = False
        elif padding == "all":
            valid[row] = False
        chosen = draw(st.one_of(st.sampled_from([0, 1, tokens]), st.integers(0, tokens)))
        is_global[row, torch.randperm(tokens, generator=generator)[:chosen]] = True
    dilation = draw(st.sampled_from([1, 1, 2, 3, [1, 3, 1]]))
    return Case(valid, is_global, window, seed, dilation, draw(st.booleans()))
