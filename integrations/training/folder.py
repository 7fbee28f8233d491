"""The output folder of a run: what is recorded there, and its checkpoints."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from .plan import TrainingPlan
from .report import is_first_process, say

PLAN_FILE = "training.json"
# What a run may go on with otherwise, on another machine say: it changes nothing that is learned.
_FREE = ("attn_implementation", "keep", "log_every", "workers")


def check_folder(plan: TrainingPlan, output: Path) -> str | None:
    """See that nothing is overwritten; the checkpoint to resume from, if there is one."""
    recorded, now = output / PLAN_FILE, _as_recorded(plan)
    # The other processes of a run find what the first one has written.
    if is_first_process() and output.exists() and any(output.iterdir()):
        if not plan.resume:
            raise FileExistsError(f"{output} is not empty. Name another folder, or resume the run in it (--resume).")
        if recorded.is_file():
            # A run of an earlier version, whose plan had fewer fields, did what their defaults say.
            before = {**_defaults(), **json.loads(recorded.read_text(encoding="utf-8"))}
            changed = [name for name in now if name not in _FREE and now[name] != before[name]]
            if changed:
                raise ValueError(
                    f"{output} holds a run with another {' and '.join(changed)}: it was {before[changed[0]]!r}, "
                    f"not {now[changed[0]]!r}. Resume with the same options, or name another folder."
                )
    checkpoint = last_checkpoint(output) if plan.resume else None
    if checkpoint is not None:
        say(f"Resuming from {checkpoint}.")
    return None if checkpoint is None else str(checkpoint)


def _as_recorded(plan: TrainingPlan) -> dict[str, Any]:
    """A plan as it is recorded, to be compared when a run is resumed."""
    return json.loads(json.dumps({**asdict(plan), "output": str(plan.output), "resume": None}))


def _defaults() -> dict[str, Any]:
    """What the fields of a recorded plan are where nothing is said, None where something must be."""
    return {**dict.fromkeys(each.name for each in fields(TrainingPlan)), **_as_recorded(TrainingPlan("", [], ""))}


def record(plan: TrainingPlan, output: Path) -> None:
    """Write the plan into the output folder."""
    output.mkdir(parents=True, exist_ok=True)
    (output / PLAN_FILE).write_text(json.dumps(_as_recorded(plan), indent=2) + "\n", encoding="utf-8")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of `Trainer` in a folder that was written to its end; None if there is none."""
    whole = filter(_is_whole, _checkpoints(folder))
    return max(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


def remove_unfinished_checkpoints(folder: Path) -> None:
    """Remove the checkpoints that were not written to their end."""
    for path in _checkpoints(folder):
        if not _is_whole(path):
            shutil.rmtree(path, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]


def _is_whole(checkpoint: Path) -> bool:
    try:
        # The last file that Trainer writes.
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
