"""Rows become features: stretches, labels and answers stand where the text has them."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longformer_plus import LongformerPlusTokenizer

pytest.importorskip("datasets")
from longformer_plus.integrations.data.features import (
    class_names,
    prepare_choices,
    prepare_classification,
    prepare_tagging,
)
from longformer_plus.integrations.data.question_features import join_paragraphs, prepare_questions
from longformer_plus.integrations.data.sources import Record, read_records
from longformer_plus.integrations.data.stretches import overlapping_spans
from longformer_plus.integrations.tasks import TASKS

from ...fine_tuning import rows, sentence


def records(task: str, **options: int) -> list[Record]:
    return [Record(f"data, line {number}", row) for number, row in enumerate(rows(task, **options), start=1)]


@given(st.integers(1, 400), st.integers(2, 60), st.data())
def test_stretches_cover_everything_once(length: int, room: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, room - 1))
    stretches = overlapping_spans(length, room, overlap)
    owned = [place for start, stop, first, last in stretches for place in range(first, last)]
    assert owned == list(range(length))
    for start, stop, first, last in stretches:
        assert 0 <= start <= first < last <= stop <= length
        assert stop - start == min(room, length)
    for (_, stop, _, _), (start, _, _, _) in pairwise(stretches):
        assert stop - start >= overlap


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(40, 90), st.integers(4, 12))
def test_an_answer_is_found_wherever_it_stands(
    tokenizer: LongformerPlusTokenizer, seed: int, max_length: int, overlap: int
) -> None:
    generator = random.Random(seed)
    words = sentence(generator, 200).split()
    place = generator.randrange(200)
    start = len(" ".join(words[:place])) + (place > 0)
    row = {
        "question": "where is it",
        "context": " ".join(words),
        "answers": {"text": [words[place]], "answer_start": [start]},
    }
    prepared = prepare_questions([Record("here", row)], tokenizer, max_length, overlap)
    assert "0 of 1 answers are lost" in prepared.summary
    found = [feature for feature in prepared if feature["start_positions"]]
    assert found
    for feature in prepared:
        assert len(feature["input_ids"]) <= max_length
    for feature in found:
        answer = feature["input_ids"][feature["start_positions"] : feature["end_positions"] + 1]
        assert tokenizer.decode(answer).strip() == words[place]


def test_features_of_questions_are_the_tokenizers_pairs(tokenizer: LongformerPlusTokenizer) -> None:
    prepared = prepare_questions(records("question-answering"), tokenizer, 400)
    assert len(prepared) == 12
    for feature, record in zip(prepared, records("question-answering"), strict=True):
        pair = tokenizer(record.row["question"], record.row["context"])
        assert feature["input_ids"].tolist() == pair["input_ids"]


def test_answers_longer_than_what_stretches_share_are_counted_as_lost(tokenizer: LongformerPlusTokenizer) -> None:
    text = sentence(random.Random(0), 200)
    row = {"question": "all", "context": text, "answers": {"text": [text], "answer_start": [0]}}
    unanswered = {**row, "answers": {"text": [], "answer_start": []}}
    prepared = prepare_questions([Record("a", row), Record("b", unanswered)], tokenizer, 60, 8)
    assert "1 of 1 answers are lost (100.0%)" in prepared.summary
    assert not any(feature["start_positions"] for feature in prepared)
    few = prepare_questions(records("question-answering"), tokenizer, 40, 8, unanswered_share=0.0)
    assert all(feature["start_positions"] for feature in few)
    with pytest.raises(ValueError, match=r"overlap=8 is not allowed: a stretch has room for [0-9]+ of"):
        prepare_questions([Record("a", row)], tokenizer, 10, 8)


def test_paragraphs_are_joined_to_articles() -> None:
    joined = join_paragraphs(records("question-answering", count=7))
    contexts = [record.row["context"] for record in joined]
    assert contexts[0] == contexts[1] == contexts[2] != contexts[3]
    assert contexts[0] == "\n\n".join(row["context"] for row in rows("question-answering", 3))
    for record in joined:
        (start,), (text,) = record.row["answers"]["answer_start"], record.row["answers"]["text"]
        assert record.row["context"][start : start + len(text)] == text
    with pytest.raises(ValueError, match="data, line 1: has no 'chapter'"):
        join_paragraphs(records("question-answering"), "chapter")


def test_each_word_is_labelled_once_on_its_first_token(tokenizer: LongformerPlusTokenizer) -> None:
    long = records("token-classification", count=3, length=150)
    names = class_names(long, "ner_tags")
    assert names == ["B-LOC", "O"]
    prepared = prepare_tagging(long, tokenizer, names, 64, 16)
    for number, record in enumerate(long):
        mine = [feature for feature, document in zip(prepared, prepared.document_of, strict=True) if document == number]
        assert len(mine) > 1
        labels = np.concatenate([feature["labels"] for feature in mine])
        assert [names[label] for label in labels if label != -100] == record.row["ner_tags"]
        for feature in mine:
            assert len(feature["input_ids"]) == len(feature["labels"]) <= 64
            for token, label in zip(feature["input_ids"], feature["labels"], strict=True):
                if label == names.index("B-LOC"):
                    assert tokenizer.decode([token]).strip()[0] in "BP"


def test_words_that_attend_globally(tokenizer: LongformerPlusTokenizer) -> None:
    (record,) = records("token-classification", count=1)
    mask = [int(place == 2) for place in range(60)]
    prepared = prepare_tagging(
        [Record("a", {**record.row, "global_attention_mask": mask})], tokenizer, ["B-LOC", "O"], 400
    )
    chosen = prepared[0]["input_ids"][prepared[0]["global_attention_mask"] == 1]
    assert tokenizer.decode(chosen).strip() == record.row["tokens"][2]


def test_all_stretches_of_a_document_are_classified(tokenizer: LongformerPlusTokenizer) -> None:
    found = records("text-classification")
    prepared = prepare_classification(found, tokenizer, ["neg", "pos"], 32, 8)
    for number, record in enumerate(found):
        whole = tokenizer(record.row["text"])["input_ids"]
        mine = [place for place, document in enumerate(prepared.document_of) if document == number]
        stretches = [prepared[place]["input_ids"].tolist() for place in mine]
        assert stretches[0] == [*whole[:31], whole[-1]]
        assert stretches[-1] == [whole[0], *whole[-31:]]
        assert all(later[1:9] == former[-9:-1] for former, later in pairwise(stretches[:-1]))
        assert {prepared[place]["labels"] for place in mine} == {number % 2}
        assert sum(prepared.weights[place] for place in mine) == len(whole) - 2
    total = sum(prepared.weights)
    beyond = total - 30 * len(found)
    assert f"{beyond / total:.1%} of the tokens lie beyond the first stretches" in prepared.summary
    short = prepare_classification(found, tokenizer, ["neg", "pos"], 400)
    assert (len(short), short.document_of) == (12, list(range(12)))
    assert "0.0% of the tokens lie beyond" in short.summary


def test_several_labels_of_a_document(tokenizer: LongformerPlusTokenizer) -> None:
    several = [Record("a", {"text": "x", "label": ["pos"]}), Record("b", {"text": "x", "label": []})]
    labels = [feature["labels"] for feature in prepare_classification(several, tokenizer, ["neg", "pos"], 32)]
    assert labels == [[0.0, 1.0], [0.0, 0.0]]
    with pytest.raises(ValueError, match="Some rows have a label and others a list of labels"):
        prepare_classification([*several, Record("c", {"text": "x", "label": "pos"})], tokenizer, ["neg", "pos"], 32)


def test_unknown_and_useless_labels(tokenizer: LongformerPlusTokenizer) -> None:
    found = records("text-classification")
    with pytest.raises(ValueError, match="data, line 2: label 'pos' is out of range: the classes are 'neg', 'no'"):
        prepare_classification(found, tokenizer, ["neg", "no"], 32)
    with pytest.raises(ValueError, match="All rows have the label 'neg'"):
        class_names(found[:1], "label")
    with pytest.raises(ValueError, match="No row has a label: there is nothing to learn"):
        class_names([Record("a", {"label": []})], "label")
    mixed = [Record("a", {"label": 1}), Record("b", {"label": "x"})]
    with pytest.raises(ValueError, match="Some labels are numbers and some are names"):
        class_names(mixed, "label")
    assert class_names([Record("a", {"label": 10}), Record("b", {"label": 9})], "label")[9:] == [
        "9",
        "10",
    ]


def test_the_label_of_choices_may_be_the_text_of_a_table(tokenizer: LongformerPlusTokenizer, tmp_path: Path) -> None:
    source = tmp_path / "choices.csv"
    source.write_text('choices,label\n"[""a sea"", ""a river""]",1\n"[""a sea"", ""a river""]", 0\n')
    read = read_records([str(source)], TASKS["multiple-choice"].check)
    assert [feature["labels"] for feature in prepare_choices(read, tokenizer, 48)] == [1, 0]


def test_choices_keep_question_and_choice_whole(tokenizer: LongformerPlusTokenizer) -> None:
    prepared = prepare_choices(records("multiple-choice"), tokenizer, 48)
    for feature, row in zip(prepared, rows("multiple-choice"), strict=True):
        for ids, choice in zip(feature["input_ids"], row["choices"], strict=True):
            assert len(ids) <= 48
            assert tokenizer.decode(ids).endswith(f"what then {choice}</s>")
    assert "of 100.0% the context is cut" in prepared.summary
    with pytest.raises(ValueError, match="data, line 1: question and choice have"):
        prepare_choices(records("multiple-choice"), tokenizer, 8)
