"""Several workers write the files that one writes, and may be killed like it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from longformer_plus.integrations.data.sources import Entry
from longformer_plus.integrations.prediction import engines, predict
from longformer_plus.integrations.prediction.parts import Parts
from longformer_plus.integrations.prediction.progress import Part
from longformer_plus.integrations.prediction.ray_actors import shares
from longformer_plus.integrations.prediction.workers import Judged, in_order

from .test_run import FRESH, TEXTS, content, corpus, plan_of

__all__ = ["corpus"]


@pytest.fixture
def fast_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that need not import everything anew."""
    monkeypatch.setattr(engines, "_CONTEXT", FRESH)


def test_parts_come_in_order_and_few_are_read_ahead() -> None:
    read: list[int] = []

    def parts() -> Iterator[Part]:
        for number in range(20):
            read.append(number)
            yield Part(number, [Entry("a", number, "a", {})], 0.0)

    def predict_slowly(entries: Sequence[Entry]) -> Judged:
        time.sleep(0.02 * (entries[0].number % 3))
        return [{"row": entries[0].number}], [], 1

    with ThreadPoolExecutor(2) as executor:
        for place, (part, (rows, _, _)) in enumerate(in_order(executor, predict_slowly, parts(), 2)):
            assert part.number == rows[0]["row"] == place
            assert len(read) <= place + 1 + 4
    assert len(read) == 20


def test_workers_write_what_one_process_writes(
    fast_workers: None, corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    predict(plan_of("text-classification", task_checkpoints, corpus, tmp_path / "one"))
    plan = plan_of("text-classification", task_checkpoints, corpus, tmp_path / "two", workers=2)
    assert predict(plan).errors == 3
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_a_run_may_go_on_with_other_workers(
    fast_workers: None, corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(plan_of("text-classification", task_checkpoints, corpus, tmp_path / "one"))
    plan = plan_of("text-classification", task_checkpoints, corpus, tmp_path / "two", workers=2)
    write, written = Parts.write, 0

    def write_three(parts: Parts, *part: Any) -> None:
        nonlocal written
        if written == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written += 1
        write(parts, *part)

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "write", write_three)
        with pytest.raises(OSError, match="No space left"):
            predict(plan)
    plan.workers, plan.resume = 1, True
    assert predict(plan).documents == 18
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_a_worker_that_is_killed_ends_the_run_with_advice(
    fast_workers: None, corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("text-classification", task_checkpoints, corpus, tmp_path / "out", workers=2)
    with monkeypatch.context() as patch:
        patch.setattr(engines, "_predict_there", _die)
        with pytest.raises(ChildProcessError, match=r"A worker was killed, .* with --resume to go on"):
            predict(plan)
    plan.resume = True
    assert predict(plan).documents == 18


def _die(_: Sequence[Entry]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_mistake_is_named_as_by_one_process(
    fast_workers: None, corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    plan = plan_of("text-classification", task_checkpoints, corpus, tmp_path / "out", workers=2)
    plan.model = str(task_checkpoints["fill-mask"])
    with pytest.raises(ValueError, match="has no head for text-classification"):
        predict(plan)


def test_ray_that_is_missing_is_named(
    corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    plan = plan_of("text-classification", task_checkpoints, corpus, tmp_path / "out", engine="ray")
    with pytest.raises(ModuleNotFoundError, match=r"ray is needed for engine 'ray': .*longformer-plus\[ray\]"):
        predict(plan)


def test_a_ray_that_does_not_start_in_time_is_named(
    corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(*_: Any, **__: Any) -> None:
        # Ray raises just this, with several lines.
        raise Exception("The current node timed out during startup.\n\nThis could happen because some processes")

    fake = ModuleType("ray")
    fake.is_initialized, fake.init = lambda: False, init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", fake)
    plan = plan_of("text-classification", task_checkpoints, corpus, tmp_path / "out", engine="ray")
    message = (
        "Ray did not start on this machine: The current node timed out during startup. Run the command again with "
        "--resume where the machine has less other work, or choose --engine local."
    )
    with pytest.raises(ConnectionError) as error:
        predict(plan)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers", "expected"),
    [
        ([2], [0], 1, (2, 0)),
        ([2], [0], 2, (1, 0)),
        ([16, 16, 16, 16], [0, 0, 0, 0], 4, (16, 0)),
        ([16, 16, 16, 16], [0, 0, 0, 0], 6, (8, 0)),
        ([16, 4], [0, 0], 2, (8, 0)),
        ([32, 32], [4, 4], 8, (1, 1)),
        ([32, 32], [1, 1], 3, (1, 0.5)),
    ],
)
def test_shares_of_a_cluster(cpus: list[int], gpus: list[int], workers: int, expected: tuple[int, float]) -> None:
    assert shares(cpus, gpus, workers) == expected


def test_a_cluster_that_is_too_small_is_named() -> None:
    with pytest.raises(ValueError, match="workers=5 is not allowed: the Ray cluster has 4 processors"):
        shares([2, 2], [0, 0], 5)


@pytest.mark.slow
def test_workers_of_the_command_end_with_it(corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    predict(plan_of("text-classification", task_checkpoints, corpus, tmp_path / "whole"))
    command = [sys.executable, "-m", "longformer_plus.cli", "predict", "--task", "text-classification", "--resume"]
    command += ["--model", str(task_checkpoints["text-classification"]), "--input", str(corpus), "--part-size", "4"]
    command += ["--batch-tokens", "600", "--precision", "float32", "--output", str(tmp_path / "out"), "--workers", "2"]
    for number in range(3):
        with subprocess.Popen(command) as process:
            while not (tmp_path / "out" / f"part-0000{number}.jsonl").exists():
                assert process.poll() is None
                time.sleep(0.02)
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
        _, alive = psutil.wait_procs(children, 20)
        assert len(children) >= 2
        assert not alive
    assert subprocess.run(command, check=False).returncode == 1
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def kill_actors(count: int, is_over: threading.Event) -> list[int]:
    """Kill the actors of this process that predict, one after another; which ones."""
    killed: list[int] = []
    while len(killed) < count and not is_over.wait(0.002):
        for process in psutil.Process().children(recursive=True):
            try:
                if "Worker.predict" in process.name() + " ".join(process.cmdline()) and process.pid not in killed:
                    process.kill()
                    killed.append(process.pid)
                    break
            except psutil.NoSuchProcess:
                continue
    return killed


@pytest.mark.slow
def test_actors_that_are_killed_cost_nothing_but_time(
    corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    (tmp_path / "in").mkdir()
    for number in range(5):
        for path in corpus.iterdir():
            (tmp_path / "in" / f"{number}{path.name}").write_bytes(path.read_bytes())
    predict(plan_of("text-classification", task_checkpoints, tmp_path / "in", tmp_path / "one"))
    plan = plan_of("text-classification", task_checkpoints, tmp_path / "in", tmp_path / "out", engine="ray", workers=2)
    is_over = threading.Event()
    with ThreadPoolExecutor(1) as killer:
        killed = killer.submit(kill_actors, 3, is_over)
        assert predict(plan).documents == 5 * len(TEXTS)
        is_over.set()
        assert len(killed.result()) == 3
    assert content(tmp_path / "out") == content(tmp_path / "one")
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_cluster_by_its_address(
    corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines of one processor each, as Ray's own tests make them."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")
    predict(plan_of("text-classification", task_checkpoints, corpus, tmp_path / "one"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        plan = plan_of("text-classification", task_checkpoints, corpus, tmp_path / "out", engine="ray", workers=2)
        plan.ray_address = cluster.address
        predict(plan)
        assert content(tmp_path / "out") == content(tmp_path / "one")
        plan.output, plan.workers = tmp_path / "three", 3
        with pytest.raises(ValueError, match="the Ray cluster has 2 processors"):
            predict(plan)
    finally:
        cluster.shutdown()
    plan.output = tmp_path / "four"
    with pytest.raises(ConnectionError, match="There is no Ray cluster at"):
        predict(plan)
