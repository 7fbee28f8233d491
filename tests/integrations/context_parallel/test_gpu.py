"""A document over two GPUs, by NCCL, against one of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from . import checks
from .processes import Check, run
from .test_split import SAME

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]

ON_GPUS: dict[str, Check] = {
    **{name: (2, partial(checks.same_with, device="cuda", **changes)) for name, (_, changes) in SAME.items()},
    # FlexAttention wants wider heads, and has no float64.
    "flex_attention": (
        2,
        partial(
            checks.same_with,
            batch=checks.small_batch(2, 600),
            backends=("flex_attention",),
            device="cuda",
            dtype=torch.float32,
            hidden_size=96,
            attention_window=64,
            max_position_embeddings=610,
        ),
    ),
    "random streams": (2, partial(checks.streams_differ, device="cuda")),
}


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder: Path = tmp_path_factory.mktemp("gpus")
    return run(ON_GPUS, 2, folder, "nccl")


@pytest.mark.parametrize("name", ON_GPUS)
def test_two_gpus(name: str, failures: dict[str, list[str]]) -> None:
    assert not failures[name], "\n".join(failures[name])
