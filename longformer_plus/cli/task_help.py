"""The parts of `--help` that the tasks say of themselves."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..integrations.tasks import Task


class TaskHelp(argparse.RawDescriptionHelpFormatter):
    """Help whose "{columns}" and "{evaluations}" become lines for the tasks, which are imported only to be shown."""

    def add_text(self, text: str | None) -> None:
        """Add a text, with what the tasks say in its place."""
        for marker, say in (("{columns}", _columns), ("{evaluations}", _evaluation)):
            if text and marker in text:
                text = text.replace(marker, _lines(say))
        super().add_text(text)


def _lines(say: Callable[[Task], str]) -> str:
    from ..integrations.tasks import TASKS

    said = {name: say(task) for name, task in TASKS.items()}
    width = max(map(len, said))
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in said.items() if text)


def _columns(task: Task) -> str:
    return ", ".join(f"{name} ({meaning})" for name, meaning in task.columns.items())


def _evaluation(task: Task) -> str:
    return task.evaluation
