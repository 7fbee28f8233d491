"""Documents of any length give what they would give in one piece, where the model looks at each token alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import pipeline

import longformer_plus
from longformer_plus import LongformerPlusTokenizer
from longformer_plus.integrations.data.stretches import StretchReader
from longformer_plus.integrations.long_documents import (
    Answer,
    answer_question,
    answer_questions,
    classify_document,
    classify_documents,
    find_entities,
    register_pipeline,
    tag_document,
    tag_documents,
)
from longformer_plus.model.outputs import LongformerPlusQuestionAnsweringOutput, LongformerPlusTokenClassifierOutput

from ...cases import small_config, spread

QUESTION = "Who wrote the letter?"
DOCUMENT = " ".join(f"Paragraph {n}: the letter of Émile, no. {n * n}, was sent 🙂 late!" for n in range(40))
WORDS = [word for n in range(60) for word in ("Anna", "Karenina", "went", "to", f"Petersburg{n}", ".")]


class ByToken(longformer_plus.LongformerPlusForQuestionAnswering):
    """Each token's logits are looked up by its id."""

    def forward(self, input_ids: Tensor, **_: Any) -> LongformerPlusQuestionAnsweringOutput:  # type: ignore[override]
        start, end = ((input_ids * factor % 101) / 20.0 for factor in (37, 59))
        return LongformerPlusQuestionAnsweringOutput(start_logits=start, end_logits=end)


class TagByToken(longformer_plus.LongformerPlusForTokenClassification):
    """Each token's class is its id modulo 5."""

    def forward(self, input_ids: Tensor, **_: Any) -> LongformerPlusTokenClassifierOutput:  # type: ignore[override]
        return LongformerPlusTokenClassifierOutput(logits=torch.nn.functional.one_hot(input_ids % 5, 5) * 3.0)


@pytest.fixture(scope="module")
def tokenizer(vocabulary_folder: Path) -> LongformerPlusTokenizer:
    return LongformerPlusTokenizer.from_pretrained(vocabulary_folder)


@pytest.fixture(scope="module")
def word_tokenizer(vocabulary_folder: Path) -> LongformerPlusTokenizer:
    return LongformerPlusTokenizer.from_pretrained(vocabulary_folder, add_prefix_space=True)


def make(cls: Any, tokenizer: LongformerPlusTokenizer, **changes: Any) -> Any:
    torch.manual_seed(0)
    fields = {"vocab_size": len(tokenizer), "max_position_embeddings": 3000, "type_vocab_size": 1, **changes}
    return spread(cls(small_config(**fields))).eval()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_each_token_belongs_to_one_stretch(tokenizer: LongformerPlusTokenizer, data: st.DataObject) -> None:
    model = make(ByToken, tokenizer)
    question = data.draw(st.sampled_from([None, QUESTION]))
    asked = 2 if question is None else 4 + len(tokenizer(question, add_special_tokens=False)["input_ids"])
    max_length = data.draw(st.integers(asked + 1, 300))
    overlap = data.draw(st.integers(0, max_length - asked - 1))
    document = DOCUMENT[: data.draw(st.integers(5, len(DOCUMENT)))]
    tokenizer.truncation_side = data.draw(st.sampled_from(["left", "right"]))
    try:
        stretches = StretchReader(model, tokenizer, max_length, overlap).cut(document, question)
    finally:
        tokenizer.truncation_side = "right"
    assert all(len(stretch.encoding.ids) <= max_length for stretch in stretches)
    own = [token for stretch in stretches for token in stretch.encoding.ids[stretch.tokens][stretch.own]]
    assert own == tokenizer(document, add_special_tokens=False)["input_ids"]
    for stretch in stretches:
        before, behind = stretch.own.start, stretch.tokens.stop - stretch.tokens.start - stretch.own.stop
        assert before in (0, (overlap + 1) // 2)
        assert behind in (0, overlap // 2)


def every_span(tokenizer: LongformerPlusTokenizer, document: str, longest: int) -> list[Answer]:
    """What `ByToken` answers, written out."""
    encoding = tokenizer(document, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    logits: dict[tuple[int, int], float] = {}
    for first, token in enumerate(ids):
        for last in range(first, min(first + longest, len(ids))):
            whole = first == 0 or offsets[first] != offsets[first - 1]
            whole = whole and (last + 1 == len(ids) or offsets[last] != offsets[last + 1])
            if whole and all(offsets[edge][0] < offsets[edge][1] for edge in (first, last)):
                logits[first, last] = (token * 37 % 101 + ids[last] * 59 % 101) / 20
    total = torch.tensor(list(logits.values()), dtype=torch.float64).exp().sum()
    answers = []
    for (first, last), logit in logits.items():
        start, end = offsets[first][0], offsets[last][1]
        score = float(torch.tensor(logit, dtype=torch.float64).exp() / total)
        answers.append(Answer(document[start:end], start, end, score))
    return sorted(answers, key=lambda answer: -answer.score)


@settings(max_examples=15, deadline=None)
@given(max_length=st.integers(45, 200), overlap=st.integers(16, 25), batch_size=st.integers(1, 5))
def test_answers_are_those_of_the_document_in_one_piece(
    tokenizer: LongformerPlusTokenizer, max_length: int, overlap: int, batch_size: int
) -> None:
    model = make(ByToken, tokenizer)
    options = {"max_length": max_length, "overlap": overlap, "batch_size": batch_size}
    have = answer_question(model, tokenizer, QUESTION, DOCUMENT, top_k=20, max_answer_tokens=8, **options)
    want = every_span(tokenizer, DOCUMENT, 8)
    assert [answer.score for answer in have] == pytest.approx([answer.score for answer in want[:20]], rel=1e-4)
    spans = {(answer.start, answer.end): answer for answer in want}
    for answer in have:
        expected = spans[answer.start, answer.end]
        assert answer.text == expected.text == DOCUMENT[answer.start : answer.end]
        assert answer.score == pytest.approx(expected.score, rel=1e-4)


def test_scores_of_all_spans_sum_to_one(tokenizer: LongformerPlusTokenizer) -> None:
    model = make(longformer_plus.LongformerPlusForQuestionAnswering, tokenizer)
    document = DOCUMENT[:600]
    options = {"max_length": 60, "overlap": 12, "top_k": 100_000, "max_answer_tokens": 4}
    answers = answer_question(model, tokenizer, QUESTION, document, **options)
    assert sum(answer.score for answer in answers) == pytest.approx(1, abs=1e-4)
    with_null = answer_question(model, tokenizer, QUESTION, document, null_answer=True, **options)
    assert len(with_null) == len(answers) + 1
    assert sum(answer.score for answer in with_null) == pytest.approx(1, abs=1e-4)
    nulls = [answer for answer in with_null if not answer.text]
    assert [(null.start, null.end) for null in nulls] == [(0, 0)]


def test_the_null_answer_is_that_of_the_surest_stretch(tokenizer: LongformerPlusTokenizer) -> None:
    class Null(longformer_plus.LongformerPlusForQuestionAnswering):
        """Finds "<mask>", and no answer in stretches that lack it."""

        def forward(self, input_ids: Tensor, **_: Any) -> LongformerPlusQuestionAnsweringOutput:  # type: ignore[override]
            found = input_ids == tokenizer.mask_token_id
            logits = torch.where(found, 20.0, -5.0)
            logits[:, 0] = torch.where(found.any(1), -10.0, 15.0)
            return LongformerPlusQuestionAnsweringOutput(start_logits=logits, end_logits=logits)

    model = make(Null, tokenizer)
    options = {"max_length": 64, "overlap": 16, "max_answer_tokens": 8, "null_answer": True}
    without = DOCUMENT[:900]
    assert answer_question(model, tokenizer, QUESTION, without, **options)[0].text == ""
    best = answer_question(model, tokenizer, QUESTION, f"{without} <mask> {without}", **options)[0]
    assert (best.text, best.start) == ("<mask>", 901)
    assert best.score > 0.99


def test_several_questions_at_once(tokenizer: LongformerPlusTokenizer) -> None:
    model = make(longformer_plus.LongformerPlusForQuestionAnswering, tokenizer).train()
    questions, documents = [QUESTION, "When?", "No?"], [DOCUMENT, DOCUMENT[:200], DOCUMENT[:700]]
    options = {"max_length": 100, "top_k": 3}
    together = answer_questions(model, tokenizer, questions, documents, batch_size=4, **options)
    assert model.training
    for question, document, answers in zip(questions, documents, together, strict=True):
        alone = answer_question(model, tokenizer, question, document, batch_size=1, **options)
        assert [(answer.start, answer.end) for answer in alone] == [(answer.start, answer.end) for answer in answers]
        assert [answer.score for answer in alone] == pytest.approx([answer.score for answer in answers], rel=1e-3)


def test_longformers_of_transformers_and_adapters(tokenizer: LongformerPlusTokenizer, tmp_path: Path) -> None:
    theirs = make(transformers.LongformerForQuestionAnswering, tokenizer, attention_window=8)
    theirs.save_pretrained(tmp_path)
    ours = longformer_plus.LongformerPlusForQuestionAnswering.from_pretrained(tmp_path)
    options = {"max_length": 100, "top_k": 3}
    want = answer_question(ours, tokenizer, QUESTION, DOCUMENT, **options)
    have = answer_question(theirs, tokenizer, QUESTION, DOCUMENT, **options)
    assert [answer.text for answer in have] == [answer.text for answer in want]
    assert [answer.score for answer in have] == pytest.approx([answer.score for answer in want], rel=1e-3)

    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(ours, peft.LoraConfig(task_type="QUESTION_ANS"))
    have = answer_question(adapted, tokenizer, QUESTION, DOCUMENT, **options)
    assert [answer.text for answer in have] == [answer.text for answer in want]


@pytest.mark.parametrize(
    ("head", "judge"), [("SequenceClassification", classify_document), ("TokenClassification", tag_document)]
)
def test_classes_and_tags_of_longformers_of_transformers(
    tokenizer: LongformerPlusTokenizer, head: str, judge: Any, tmp_path: Path
) -> None:
    theirs = make(getattr(transformers, f"LongformerFor{head}"), tokenizer, attention_window=8)
    theirs.save_pretrained(tmp_path)
    ours = getattr(longformer_plus, f"LongformerPlusFor{head}").from_pretrained(tmp_path)
    document = DOCUMENT[:800]
    have, want = (judge(model, tokenizer, document, max_length=60, overlap=10) for model in (theirs, ours))
    if head == "SequenceClassification":
        have, want = [have], [want]
    assert [each.label for each in have] == [each.label for each in want]
    assert [each.score for each in have] == pytest.approx([each.score for each in want], abs=1e-4)


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_classes_of_a_document(tokenizer: LongformerPlusTokenizer, problem: str) -> None:
    cls = longformer_plus.LongformerPlusForSequenceClassification
    labels = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}
    model = make(cls, tokenizer, **labels, problem_type=problem)
    short = DOCUMENT[:300]
    with torch.no_grad():
        logits = model(**tokenizer(short, return_tensors="pt")).logits[0]
    want = {"regression": logits, "multi_label_classification": logits.sigmoid()}.get(problem, logits.softmax(0))
    have = classify_document(model, tokenizer, short)
    assert list(have.scores.values()) == pytest.approx(want.tolist(), abs=1e-5)
    assert have.scores[have.label] == have.score == max(have.scores.values())

    reader = StretchReader(model, tokenizer, max_length=50, overlap=11)
    stretches = reader.cut(DOCUMENT)
    assert len(stretches) > 5
    total, weights = torch.zeros(3), 0
    for stretch in stretches:
        with torch.no_grad():
            logits = model(torch.tensor([stretch.encoding.ids])).logits[0]
        values = {"regression": logits, "multi_label_classification": logits.sigmoid()}.get(problem, logits.softmax(0))
        total += values * (stretch.own.stop - stretch.own.start)
        weights += stretch.own.stop - stretch.own.start
    long = classify_documents(model, tokenizer, [short, DOCUMENT], max_length=50, overlap=11)[1]
    assert list(long.scores.values()) == pytest.approx((total / weights).tolist(), abs=1e-5)


TAGS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}


@settings(max_examples=15, deadline=None)
@given(max_length=st.integers(20, 200), overlap=st.integers(0, 12))
def test_every_word_is_tagged_once(
    tokenizer: LongformerPlusTokenizer, word_tokenizer: LongformerPlusTokenizer, max_length: int, overlap: int
) -> None:
    model = make(TagByToken, tokenizer, num_labels=5, id2label=TAGS)
    tags = tag_document(model, word_tokenizer, WORDS, max_length=max_length, overlap=overlap)
    firsts = [word_tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in WORDS]
    assert [tag.label for tag in tags] == [TAGS[first % 5] for first in firsts]
    joined = " ".join(WORDS)
    assert [joined[tag.start : tag.end] for tag in tags] == WORDS

    cut, whole = (
        tag_documents(model, tokenizer, [DOCUMENT], max_length=max_length, overlap=overlap),
        tag_document(model, tokenizer, DOCUMENT),
    )
    assert cut[0] == whole
    assert "".join(DOCUMENT[tag.start : tag.end] for tag in whole).replace(" ", "") == DOCUMENT.replace(" ", "")


@pytest.mark.parametrize("side", ["right", "left"])
def test_documents_that_are_cut_together_are_judged_as_one_by_one(
    word_tokenizer: LongformerPlusTokenizer, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_tokenizer, "truncation_side", side)
    model = make(TagByToken, word_tokenizer, num_labels=5, id2label=TAGS)
    documents = ["a short one", DOCUMENT, WORDS, WORDS[:7], DOCUMENT[40:], "the last"]
    options = {"max_length": 60, "overlap": 10, "batch_tokens": 150}
    together = tag_documents(model, word_tokenizer, documents, **options)
    assert together == [tag_document(model, word_tokenizer, document, **options) for document in documents]


def test_entities() -> None:
    words = ["Anna", "Karenina", "met", "Levin", "Oblonsky", "in", "Moscow", ",", "not", "Tver"]
    labels = ["B-PER", "I-PER", "O", "B-PER", "B-PER", "O", "I-LOC", "O", "O", "LOC"]
    starts = [len(" ".join(words[:index])) + (index > 0) for index in range(len(words))]
    tags = [
        longformer_plus.integrations.long_documents.Tag(label, 0.5, start, start + len(word))
        for label, start, word in zip(labels, starts, words, strict=True)
    ]
    entities = find_entities(words, tags)
    assert [(entity.label, entity.text) for entity in entities] == [
        ("PER", "Anna Karenina"),
        ("PER", "Levin"),
        ("PER", "Oblonsky"),
        ("LOC", "Moscow"),
        ("LOC", "Tver"),
    ]
    assert find_entities(" ".join(words), tags) == entities


def test_progress_is_shown_when_asked(tokenizer: LongformerPlusTokenizer, capsys: pytest.CaptureFixture) -> None:
    model = make(ByToken, tokenizer)
    answer_question(model, tokenizer, QUESTION, DOCUMENT)
    assert not capsys.readouterr().err
    answer_question(model, tokenizer, QUESTION, DOCUMENT, max_length=100, show_progress=True)
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"document": " \n"}, "document is empty"),
        ({"question": " "}, "Question 0 is empty"),
        ({"question": "why " * 200}, "has room for 0 of .* Shorten the question"),
        ({"overlap": 95}, "overlap=95 is not allowed: a stretch has room for [0-9]+ of"),
        ({"overlap": -1}, "overlap=-1 is not allowed"),
        ({"overlap": 20}, "must share 60 tokens"),
        ({"overlap": 0}, "must share 60 tokens"),
        ({"max_length": 5000}, "positions for 1 to 2998"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"top_k": 0}, "top_k=0"),
        ({"max_answer_tokens": 0}, "max_answer_tokens=0"),
    ],
)
def test_wrong_input_is_refused(tokenizer: LongformerPlusTokenizer, changes: dict[str, Any], message: str) -> None:
    arguments = {"question": QUESTION, "document": DOCUMENT, "max_length": 90, **changes}
    with pytest.raises(ValueError, match=message):
        answer_question(make(ByToken, tokenizer), tokenizer, **arguments)


def test_models_without_the_head_are_refused(
    tokenizer: LongformerPlusTokenizer, word_tokenizer: LongformerPlusTokenizer
) -> None:
    answering, tagging = make(ByToken, tokenizer), make(TagByToken, tokenizer, num_labels=5)
    with pytest.raises(TypeError, match="load it for question answering"):
        answer_question(tagging, tokenizer, QUESTION, DOCUMENT)
    with pytest.raises(TypeError, match="load it for sequence classification"):
        classify_document(tagging, tokenizer, DOCUMENT)
    with pytest.raises(TypeError, match="load it for token classification"):
        tag_document(answering, tokenizer, DOCUMENT)
    with pytest.raises(ValueError, match="words is empty"):
        tag_document(tagging, word_tokenizer, ["a", " "])
    with pytest.raises(ValueError, match="2 questions for 1 documents"):
        answer_questions(answering, tokenizer, [QUESTION] * 2, [DOCUMENT])


def test_the_pipeline(tokenizer: LongformerPlusTokenizer, tmp_path: Path) -> None:
    make(longformer_plus.LongformerPlusForQuestionAnswering, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    register_pipeline()
    pipe = pipeline("question-answering", model=str(tmp_path), device="cpu", max_length=100, batch_size=3)
    best = answer_question(pipe.model, tokenizer, QUESTION, DOCUMENT, max_length=100, top_k=2)
    want = [{"score": answer.score, "start": answer.start, "end": answer.end, "answer": answer.text} for answer in best]
    sample = {"question": QUESTION, "context": DOCUMENT}
    pipe.save_pretrained(tmp_path / "saved")
    assert [path.name for path in (tmp_path / "saved").glob("*.py")] == ["modeling_longformer_plus.py"]
    again = pipeline("question-answering", model=str(tmp_path / "saved"), device="cpu", max_length=100)
    assert again(**sample) == pytest.approx(want[0])
    assert pipe(**sample) == pytest.approx(want[0])
    assert pipe(sample) == pytest.approx(want[0])
    assert [len(answers) for answers in pipe([sample, sample], top_k=2)] == [2, 2]
    assert pipe(question=[QUESTION], context=[DOCUMENT])[0] == pytest.approx(want[0])
    assert len(pipe(sample, top_k=2)) == 2
    assert pipe(sample, handle_impossible_answer=True, max_answer_len=5, doc_stride=20)["score"] > 0
    for wrong in ({"question": QUESTION}, {"question": [QUESTION], "context": DOCUMENT}):
        with pytest.raises(ValueError, match="context"):
            pipe(**wrong)
    with pytest.raises(ValueError, match="give a dict"):
        pipe("Who?")
