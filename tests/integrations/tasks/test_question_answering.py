"""Answers scored while training."""

from __future__ import annotations

import pytest
import torch
from transformers import EvalPrediction

from longformer_plus import LongformerPlusTokenizer

pytest.importorskip("evaluate")
from longformer_plus.integrations.data.question_features import prepare_questions
from longformer_plus.integrations.data.sources import Record
from longformer_plus.integrations.tasks.question_answering import TASK, best_answers

from ...fine_tuning import rows


def logits_for(prepared, sure: dict[int, float], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits by which each feature that holds its answer says so, as surely as told by question."""
    start, end = torch.zeros(len(prepared), length), torch.zeros(len(prepared), length)
    for index, feature in enumerate(prepared):
        if feature["start_positions"]:
            start[index, feature["start_positions"]] = end[index, feature["end_positions"]] = sure[
                prepared.document_of[index]
            ]
        else:
            start[index, 0] = end[index, 0] = 9.0
            # A better span than any in the question, which is no answer.
            start[index, 2] = end[index, 2] = 50.0
    return start, end


def test_the_best_answer_over_all_stretches(tokenizer: LongformerPlusTokenizer) -> None:
    answerable = [Record(f"{i}", row) for i, row in enumerate(rows("question-answering", 6, length=100))]
    prepared = prepare_questions(answerable, tokenizer, 60, 10)
    assert len(prepared) > 12
    shrunk = TASK.shrink_logits(logits_for(prepared, dict.fromkeys(range(6), 5.0), length=60), None)
    evaluated = EvalPrediction(tuple(each.numpy() for each in shrunk), ())
    assert TASK.compute_metrics(prepared)(evaluated) == {"exact_match": 100.0, "f1": 100.0}

    without = [*answerable, Record("none", {**answerable[0].row, "answers": {"text": [], "answer_start": []}})]
    prepared = prepare_questions(without, tokenizer, 60, 10)
    sure = {0: -5.0, **dict.fromkeys(range(1, 6), 5.0)}
    shrunk = TASK.shrink_logits(logits_for(prepared, sure, length=60), None)
    answers = best_answers(*(each.numpy() for each in shrunk), prepared)
    assert answers[6] == ""
    assert answers[1:6] == [record.row["answers"]["text"][0] for record in answerable[1:]]
