from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from longformer_plus import (
    LongformerPlusConfig,
    LongformerPlusForMaskedLM,
    LongformerPlusForQuestionAnswering,
    LongformerPlusForSequenceClassification,
    LongformerPlusForTokenClassification,
    cli,
)
from longformer_plus.integrations.checkpoints import load_checkpoint
from longformer_plus.integrations.data.tokenizer import train_tokenizer
from longformer_plus.integrations.evaluation import EvaluationPlan, evaluate_checkpoint
from longformer_plus.integrations.metrics import baselines
from longformer_plus.integrations.tasks import fill_mask

TEXT = (
    "The harbour lay quiet before the storm. Boats were drawn up on the sand, and nets hung on the walls. "
    "Anna Byrne mended the sails in Galway while her brother Tom counted the coins that the fish had brought. "
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory):
    """Writes a small checkpoint with the head of a task; gives its folder."""
    root = tmp_path_factory.mktemp("evaluation")
    (root / "text.jsonl").write_text(json.dumps({"text": TEXT * 8}) + "\n")
    tokenizer = train_tokenizer([str(root / "text.jsonl")], 400, max_length=128, num_characters=4000)

    def write(kind: type, **changes: object) -> Path:
        folder = root / kind.__name__
        torch.manual_seed(0)
        config = LongformerPlusConfig(
            vocab_size=len(tokenizer),
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=40,
            max_position_embeddings=130,
            attention_window=16,
            **changes,
        )
        kind(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return write


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_hidden_tokens_are_scored_as_the_model_scores_them(checkpoint, tmp_path: Path) -> None:
    folder = checkpoint(LongformerPlusForMaskedLM)
    source = write_rows(tmp_path / "long.jsonl", [{"text": TEXT * 3}, {"text": "Short."}])
    scores = evaluate_checkpoint(EvaluationPlan("fill-mask", folder, [source], contexts=[34, 66]))
    assert list(scores) == ["long.jsonl, 34 tokens", "long.jsonl, 66 tokens"]
    model, tokenizer = load_checkpoint("fill-mask", folder)
    stretches = list(fill_mask._stretches([TEXT * 3], tokenizer, [34, 66]))
    assert [len(each) for each in stretches] == [64] * len(stretches)
    losses = []
    for ids in stretches:
        hidden = torch.rand(64, generator=torch.Generator().manual_seed(0)) < 0.15
        row = torch.cat([torch.tensor([0]), ids.masked_fill(hidden, tokenizer.mask_token_id), torch.tensor([2])])
        logits = model(row[None]).logits[0, 1:-1]
        losses.append(F.cross_entropy(logits[hidden], ids[hidden]))
    assert scores["long.jsonl, 66 tokens"]["token_loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)
    assert 0 <= scores["long.jsonl, 66 tokens"]["no_worse_than_shortest"] <= 1


def test_a_last_piece_may_be_shorter() -> None:
    rows = list(fill_mask._rows(torch.arange(10), 4))
    assert [each.tolist() for each in rows] == [[[0, 1, 2, 3], [4, 5, 6, 7]], [[8, 9]]]


def test_answers_are_scored_beside_baselines(checkpoint, tmp_path: Path) -> None:
    paragraphs = [TEXT, "Nothing else happened."]
    rows = [
        {
            "title": "Harbour",
            "context": context,
            "question": question,
            "answers": {"text": [answer], "answer_start": [context.index(answer)]},
        }
        for context, question, answer in (
            (paragraphs[0], "Who mended the sails in Galway?", "Anna Byrne"),
            (paragraphs[1], "What happened else?", "Nothing"),
        )
    ]
    source = write_rows(tmp_path / "questions.jsonl", rows)
    plan = EvaluationPlan(
        "question-answering", checkpoint(LongformerPlusForQuestionAnswering), [source], join_by="title"
    )
    scores = evaluate_checkpoint(plan)
    assert list(scores) == ["model", "first sentence", "likest window"]
    # The window around the question's words holds the answer; the first sentence does not.
    assert scores["likest window"]["f1"] > scores["first sentence"]["f1"]


def test_classes_are_scored_beside_words(checkpoint, tmp_path: Path) -> None:
    rows = [{"text": f"{word} {TEXT}", "label": label} for word, label in (("good", "pos"), ("bad", "neg"))] * 4
    source = write_rows(tmp_path / "reviews.jsonl", rows)
    folder = checkpoint(LongformerPlusForSequenceClassification, id2label={0: "neg", 1: "pos"})
    scores = evaluate_checkpoint(EvaluationPlan("text-classification", folder, [source], train=[source]))
    assert scores["TF-IDF + logistic regression"]["accuracy"] == 1.0
    assert 0 <= scores["model"]["accuracy"] <= 1


def test_several_classes_of_a_document_are_scored_beside_words(checkpoint, tmp_path: Path) -> None:
    labelled = (("good", ["kind", "new"]), ("bad", ["new"]))
    rows = [{"text": f"{word} {TEXT}", "label": labels} for word, labels in labelled] * 4
    source = write_rows(tmp_path / "reviews.jsonl", rows)
    problem = {"id2label": {0: "kind", 1: "new"}, "problem_type": "multi_label_classification"}
    folder = checkpoint(LongformerPlusForSequenceClassification, **problem)
    scores = evaluate_checkpoint(EvaluationPlan("text-classification", folder, [source], train=[source]))
    assert scores["TF-IDF + logistic regression"]["exact_match"] == 1.0
    assert 0 <= scores["model"]["exact_match"] <= 1


def test_documents_are_read_in_stretches_of_the_length_asked_for(checkpoint, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "reviews.jsonl", [{"text": TEXT, "label": label} for label in ("pos", "neg")])
    folder = checkpoint(LongformerPlusForSequenceClassification, id2label={0: "neg", 1: "pos"})
    plan = EvaluationPlan("text-classification", folder, [source], max_length=24)
    assert 0 <= evaluate_checkpoint(plan)["model"]["accuracy"] <= 1
    with pytest.raises(ValueError, match="max_length=99999 is not allowed: the model has positions for 1 to"):
        evaluate_checkpoint(replace(plan, max_length=99999))
    with pytest.raises(ValueError, match="max_length is not for fill-mask"):
        evaluate_checkpoint(replace(plan, task="fill-mask"))


def test_entities_are_scored_beside_the_commonest_tag(checkpoint, tmp_path: Path) -> None:
    rows = [{"tokens": ["Anna", "saw", "Galway", "."], "ner_tags": ["B-PER", "O", "B-LOC", "O"]}] * 3
    source = write_rows(tmp_path / "tags.jsonl", rows)
    folder = checkpoint(LongformerPlusForTokenClassification, id2label={0: "O", 1: "B-PER", 2: "B-LOC"})
    scores = evaluate_checkpoint(EvaluationPlan("token-classification", folder, [source], train=[source]))
    assert scores["commonest tag of the word"]["f1"] == 1.0
    assert scores["model"]["f1"] < 1.0
    assert baselines.tag_by_word([["a", "a", "a"]], [["O", "B-X", "B-X"]], [["a", "b"]]) == [["B-X", "O"]]


def test_the_command_line_fills_prompts_and_writes_scores(checkpoint, tmp_path: Path, capsys) -> None:
    folder = checkpoint(LongformerPlusForMaskedLM)
    source = write_rows(tmp_path / "articles.jsonl", [{"title": "a", "context": TEXT * 2}])
    arguments = ["evaluate", "--task", "fill-mask", "--model", str(folder), "--eval", source, "--join-by", "title"]
    arguments += ["--columns", "text=context", "--contexts", "20", "60", "--json", str(tmp_path / "scores.json")]
    assert cli.main([*arguments, "--prompts", "The <mask> lay quiet."]) == 0
    written = json.loads((tmp_path / "scores.json").read_text())
    assert len(written["prompts"]["The <mask> lay quiet."]) == 5
    assert "articles.jsonl, 60 tokens: accuracy" in capsys.readouterr().out
    assert written["scores"]["articles.jsonl, 20 tokens"]["perplexity"] > 1


def test_contexts_without_positions_are_passed_over(checkpoint, tmp_path: Path, warnings_of_transformers) -> None:
    """The documents stay as long as those of a model that has the positions: its scores are of the same tokens."""
    folder = checkpoint(LongformerPlusForMaskedLM)
    source = write_rows(tmp_path / "articles.jsonl", [{"text": TEXT * 9}])
    scores = evaluate_checkpoint(EvaluationPlan("fill-mask", folder, [source], contexts=[20, 60, 5000]))
    assert list(scores) == ["articles.jsonl, 20 tokens", "articles.jsonl, 60 tokens"]
    assert "Not read in pieces of 5000" in warnings_of_transformers.text
    shorter = evaluate_checkpoint(EvaluationPlan("fill-mask", folder, [source], contexts=[20, 60]))
    assert shorter["articles.jsonl, 20 tokens"] != scores["articles.jsonl, 20 tokens"]
    with pytest.raises(ValueError, match=r"contexts=\[5000\] are too long: the model has positions for"):
        evaluate_checkpoint(EvaluationPlan("fill-mask", folder, [source], contexts=[5000]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "translation", "--eval", "x.jsonl"], "task='translation' is not allowed"),
        (["--task", "fill-mask", "--eval", "x.jsonl", "--contexts", "60", "20"], "the shortest first"),
        (["--task", "fill-mask"], "nothing to evaluate on"),
        (["--task", "fill-mask", "--prompts", "No mask."], "has 0 masks"),
    ],
)
def test_wrong_command_lines_are_named(checkpoint, arguments: list[str], message: str, capsys) -> None:
    folder = checkpoint(LongformerPlusForMaskedLM)
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--model", str(folder), *arguments])
    assert message in " ".join(capsys.readouterr().err.split())
