"""What a part leaves free is given back."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import psutil
import pytest

from longformer_plus.integrations.prediction import predict, predictors
from longformer_plus.ops.memory import release_free_memory

from .test_run import corpus, plan_of

__all__ = ["corpus"]


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the allocator is not glibc's"
)
def test_memory_that_is_free_between_what_is_used_is_given_back() -> None:
    blocks: list[bytearray | None] = [bytearray(20_000) for _ in range(8_000)]
    for place in range(len(blocks)):
        if place % 100:
            blocks[place] = None
    before = psutil.Process().memory_info().rss
    release_free_memory()
    assert before - psutil.Process().memory_info().rss > 100e6
    assert sum(block is not None for block in blocks) == 80


def test_each_part_gives_back_what_it_left_free(
    corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(predictors, "release_free_memory", lambda: calls.append(None))
    assert predict(plan_of("text-classification", task_checkpoints, corpus, tmp_path / "out")).parts == len(calls) == 6
