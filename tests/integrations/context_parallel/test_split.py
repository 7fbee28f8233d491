"""A document over several processes against one process."""

from __future__ import annotations

from functools import partial
from pathlib import Path

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


FEW: dict[str, Check] = {
    **_random(range(1)),
    "float32": (2, checks.same_in_float32),
    "bfloat16": (2, checks.close_in_bfloat16),
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
