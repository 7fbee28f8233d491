"""Runs that are stopped by a signal, or by a full disk, and go on."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors import SafetensorError
from transformers import Trainer

pytest.importorskip("datasets")
pytest.importorskip("evaluate")
from longformer_plus import cli
from longformer_plus.integrations.training import TrainingStopped, last_checkpoint, stopping, train
from longformer_plus.integrations.training import trainer as trainers

from ...fine_tuning import model_fields, rows, write_rows
from .conftest import losses, train_in


class Signaller(trainers.Progress):
    """Sends this process a signal in a step, as from outside."""

    numbers: tuple[int, ...] = (signal.SIGINT,)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            for number in self.numbers:
                signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_goes_on(number: int, make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the step there is a checkpoint; resumed, it has the losses of a run left alone."""
    changes = {"config": model_fields(hidden_dropout_prob=0.1), "max_steps": 5, "save_every": 100}
    alone = losses(train_in(make_plan("text-classification", "alone", **changes)))
    plan = make_plan("text-classification", "stopped", **changes)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(trainers, "Progress", type("Once", (Signaller,), {"numbers": (number,)}))
        with pytest.raises(
            TrainingStopped, match=r"checkpoint-3 is the last checkpoint\. To go on, .* --resume\."
        ) as stop:
            train(plan)
    assert stop.value.signal_number == number
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    resumed = train_in(replace(plan, resume=True))
    assert losses(resumed) == alone


def test_a_second_signal_stops_at_once(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan("text-classification", save_every=1)
    monkeypatch.setattr(trainers, "Progress", type("Twice", (Signaller,), {"numbers": (signal.SIGINT, signal.SIGTERM)}))
    with pytest.raises(TrainingStopped, match="checkpoint-2 is the last checkpoint") as stop:
        train(plan)
    assert stop.value.signal_number == signal.SIGTERM
    assert last_checkpoint(Path(plan.output)).name == "checkpoint-2"


def test_one_stop_reaches_a_process_of_several_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches all processes of a terminal, and torchrun passes it on to them once more."""
    clock = [100.0]
    monkeypatch.setattr(stopping.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock[0])
    with stopping.StopAtSignal(tmp_path) as stop:
        stop.on_train_begin(None, None, None)
        signal.raise_signal(signal.SIGINT)
        clock[0] += 0.5
        signal.raise_signal(signal.SIGTERM)
        clock[0] += 2
        with pytest.raises(TrainingStopped):
            signal.raise_signal(signal.SIGINT)


def test_before_training_a_signal_stops_at_once(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan("text-classification")
    monkeypatch.setattr("longformer_plus.integrations.training.run.load_config", lambda *_: signal.raise_signal(2))
    with pytest.raises(TrainingStopped, match=r"Stopped: nothing was saved yet\."):
        train(plan)
    assert not Path(plan.output).exists()


def test_other_threads_and_processes_leave_signals_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def run() -> None:
        with stopping.StopAtSignal(tmp_path):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
    with stopping.StopAtSignal(tmp_path) as stop:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        signal.raise_signal(signal.SIGINT)
        stop.check()


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_safetensors(*_: Any, **__: Any) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("method", "fail"), [("_save_optimizer_and_scheduler", full), ("save_model", full_safetensors)]
)
def test_a_full_disk_leaves_the_last_checkpoint(
    method: str, fail: Any, make_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("text-classification", max_steps=4, save_every=2, keep=1)
    working = getattr(Trainer, method)

    def second_fails(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (fail if self.state.global_step > 2 else working)(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, method, second_fails)
        with pytest.raises(
            OSError, match=r"is full\. .*checkpoint-2 is whole\. Free some space on it\. To go on"
        ) as error:
            train(plan)
    assert "\n" not in str(error.value)
    assert [path.name for path in Path(plan.output).glob("checkpoint-*")] == ["checkpoint-2"]
    assert len(losses(train_in(replace(plan, resume=True)))) == 4


def test_other_errors_are_not_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-3").mkdir()
    for error in (RuntimeError("shapes differ"), OSError(errno.EACCES, "not allowed")):
        with pytest.raises(type(error)) as raised, stopping.report_full_disk(tmp_path):
            raise error
        assert raised.value is error
    assert (tmp_path / "checkpoint-3").is_dir()
    with pytest.raises(OSError, match="No checkpoint was written yet"), stopping.report_full_disk(tmp_path):
        full()
    assert not (tmp_path / "checkpoint-3").exists()


class StopsAll(trainers.Progress):
    """Sends SIGTERM to this process and to those that prepare its batches, as a batch system does."""

    others: set[psutil.Process]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            workers = set(psutil.Process().children()) - self.others
            # By another process: those that prepare batches know a signal of their parent from others.
            subprocess.run(["kill", *(str(each.pid) for each in workers)], check=True)
            psutil.wait_procs(workers, timeout=0.5)
            signal.raise_signal(signal.SIGTERM)


def test_processes_that_prepare_batches_outlive_a_signal_to_all(
    make_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    StopsAll.others = set(psutil.Process().children())
    monkeypatch.setattr(trainers, "Progress", StopsAll)
    with pytest.raises(TrainingStopped, match="checkpoint-3 is the last checkpoint"):
        train(make_plan("text-classification", max_steps=50, epochs=50, workers=1))
    assert set(psutil.Process().children()) <= StopsAll.others


def test_the_second_signal_ends_a_process_that_prepares_batches() -> None:
    before, started = signal.getsignal(signal.SIGTERM), []
    try:
        stopping.start_worker(started.append, 3)
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert started == [3]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_is_stopped(
    number: int, status: int, workers: str, tokenizer_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write_rows(tmp_path / "data.jsonl", rows("text-classification"))
    command = [sys.executable, "-m", "longformer_plus.cli", "train", "--task", "text-classification", "--train", source]
    command += ["--config", json.dumps(model_fields()), "--tokenizer", tokenizer_folder, "--batch", "2"]
    command += ["--output", str(tmp_path / "output"), "--max-steps", "100000", "--log-every", "1"]
    command += ["--workers", workers]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    for line in process.stdout:
        if "step 3 of" in line:
            break
    os.killpg(process.pid, number)
    rest = process.stdout.read()
    assert process.wait() == status
    assert "To go on, use the same command with --resume." in rest
    assert "Traceback" not in rest
    assert last_checkpoint(tmp_path / "output") is not None
    with pytest.raises(SystemExit):
        cli.main([*command[3:], "--resume", "--max-steps", "5"])
    assert "holds a run with another max_steps: it was 100000, not 5" in capsys.readouterr().err


def stop_one(launcher: psutil.Process) -> None:
    """Stop the second of the processes that train."""
    workers = [each for each in launcher.children() if "longformer_plus.cli" in each.cmdline()]
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGTERM)


def stop_all(launcher: psutil.Process) -> None:
    """Stop all processes, as Ctrl-C in a terminal does."""
    os.killpg(launcher.pid, signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [stop_one, stop_all, psutil.Process.terminate])
def test_a_run_of_two_processes_is_stopped(stop: Any, tokenizer_folder: str, tmp_path: Path) -> None:
    """Started by torchrun, whose own status is 1 where a process was stopped."""
    source = write_rows(tmp_path / "data.jsonl", rows("text-classification"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "longformer_plus.cli", "train", "--task", "text-classification", "--train", source]
    command += ["--config", json.dumps(model_fields()), "--tokenizer", tokenizer_folder, "--batch", "2"]
    command += ["--output", str(tmp_path / "output"), "--max-steps", "100000", "--log-every", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        for line in process.stdout:
            if "step 3 of" in line:
                break
        launcher = psutil.Process(process.pid)
        workers = launcher.children()
        stop(launcher)
        shown, _ = process.communicate(timeout=90)
    _, alive = psutil.wait_procs(workers, 10)
    assert not alive
    (checkpoint,) = (tmp_path / "output").glob("checkpoint-*")
    assert {"model.safetensors", "optimizer.pt", "trainer_state.json"} <= {path.name for path in checkpoint.iterdir()}
    assert f"{checkpoint} is the last checkpoint. To go on, use the same command with --resume." in shown
