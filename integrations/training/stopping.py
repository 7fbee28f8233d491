"""Runs that end early: by a signal, or for want of disk space. What they have done is not lost."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .folder import last_checkpoint, remove_unfinished_checkpoints
from .report import is_first_process

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Ctrl-C reaches all processes of a terminal, and what started them passes it on: one stop may come twice.
_SECONDS_OF_ONE_STOP = 2.0
_STOPPING = b"\nStopping after this step, with a checkpoint. Once more stops at once, without.\n"
_GO_ON = "To go on, use the same command with --resume."


class TrainingStopped(KeyboardInterrupt):
    """A run was stopped by a signal.

    Args:
        message: how to go on, for people.
        signal_number: SIGINT or SIGTERM.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class StopAtSignal(TrainerCallback):
    """Stops training after the step in which SIGINT or SIGTERM arrives, with a checkpoint.

    Within it, `with StopAtSignal(output) as stop`, a signal that comes before or after the steps, or a second one,
    raises `TrainingStopped` at once.

    Args:
        output: the folder of the run.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._received = 0
        self._since = 0.0
        self._is_training = False
        self._process = os.getpid()
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopAtSignal:
        # Python lets only the main thread handle signals.
        if threading.current_thread() is threading.main_thread():
            self._handlers = {each: signal.signal(each, self._note) for each in _SIGNALS}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            return  # one that prepares batches, which are needed to the end of the step
        is_same = distributed.is_initialized() and time.monotonic() - self._since < _SECONDS_OF_ONE_STOP
        if self._received and is_same:
            return
        if not self._is_training or self._received:
            raise self._stopped(number)
        self._received, self._since = number, time.monotonic()
        if is_first_process():
            os.write(sys.stderr.fileno(), _STOPPING)  # `print` may be what the signal interrupted

    def _stopped(self, number: int) -> TrainingStopped:
        checkpoint = last_checkpoint(self._output)
        kept = "nothing was saved yet" if checkpoint is None else f"{checkpoint} is the last checkpoint. {_GO_ON}"
        return TrainingStopped(f"Stopped: {kept.rstrip('.')}.", number)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From now on, signals wait for the end of a step."""
        self._is_training = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop where a signal has come, in all processes after the same step."""
        if distributed.is_initialized():
            number = torch.tensor(self._received, device=args.device)
            distributed.all_reduce(number, distributed.ReduceOp.MAX)
            self._received = int(number)
        if self._received:
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From now on, signals stop at once again."""
        self._is_training = False

    def check(self) -> None:
        """Raise `TrainingStopped` where a signal has come in training."""
        if self._received:
            raise self._stopped(self._received)


def start_worker(initialize: Callable[[int], None] | None, worker: int) -> None:
    """Start a process that prepares batches: the first SIGTERM is for the run, whose step still needs it.

    Batch systems and `timeout` send SIGTERM to all processes of a job; the run ends those of batches itself.

    Args:
        initialize: what else is done at its start.
        worker: its number.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    if initialize is not None:
        initialize(worker)


@contextmanager
def report_full_disk(output: Path) -> Iterator[None]:
    """Say in a line that a disk is full, and remove the checkpoint that could not be written to its end.

    Args:
        output: the folder of the run.

    Raises:
        OSError: it was full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_full(error, output):
            raise
        if is_first_process():
            remove_unfinished_checkpoints(output)
        checkpoint = last_checkpoint(output)
        kept = "No checkpoint was written yet" if checkpoint is None else f"{checkpoint} is whole"
        raise OSError(f"The disk of {output} is full. {kept}. Free some space on it. {_GO_ON}") from error


def _is_full(error: Exception, output: Path) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # safetensors gives the system's message alone, and torch not even that.
    return os.strerror(errno.ENOSPC) in str(error) or (output.is_dir() and shutil.disk_usage(output).free == 0)
