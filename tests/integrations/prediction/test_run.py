"""Predictions for a corpus are those of its documents one by one, and a killed run loses and changes nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import stat
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer
from transformers.utils import logging

from longformer_plus import (
    LongformerPlusForQuestionAnswering,
    LongformerPlusForSequenceClassification,
    LongformerPlusForTokenClassification,
    LongformerPlusModel,
)
from longformer_plus.integrations.long_documents.embedding import embed_documents
from longformer_plus.integrations.long_documents.reading import (
    answer_questions,
    classify_documents,
    find_entities,
    tag_documents,
)
from longformer_plus.integrations.prediction import PredictionPlan, predict
from longformer_plus.integrations.prediction import parts as parts_module

from ...fine_tuning import WORDS

TEXTS = [" ".join(random.Random(seed).choices(WORDS, k=5 + 37 * seed % 190)) for seed in range(18)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of documents in several files, two of which cannot be read."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = [json.dumps({"text": text, "id": f"n{number}"}) for number, text in enumerate(TEXTS[:15])]
    lines.insert(4, '{"text": " "}')
    lines.insert(9, '{"text": "cut o')
    (folder / "a.jsonl").write_text("\n".join(lines))
    for number, text in enumerate(TEXTS[15:]):
        (folder / f"b{number}.txt").write_text(text)
    (folder / "c.png").write_bytes(b"\x89PNG\r\n")
    return folder


def plan_of(task: str, checkpoints: dict[str, Path], source: Any, output: Path, **changes: Any) -> PredictionPlan:
    model = str(checkpoints.get(task, checkpoints["fill-mask"]))
    options = {"part_size": 4, "batch_tokens": 600, "precision": "float32", **changes}
    return PredictionPlan(task, model, [str(source)], output, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    parts = sorted(folder.glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def test_classes_of_a_corpus(corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    plan = plan_of("text-classification", task_checkpoints, corpus, tmp_path / "out")
    summary = predict(plan)
    assert (summary.documents, summary.errors, summary.parts) == (18, 3, 6)
    rows = rows_of(tmp_path / "out")
    assert [row.get("id") for row in rows] == [f"n{number}" for number in range(15)] + [None] * 3
    places = [(Path(row["source"]).name, row["row"]) for row in rows]
    assert places[3:5] == [("a.jsonl", 3), ("a.jsonl", 5)]
    assert places[15:] == [("b0.txt", 0), ("b1.txt", 0), ("b2.txt", 0)]
    model = LongformerPlusForSequenceClassification.from_pretrained(plan.model)
    tokenizer = AutoTokenizer.from_pretrained(plan.model)
    for text, row in zip(TEXTS, rows, strict=True):
        (expected,) = classify_documents(model, tokenizer, [text])
        assert row["label"] == expected.label
        assert row["scores"] == pytest.approx(expected.scores, abs=1e-5)
    errors = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert [(Path(error["source"]).name, error["row"]) for error in errors] == [
        ("a.jsonl", 4),
        ("a.jsonl", 9),
        ("c.png", 0),
    ]
    assert [error["error"][:22] for error in errors] == [
        "'text' is empty",
        "not a JSON object: Inv",
        "it is a PNG picture, w",
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "predict.json",
        "errors.jsonl",
        *(f"part-0000{number}.jsonl" for number in range(6)),
    }


def test_entities_and_answers(corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    predict(plan_of("token-classification", task_checkpoints, corpus / "*.txt", tmp_path / "tags"))
    folder = task_checkpoints["token-classification"]
    tagger = LongformerPlusForTokenClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, add_prefix_space=True)
    for text, row in zip(TEXTS[15:], rows_of(tmp_path / "tags"), strict=True):
        expected = find_entities(text, tag_documents(tagger, tokenizer, [text])[0])
        assert [(found["label"], found["start"], found["end"]) for found in row["entities"]] == [
            (each.label, each.start, each.end) for each in expected
        ]
        assert all(text[found["start"] : found["end"]] == found["text"] for found in row["entities"])
    question = "which river"
    plan = plan_of("question-answering", task_checkpoints, corpus / "*.txt", tmp_path / "answers", question=question)
    predict(plan)
    model = LongformerPlusForQuestionAnswering.from_pretrained(plan.model)
    tokenizer = AutoTokenizer.from_pretrained(plan.model)
    for text, row in zip(TEXTS[15:], rows_of(tmp_path / "answers"), strict=True):
        ((expected_answer,),) = answer_questions(model, tokenizer, [question], [text])
        (found,) = row["answers"]
        assert (found["start"], found["end"], found["text"]) == (
            expected_answer.start,
            expected_answer.end,
            text[expected_answer.start : expected_answer.end],
        )
        assert found["score"] == pytest.approx(expected_answer.score, abs=1e-5)


def test_each_row_may_ask_its_own_question_and_one_too_long_is_an_error(
    task_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    questions = ["which river", "where " * 500, "who spoke", ""]
    rows = [{"query": question, "context": text} for question, text in zip(questions, TEXTS, strict=False)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"question": "query"}
    plan = plan_of("question-answering", task_checkpoints, tmp_path / "rows.jsonl", tmp_path / "out", columns=columns)
    summary = predict(plan)
    assert (summary.documents, summary.errors) == (2, 2)
    assert [row["row"] for row in rows_of(tmp_path / "out")] == [0, 2]
    assert "Shorten the question" in (tmp_path / "out" / "errors.jsonl").read_text()


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("first", False)])
def test_embeddings(
    pooling: str, normalize: bool, corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    options = {"pooling": pooling, "normalize": normalize}
    plan = plan_of("feature-extraction", task_checkpoints, corpus, tmp_path / "out", **options)
    predict(plan)
    vectors = torch.tensor([row["embedding"] for row in rows_of(tmp_path / "out")])
    model = LongformerPlusModel.from_pretrained(plan.model, add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(plan.model)
    alone = torch.stack([embed_documents(model, tokenizer, [text], **options)[0] for text in TEXTS])
    torch.testing.assert_close(vectors, alone, atol=1e-5, rtol=1e-4)
    if normalize:
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(TEXTS)))
    # A document of one stretch has the vector that the model alone gives it.
    short = tokenizer(TEXTS[0], return_tensors="pt")
    hidden = model(**short).last_hidden_state[0]
    expected = hidden[0] if pooling == "first" else hidden.mean(0)
    torch.testing.assert_close(vectors[0], expected / expected.norm() if normalize else expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "feature-extraction"])
def test_parquet_holds_the_same(task: str, corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    predict(plan_of(task, task_checkpoints, corpus, tmp_path / "lines"))
    predict(plan_of(task, task_checkpoints, corpus, tmp_path / "tables", format="parquet"))
    tables = [parquet.read_table(path) for path in sorted((tmp_path / "tables").glob("*.parquet"))]
    assert all(table.schema == tables[0].schema for table in tables)
    read = [row for table in tables for row in table.to_pylist()]
    for row, line in zip(read, rows_of(tmp_path / "lines"), strict=True):
        if "scores" in row:
            row["scores"] = dict(row["scores"])
        assert {name: value for name, value in row.items() if value is not None} == line


# Processes that start with what is imported, and without the threads of this one, which do not survive a fork.
FRESH = get_context("forkserver")
FRESH.set_forkserver_preload(["longformer_plus.integrations.prediction"])


def announce_and_predict(starts: Any, plan: PredictionPlan) -> None:
    """Run a plan, and say when."""
    starts.set()
    predict(plan)


def run_and_kill(plan: PredictionPlan, seconds: float) -> tuple[bool, float]:
    """Run a plan in a process of its own and kill it after some time: whether it still ran, and for how long it did."""
    starts = FRESH.Event()
    process = FRESH.Process(target=announce_and_predict, args=(starts, plan))
    process.start()
    assert starts.wait(60)
    began = time.monotonic()
    process.join(seconds)
    elapsed, was_running = time.monotonic() - began, process.is_alive()
    process.kill()
    process.join()
    assert was_running or process.exitcode == 0
    return was_running, elapsed


@pytest.mark.parametrize("kills", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_and_resumed_writes_the_same(
    kills: int, corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    def plan(name: str) -> PredictionPlan:
        folder = tmp_path / name
        return plan_of("text-classification", task_checkpoints, corpus, folder, resume=True, part_size=2)

    was_killed, seconds = run_and_kill(plan("whole"), 300)
    assert not was_killed
    whole, generator = content(tmp_path / "whole"), random.Random(0)
    count, run = 0, 0
    while count < kills:
        while run_and_kill(plan(f"{run}"), generator.uniform(0, seconds))[0]:
            count += 1
        assert content(tmp_path / f"{run}") == whole
        run += 1


def test_a_file_gets_its_name_when_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, steps, real = tmp_path / "part", [], os.fsync

    def sync(descriptor: int) -> None:
        real(descriptor)
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append(("folder" if is_folder else os.fstat(descriptor).st_size, path.exists()))

    monkeypatch.setattr(parts_module.os, "fsync", sync)
    parts_module.write_whole(path, b"whole")
    assert steps == [(5, False), ("folder", True)]
    assert content(tmp_path) == {"part": b"whole"}


def test_a_disk_that_is_full_at_any_moment(
    corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run may write one file more than that before it."""
    plan = plan_of("text-classification", task_checkpoints, corpus, tmp_path / "whole", part_size=8)
    predict(plan)
    plan.output, plan.resume = tmp_path / "out", True
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(parts_module.os, "fsync", full)
    for attempt in range(20):
        calls = 0
        with contextlib.suppress(OSError):
            predict(plan)
            assert attempt > 2
            break
        assert not list((tmp_path / "out").glob(".*"))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_has_changed_is_named_and_refused(corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps({"text": TEXTS[0]}) + "\n")
    plan = plan_of("text-classification", task_checkpoints, source, tmp_path / "out")
    predict(plan)
    with pytest.raises(FileExistsError, match=r"out is not empty\. Name another folder, or go on with the run"):
        predict(plan)
    before = content(tmp_path / "out")
    for name, value in (("batch_tokens", 700), ("max_length", 50), ("columns", {"text": "body"})):
        changed = plan_of(
            "text-classification", task_checkpoints, source, tmp_path / "out", resume=True, **{name: value}
        )
        with pytest.raises(ValueError, match=f"another {name}"):
            predict(changed)
    plan.resume = True
    assert predict(plan).documents == 1
    assert content(tmp_path / "out") == before
    source.write_text(json.dumps({"text": TEXTS[1]}) + "\n")
    with pytest.raises(ValueError, match=r"other files: .*rows\.jsonl has changed"):
        predict(plan)
    plan.output = corpus
    with pytest.raises(ValueError, match=r"holds no run that could be resumed"):
        predict(plan)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "sleep"}, "task='sleep' is not allowed"),
        ({"format": "csv"}, "format='csv' is not allowed: it must be one of 'jsonl', 'parquet'"),
        ({"precision": "int4"}, "precision='int4' is not allowed"),
        ({"part_size": 0}, "part_size=0 is not allowed"),
        ({"question": "who"}, "question='who' is not allowed: text-classification asks none"),
        ({"normalize": True}, "pooling and normalize are for feature-extraction"),
        (
            {"columns": {"text": "nothing"}, "input": ["rows.csv"]},
            "line 2: has no 'text'; it has 'body'",
        ),
        ({"input": ["empty.csv"]}, "has no documents"),
        ({"input": ["."]}, r"out lies in \., which is read: name a folder outside of it"),
        ({"task": "question-answering"}, "has no 'question'"),
    ],
)
def test_mistakes_are_named(
    changes: dict[str, Any],
    message: str,
    corpus: Path,
    task_checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("body\nhello\n")
    Path("empty.csv").write_text("text\n")
    plan = plan_of("text-classification", task_checkpoints, corpus, tmp_path / "out")
    for name, value in changes.items():
        setattr(plan, name, value)
    with pytest.raises(ValueError, match=message):
        predict(plan)


def test_a_program_that_shows_no_progress_bars_predicts(
    corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    logging.disable_progress_bar()
    try:
        predict(plan_of("text-classification", task_checkpoints, corpus / "*.txt", tmp_path / "out"))
    finally:
        logging.enable_progress_bar()
    assert len(rows_of(tmp_path / "out")) == 3


def test_a_checkpoint_without_the_head_is_refused(
    corpus: Path, task_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    plan = plan_of("text-classification", task_checkpoints, corpus, tmp_path / "out")
    plan.model = str(task_checkpoints["fill-mask"])
    with pytest.raises(ValueError, match="has no head for text-classification"):
        predict(plan)
