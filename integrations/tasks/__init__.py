"""The tasks: everything that is known of each stands in its file of this room.

A file whose module has a `TASK` is a task: nothing else names it. It imports with the core packages alone.

    task = task_named("text-classification")
    records = read_records(["reviews.jsonl"], task.check)
"""

from importlib import import_module
from pkgutil import iter_modules

from .task import LOWER_IS_BETTER, HeldOut, Preparation, Scores, Task

_modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in _modules if hasattr(module, "TASK")}


def task_named(name: str) -> Task:
    """A task by its name, or by one of its aliases.

    Raises:
        ValueError: there is no such task.
    """
    for task in TASKS.values():
        if name in (task.name, *task.aliases):
            return task
    raise ValueError(f"task={name!r} is not allowed: it must be one of {', '.join(map(repr, TASKS))}.")


__all__ = ["LOWER_IS_BETTER", "TASKS", "HeldOut", "Preparation", "Scores", "Task", "task_named"]
