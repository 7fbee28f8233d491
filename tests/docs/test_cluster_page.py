"""The page about clusters: its command for training in two processes does that."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ..fine_tuning import rows, write_rows

DOCS = Path(__file__).parents[2] / "docs"
COMMAND = re.compile(r"^accelerate launch (.*num_processes 2 (?:.*\\\n)*.*)$", re.MULTILINE)


@pytest.mark.slow
def test_the_command_for_two_processes_trains_in_two_processes(tmp_path: Path) -> None:
    (command,) = COMMAND.findall((DOCS / "guides" / "several_machines.md").read_text())
    (tmp_path / "docs").symlink_to(DOCS)
    write_rows(tmp_path / "reviews.jsonl", rows("text-classification", 8))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "accelerate.commands.launch", *shlex.split(command.replace("\\\n", " "))]
    done = subprocess.run(
        arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((tmp_path / "classifier" / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    # Two processes with batches of two: half of the eight rows in each step.
    assert state["epoch"] == 1.0
    assert (tmp_path / "classifier" / "model.safetensors").exists()
