"""A document over several processes against one process."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from . import checks
from .cases import HEADS, assert_same_random_steps
from .processes import Check, run


def _random(seeds: range) -> dict[str, Check]:
    return {
        f"{head} over {size}": (size, partial(assert_same_random_steps, head=head, seeds=seeds))
        for size in (2, 3, 4)
        for head in HEADS
    }


SAME: dict[str, tuple[int, dict[str, Any]]] = {
    "packed": (3, {"batch": checks.packed_batch()}),
    "packed, causal": (4, {"batch": checks.packed_batch(), "is_causal": True}),
    "unpadded": (3, {"batch": checks.padded_batch(), "unpad_inputs": True}),
    "padded": (4, {"batch": checks.padded_batch(), "unpad_inputs": False}),
    "fewer tokens than processes": (4, {"batch": checks.small_batch(2, 3)}),
    "one token": (4, {"batch": checks.small_batch(1, 1)}),
    "windows of layers": (4, {"batch": checks.small_batch(), "attention_window": [2, 40]}),
    "dilations of heads": (4, {"batch": checks.small_batch(), "attention_dilation": [[1, 3, 1], [2, 2, 5]]}),
    "checkpointed": (2, {"batch": checks.small_batch(), "checkpointing": "plain"}),
    "checkpointed, reentrant": (2, {"batch": checks.small_batch(), "checkpointing": "reentrant"}),
}
FEW: dict[str, Check] = {
    **_random(range(1)),
    "float32": (2, checks.same_in_float32),
    "bfloat16": (2, checks.close_in_bfloat16),
    "autocast": (2, checks.close_under_autocast),
    "mean of dropout": (2, checks.dropout_keeps_the_mean),
    **{f"same: {name}": (size, partial(checks.same_with, **changes)) for name, (size, changes) in SAME.items()},
    "LoRA": (2, checks.same_with_lora),
    "slices": (3, checks.states_and_logits_are_of_the_slice),
    "embeddings": (2, checks.embeddings_in_place_of_ids),
    **{f"mutation: {name}": (2, partial(checks.mutation_is_caught, mutation=name)) for name in checks.MUTATIONS},
    "bytes": (3, checks.bytes_do_not_grow),
    "random streams": (2, checks.streams_differ),
    "other inputs": (2, checks.other_inputs_are_refused),
    "refusals": (2, checks.what_cannot_be_is_refused),
    "torch's": (2, checks.the_context_parallelism_of_torch_is_refused),
    "later backward": (2, checks.gradients_without_the_context),
    "meshes": (4, checks.a_mesh_is_as_good_as_a_group),
}
MANY: dict[str, Check] = {
    **_random(range(1, 60)),
    "compiled layers": (2, checks.layers_compile),
    "compiled whole": (2, checks.a_whole_model_compiles_in_parts),
    "long documents": (4, partial(checks.random_batches_of_one_model, seeds=range(20))),
}


@pytest.fixture(scope="module")
def failures_of_few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder: Path = tmp_path_factory.mktemp("few")
    return run(FEW, 4, folder)


@pytest.fixture(scope="module")
def failures_of_many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder: Path = tmp_path_factory.mktemp("many")
    return run(MANY, 4, folder)


@pytest.mark.parametrize("name", FEW)
def test_few(name: str, failures_of_few: dict[str, list[str]]) -> None:
    assert not failures_of_few[name], "\n".join(failures_of_few[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY)
def test_many(name: str, failures_of_many: dict[str, list[str]]) -> None:
    assert not failures_of_many[name], "\n".join(failures_of_many[name])
