"""What the browser is sent of a document's attention, and what it may ask."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gradio")

from longformer_plus.demo.analysis import POLICIES, AnalysedDocument, Analyzer
from longformer_plus.demo.checkpoints import Checkpoint
from longformer_plus.demo.inputs import InputError
from longformer_plus.demo.store import VisitorStore
from longformer_plus.demo.views import weights_view

TEXT = "The captain looked at the sea. The wind had blown for three days! <script>alert(1)</script> Who knows?\n" * 4


@pytest.fixture
def analyzer(task_checkpoints: dict[str, Path]) -> Analyzer:
    return Analyzer(Checkpoint(str(task_checkpoints["fill-mask"])), VisitorStore[AnalysedDocument](10_000_000))


def positions(packed: str) -> list[int]:
    data = base64.b64decode(packed)
    return [int.from_bytes(data[place : place + 4], "little") for place in range(0, len(data), 4)]


def test_weights_travel_as_bytes() -> None:
    weights = torch.tensor([0.0, 0.5, 0.01, 0.2])
    view = weights_view(weights)
    back = [view["largest"] * (code / 255) ** 2 for code in base64.b64decode(view["codes"])]
    assert back == pytest.approx(weights.tolist(), abs=0.5 / 255 * 2)


def test_a_document_is_explored(analyzer: Analyzer) -> None:
    view = analyzer.analyse("a", TEXT, "cls")
    json.dumps(view)
    document = view["document"]
    assert document["text"] == TEXT[: positions(document["stops"])[-2]]
    assert document["globals"] == [0]
    assert document["names"]["0"] == "<s>"
    assert view["band"]["width"] == document["numTokens"]
    answer = analyzer.answer("a", {"ask": "links", "token": 9, "layer": 1, "head": 2, "direction": "from"})
    kept = analyzer.store.get("a")
    assert kept is not None
    expected = kept.document.maps.links(9, "from", 1, 2)
    assert answer["links"]["strongest"][0][:2] == [expected.strongest[0].position, expected.strongest[0].weight]
    assert len(base64.b64decode(answer["links"]["weights"]["codes"])) == document["numTokens"]


@pytest.mark.parametrize(("layer", "head"), [(-1, -1), (0, 1)])
def test_each_question_has_its_own_answer(layer: int, head: int, analyzer: Analyzer) -> None:
    view = analyzer.analyse("a", TEXT, "cls")

    def ask(what: str) -> dict[str, Any]:
        answer = analyzer.answer("a", {"ask": what, "token": 5, "layer": layer, "head": head})
        json.dumps(answer, allow_nan=False)
        return answer

    weights = {}
    for what in ("links", "rollout", "gradient", "layer"):
        answer = ask(what)
        assert answer["kind"] == ("layer" if what == "layer" else "links")
        assert (answer["layer"], answer["head"]) == (layer, head)
        weights[what] = answer["links"]["weights"]
        assert weights[what]["largest"] > 0
        assert len(base64.b64decode(weights[what]["codes"])) == view["document"]["numTokens"]
    assert weights["layer"] == weights["links"]
    assert len({weights[what]["codes"] for what in ("links", "rollout", "gradient")}) == 3
    page = ask("page")
    assert page["kind"] == "page"
    assert "<html" in page["page"]
    # Last: it makes another view.
    assert ask("global")["document"]["globals"] == [0, 5]


def test_pictures_are_as_fine_as_the_page_can_show(analyzer: Analyzer) -> None:
    analyzer.analyse("a", TEXT, "cls")
    for layer in (-1, 0):
        view = analyzer.answer("a", {"ask": "layer", "token": 5, "layer": layer, "columns": 30, "rows": 6})
        picture, tokens = view["band"], len(base64.b64decode(view["received"]["codes"]))
        assert picture["width"] == -(-tokens // picture["tokensPerColumn"])
        assert 15 < picture["width"] <= 30
        assert 3 < picture["height"] <= 6
        assert len(base64.b64decode(picture["shades"])) == picture["width"] * picture["height"]
        whole = analyzer.answer("a", {"ask": "layer", "token": 5, "layer": layer})["band"]
        assert whole["width"] == tokens
        assert whole["largest"] == picture["largest"]


def test_a_click_makes_a_token_global_and_local_again(analyzer: Analyzer) -> None:
    analyzer.analyse("a", TEXT, "none")
    assert analyzer.answer("a", {"ask": "global", "token": 7})["document"]["globals"] == [7]
    view = analyzer.answer("a", {"ask": "global", "token": 3})
    assert view["document"]["globals"] == [3, 7]
    assert view["links"]["token"] == 3
    assert view["fromGlobal"]["height"] == 2
    assert analyzer.answer("a", {"ask": "global", "token": 7})["document"]["globals"] == [3]


def test_policies_choose_tokens(analyzer: Analyzer) -> None:
    chosen = {}
    for name in POLICIES:
        view = analyzer.analyse("a", TEXT, analyzer.policy(name))["document"]
        starts, stops = positions(view["starts"]), positions(view["stops"])
        chosen[name] = [view["text"][starts[place] : stops[place]] for place in view["globals"]]
    assert chosen["first token"] == [""]
    assert chosen["none"] == []
    assert set(chosen["full stops"]) == {".", "!", "?"}
    with pytest.raises(InputError, match="no such choice"):
        analyzer.policy("all")


def test_too_many_global_tokens_are_refused_before_the_model_runs(
    analyzer: Analyzer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longformer_plus.demo.analysis.MOST_GLOBAL_TOKENS", 10)
    monkeypatch.setattr("longformer_plus.demo.analysis.attention_maps", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(InputError, match=r"99 tokens would attend globally; at most 10"):
        analyzer.analyse("a", "a. " * 99, analyzer.policy("full stops"))


def test_long_documents_are_cut_with_a_word_about_it(analyzer: Analyzer) -> None:
    view = analyzer.analyse("a", TEXT * 5)
    assert view["document"]["numTokens"] == 200
    assert "first 200 tokens" in view["cut"]
    assert analyzer.analyse("a", "Short.")["cut"] == ""


@pytest.mark.parametrize(
    "question",
    [
        {},
        [1],
        "links",
        None,
        {"ask": "passwords"},
        {"ask": "links", "token": 10**9},
        {"ask": "links", "token": -1},
        {"ask": "links", "token": "<b>"},
        {"ask": "links", "token": 1, "layer": 77},
        {"ask": "links", "token": 1, "head": [1]},
        {"ask": "links", "token": 1, "direction": "up"},
        {"ask": "layer", "token": 1, "columns": 0},
        {"ask": "layer", "token": 1, "rows": "many"},
    ],
)
def test_questions_that_make_no_sense_are_refused(analyzer: Analyzer, question: Any) -> None:
    analyzer.analyse("a", TEXT)
    with pytest.raises(InputError, match="Reload"):
        analyzer.answer("a", question)


def test_visitors_see_their_own_document(analyzer: Analyzer) -> None:
    analyzer.analyse("a", "A short text of a.")
    analyzer.analyse("b", "Another text, which is that of b, and longer.")
    a, b = (analyzer.answer(name, {"ask": "page"})["page"] for name in "ab")
    assert "text of a" in a
    assert "that of b" not in a
    assert "that of b" in b
    with pytest.raises(InputError, match="no longer held"):
        analyzer.answer("c", {"ask": "links", "token": 1})


def test_a_document_too_large_for_the_store_gets_a_message(analyzer: Analyzer) -> None:
    analyzer.store = VisitorStore(100)
    with pytest.raises(InputError, match="more memory than there is"):
        analyzer.analyse("a", TEXT)
