"""What holds for every task."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datasets")
from longformer_plus import cli
from longformer_plus.integrations import tasks
from longformer_plus.integrations.data.sources import read_records
from longformer_plus.integrations.tasks import TASKS, task_named

from ...fine_tuning import rows, write_rows


def test_every_file_of_the_room_with_a_task_is_found() -> None:
    files = {path.stem for path in Path(tasks.__file__).parent.glob("*.py")} - {"__init__", "task"}
    assert {name.replace("-", "_") for name in TASKS} == files
    assert "text-regression" in TASKS


def test_names_and_aliases() -> None:
    assert task_named("fill-mask") is task_named("masked-lm") is TASKS["fill-mask"]
    assert task_named("causal-lm").auto_class == "AutoModelForCausalLM"
    with pytest.raises(ValueError, match=r"task='sleep' is not allowed: it must be one of 'fill-mask', 'multiple"):
        task_named("sleep")


def test_tasks_import_with_the_core_packages_alone() -> None:
    """Adapters, export and the demo read them too, without the extra `train`."""
    code = """
import sys
for name in ("accelerate", "datasets", "evaluate", "matplotlib", "peft", "scipy", "seqeval", "sklearn"):
    sys.modules[name] = None
from longformer_plus.integrations.tasks import TASKS
print(len(TASKS))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"{len(TASKS)}\n", done.stderr


@pytest.mark.parametrize("name", TASKS)
def test_right_rows_are_read(name: str, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "data.jsonl", rows(name, 5))
    records = read_records([source, source], TASKS[name].check)
    assert [record.row for record in records] == rows(name, 5) * 2
    assert records[2].where == f"{source}, line 3"
    TASKS[name].check_input(rows(name, 1)[0])


GOOD = {task: rows(task, 1)[0] for task in TASKS}
ANSWER = {"text": ["river"], "answer_start": [3]}


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("fill-mask", {"text": " "}, "'text' is empty"),
        ("fill-mask", {"text": 3}, "'text' is 3, not a string"),
        ("text-classification", {"label": -1}, "label -1 is out of range"),
        ("text-classification", {"label": 1.5}, "label 1.5 is neither"),
        ("text-regression", {"label": "high"}, "label 'high' is not a finite number"),
        ("text-regression", {"label": float("nan")}, "label nan is not a finite number"),
        ("token-classification", {"ner_tags": ["O"]}, "1 ner_tags for 60 tokens"),
        ("token-classification", {"ner_tags": [-100] * 60}, "tag -100 is out of range"),
        ("token-classification", {"global_attention_mask": [1]}, "a global_attention_mask of 1 entries for 60 tokens"),
        ("question-answering", {"answers": {"text": ["x"]}}, "has no 'answer_start'"),
        ("question-answering", {"context": "A sea.", "answers": ANSWER}, "the answer 'river' is outside its document"),
        ("question-answering", {"answers": {"text": ["r"], "answer_start": [-9]}}, "is outside its document"),
        ("multiple-choice", {"label": 3}, "label 3 is out of range: it must be the index of one of the 3 choices"),
        ("multiple-choice", {"label": "3"}, "label '3' is out of range: it must be the index of one of the 3 choices"),
        ("multiple-choice", {"label": "the sea"}, "label 'the sea' is not an integer: it must be the index of one"),
        ("multiple-choice", {"label": True}, "label True is not an integer"),
        ("multiple-choice", {"label": None}, "label None is not an integer"),
        ("multiple-choice", {"choices": ["one"]}, "1 choices: give at least two"),
    ],
)
def test_wrong_rows_are_named(task: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "data.jsonl", [GOOD[task], {**GOOD[task], **change}])
    with pytest.raises(ValueError, match=message) as error:
        read_records([source], TASKS[task].check)
    assert str(error.value).startswith(f"{source}, line 2: ")


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_the_help_of_the_commands_names_the_tasks(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    shown = capsys.readouterr().out
    for name, task in TASKS.items():
        if command == "train":
            assert all(f"{column} ({meaning})" in shown for column, meaning in task.columns.items())
        elif task.evaluate is not None:
            assert f"{name} " in shown
            assert task.evaluation in shown
