"""What the browser is sent of a document's attention, and what it may ask."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gradio")

from longformer_plus.attention_maps import contributions, num_value_bytes, unit_attention
from longformer_plus.demo.analysis import Analyzer
from longformer_plus.demo.checkpoints import Checkpoint, Checkpoints
from longformer_plus.demo.documents import POLICIES, AnalysedDocument, Reader, Source
from longformer_plus.demo.inputs import SAMPLES, InputError
from longformer_plus.demo.store import VisitorStore
from longformer_plus.demo.views import weights_view

TEXT = "The captain looked at the sea. The wind had blown for three days! <script>alert(1)</script> Who knows?\n" * 4


@pytest.fixture
def analyzer(task_checkpoints: dict[str, Path]) -> Analyzer:
    main, reader = (Checkpoint(str(task_checkpoints[task])) for task in ("fill-mask", "question-answering"))
    checkpoints = Checkpoints(main, {"fill-mask": main, "question-answering": reader})
    return Analyzer(Reader(checkpoints), VisitorStore[AnalysedDocument](10_000_000))


def shown(analyzer: Analyzer, visitor: str, source: Source) -> dict[str, Any]:
    """A document, analysed, as the page asks for it then."""
    assert analyzer.analyse(visitor, source) == {"kind": "read", "isNew": True}
    return analyzer.answer(visitor, {"ask": "document"})


def positions(packed: str) -> list[int]:
    data = base64.b64decode(packed)
    return [int.from_bytes(data[place : place + 4], "little") for place in range(0, len(data), 4)]


def test_weights_travel_as_bytes() -> None:
    weights = torch.tensor([0.0, 0.5, 0.01, 0.2])
    view = weights_view(weights)
    back = [view["largest"] * (code / 255) ** 2 for code in base64.b64decode(view["codes"])]
    assert back == pytest.approx(weights.tolist(), abs=0.5 / 255 * 2)


def test_a_document_is_explored(analyzer: Analyzer) -> None:
    view = shown(analyzer, "a", Source(TEXT, "first token"))
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
    best = expected.strongest[0]
    assert answer["links"]["strongest"][0] == [best.position, best.position, best.weight, best.is_global]
    assert len(base64.b64decode(answer["links"]["weights"]["codes"])) == document["numTokens"]


@pytest.mark.parametrize(("layer", "head"), [(-1, -1), (0, 1)])
def test_each_question_has_its_own_answer(layer: int, head: int, analyzer: Analyzer) -> None:
    view = shown(analyzer, "a", Source(TEXT, "first token"))

    def ask(what: str) -> dict[str, Any]:
        find = analyzer.run if what in ("gradient", "norm") else analyzer.answer
        answer = find("a", {"ask": what, "token": 5, "layer": layer, "head": head})
        json.dumps(answer, allow_nan=False)
        return answer

    weights = {}
    for what in ("links", "rollout", "gradient", "norm", "layer"):
        answer = ask(what)
        assert answer["kind"] == ("layer" if what == "layer" else "links")
        assert (answer["layer"], answer["head"]) == (layer, head)
        weights[what] = answer["links"]["weights"]
        assert weights[what]["largest"] > 0
        assert len(base64.b64decode(weights[what]["codes"])) == view["document"]["numTokens"]
    assert weights["layer"] == weights["links"]
    assert len({weights[what]["codes"] for what in ("links", "rollout", "gradient", "norm")}) == 4
    page = ask("page")
    assert page["kind"] == "page"
    assert "<html" in page["page"]


def test_what_runs_a_model_is_not_answered_past_the_queue(analyzer: Analyzer, monkeypatch: pytest.MonkeyPatch) -> None:
    analyzer.analyse("a", Source(TEXT))
    monkeypatch.setattr(Checkpoint, "running", lambda *_: pytest.fail("it ran"))
    for what in ("gradient", "lens", "global", "restore"):
        with pytest.raises(InputError, match="Reload"):
            analyzer.answer("a", {"ask": what, "token": 5, "text": TEXT})


def test_pictures_are_as_fine_as_the_page_can_show(analyzer: Analyzer) -> None:
    analyzer.analyse("a", Source(TEXT, "first token"))
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
    analyzer.analyse("a", Source(TEXT, "none"))

    def toggle(token: int) -> dict[str, Any]:
        assert analyzer.run("a", {"ask": "global", "token": token}) == {"kind": "read", "isNew": False}
        return analyzer.answer("a", {"ask": "document", "token": token, "layer": 1, "head": 2})

    assert toggle(7)["document"]["globals"] == [7]
    view = toggle(3)
    assert view["document"]["globals"] == [3, 7]
    # What was chosen stays.
    assert (view["links"]["token"], view["layer"], view["head"]) == (3, 1, 2)
    assert view["fromGlobal"]["height"] == 2
    assert toggle(7)["document"]["globals"] == [3]


def test_policies_choose_tokens(analyzer: Analyzer) -> None:
    chosen = {}
    for name in POLICIES:
        if name == "question":
            continue
        view = shown(analyzer, "a", Source(TEXT, name))["document"]
        starts, stops = positions(view["starts"]), positions(view["stops"])
        chosen[name] = [view["text"][starts[place] : stops[place]] for place in view["globals"]]
    assert chosen["first token"] == [""]
    assert chosen["none"] == []
    assert set(chosen["full stops"]) == {".", "!", "?"}
    with pytest.raises(InputError, match="no such choice"):
        analyzer.analyse("a", Source(TEXT, "all"))


def test_too_many_global_tokens_are_refused_before_the_model_runs(
    analyzer: Analyzer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longformer_plus.demo.documents.MOST_GLOBAL_TOKENS", 10)
    monkeypatch.setattr("longformer_plus.demo.documents.attention_maps", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(InputError, match=r"99 tokens would attend globally; at most 10"):
        analyzer.analyse("a", Source("a. " * 99))


def test_long_documents_are_cut_with_a_word_about_it(analyzer: Analyzer) -> None:
    view = shown(analyzer, "a", Source(TEXT * 5))
    assert view["document"]["numTokens"] == 200
    assert "first 200 tokens" in view["cut"]
    assert shown(analyzer, "a", Source("Short."))["cut"] == ""


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
        {"ask": "links", "token": 5, "last": 4},
        {"ask": "links", "token": 5, "last": 10**9},
        {"ask": "layer", "token": 5, "unit": "page"},
        {"ask": "layer", "token": 5, "unit": "part"},
    ],
)
def test_questions_that_make_no_sense_are_refused(analyzer: Analyzer, question: Any) -> None:
    analyzer.analyse("a", Source(TEXT))
    for ask in (analyzer.answer, analyzer.run):
        with pytest.raises(InputError, match="Reload"):
            ask("a", question)


def test_visitors_see_their_own_document(analyzer: Analyzer) -> None:
    analyzer.analyse("a", Source("A short text of a."))
    analyzer.analyse("b", Source("Another text, which is that of b, and longer."))
    a, b = (analyzer.answer(name, {"ask": "page"})["page"] for name in "ab")
    assert "text of a" in a
    assert "that of b" not in a
    assert "that of b" in b
    assert analyzer.answer("c", {"ask": "links", "token": 1}) == {"kind": "gone"}


def test_what_is_no_longer_kept_is_analysed_again(analyzer: Analyzer) -> None:
    text = shown(analyzer, "a", Source(TEXT, "none"))["document"]["text"]
    analyzer.store.free("a")
    assert analyzer.run("a", {"ask": "restore", "text": text, "policy": "chosen", "globals": [3, 9]})["isNew"]
    assert analyzer.answer("a", {"ask": "document"})["document"]["globals"] == [3, 9]
    assert analyzer.answer("a", {"ask": "links", "token": 1})["kind"] == "links"
    for wrong in ({"text": text}, {"text": text, "globals": [10**6]}, {"text": text, "globals": ["<b>"]}, {}):
        with pytest.raises(InputError):
            analyzer.run("a", {"ask": "restore", "policy": "chosen", **wrong})
    name = next(iter(SAMPLES))
    analyzer.run("a", {"ask": "restore", "sample": name, "policy": "none"})
    view = analyzer.answer("a", {"ask": "document"})
    assert (view["source"]["sample"], view["document"]["globals"]) == (name, [])
    with pytest.raises(InputError, match="no such sample"):
        analyzer.run("a", {"ask": "restore", "sample": "/etc/passwd", "policy": "none"})


def test_the_page_opens_on_a_sample_that_is_analysed_once(analyzer: Analyzer, monkeypatch: pytest.MonkeyPatch) -> None:
    analyzer.open("a")
    monkeypatch.setattr("longformer_plus.demo.documents.attention_maps", lambda *_, **__: pytest.fail("it ran again"))
    analyzer.open("b")
    view, other = (analyzer.answer(name, {"ask": "document"}) for name in "ab")
    assert view == other
    assert view["seconds"] == 0
    document = view["document"]
    starts, stops = positions(document["starts"]), positions(document["stops"])
    names = [document["text"][start:stop] for start, stop in zip(starts, stops, strict=True)]
    assert {names[place] for place in document["globals"]} <= {".", "?", "!"}
    token = view["links"]["token"]
    assert len(names) / 4 <= token <= 3 * len(names) / 4
    assert names[token].strip().isalpha()


def test_heads_have_small_pictures_on_one_scale(analyzer: Analyzer) -> None:
    analyzer.analyse("a", Source(TEXT))
    view = analyzer.answer("a", {"ask": "heads"})
    kept = analyzer.store.get("a")
    assert kept is not None
    maps = kept.document.maps
    assert [len(row) for row in view["tiles"]] == [maps.num_heads] * maps.num_layers
    assert {tile["largest"] for row in view["tiles"] for tile in row} == {view["largest"]}
    for what in ("behaviour", "entropy", "distance", "globalShare"):
        assert [len(row) for row in view[what]] == [maps.num_heads] * maps.num_layers
    assert view["distance"][1][2] == pytest.approx(float(maps.mean_distance(1, 2)), abs=1e-4)
    tile = view["tiles"][1][2]
    shades = base64.b64decode(tile["shades"])
    assert len(shades) == tile["width"] * tile["height"]
    assert max(shades) > 100


def test_the_weight_on_itself_is_shown_only_when_asked_for(analyzer: Analyzer) -> None:
    analyzer.analyse("a", Source(TEXT, "none"))
    for layer in (-1, 0):
        question = {"ask": "layer", "token": 5, "layer": layer}
        bands = [analyzer.answer("a", {**question, "withSelf": with_self})["band"] for with_self in (False, True)]
        rows = [base64.b64decode(band["shades"]) for band in bands]
        middle = bands[0]["firstRow"]
        left_out, kept = (one[middle * bands[0]["width"] : (middle + 1) * bands[0]["width"]] for one in rows)
        assert not any(left_out)
        assert all(kept)


def test_a_document_too_large_for_the_store_gets_a_message(analyzer: Analyzer) -> None:
    analyzer.store = VisitorStore(100)
    with pytest.raises(InputError, match="more memory than there is"):
        analyzer.analyse("a", Source(TEXT))


@pytest.mark.parametrize("direction", ["to", "from"])
def test_a_sentence_is_answered_by_sentences(analyzer: Analyzer, direction: str) -> None:
    analyzer.analyse("a", Source(TEXT))
    kept = analyzer.store.get("a")
    assert kept is not None
    units = kept.units["sentence"]
    first, stop = units.spans[3]
    question = {
        "ask": "layer",
        "token": first,
        "last": stop - 1,
        "unit": "sentence",
        "layer": 1,
        "direction": direction,
    }
    answer = analyzer.answer("a", question)
    json.dumps(answer, allow_nan=False)
    table = unit_attention(kept.document.maps, units, 1)
    expected = table[3] if direction == "to" else table[:, 3]
    for start, last, weight, _ in answer["links"]["strongest"]:
        assert weight == pytest.approx(float(expected[units.spans.index((start, last + 1))]), abs=1e-4)
    # What stays inside is told apart, unless it is asked for.
    assert first not in [start for start, *_ in answer["links"]["strongest"]]
    assert answer["links"]["own"] > 0
    # A global token counts as global alone.
    local, global_ = answer["links"]["local"], answer["links"]["global"]
    assert local + global_ == pytest.approx(answer["links"]["total"], rel=1e-5)
    assert min(local, global_) > 0
    assert len(answer["flow"]["starts"]) == len(units)
    assert answer["flow"]["weights"]["largest"] == pytest.approx(float(table.fill_diagonal_(0).max()), abs=1e-4)
    assert first in [start for start, *_ in analyzer.answer("a", {**question, "withSelf": True})["links"]["strongest"]]


def test_a_question_and_a_passage_are_read_by_a_model_of_choice(analyzer: Analyzer) -> None:
    model = list(analyzer.reader.models)[1]
    view = shown(analyzer, "a", Source(TEXT, "question", "Who looked at the sea?", model))
    assert view["model"] == model
    assert not view["hasLens"]
    kept = analyzer.store.get("a")
    assert kept is not None
    parts = kept.units["part"].spans
    assert view["document"]["globals"] == list(range(parts[1][1]))
    question = {"token": parts[1][0], "last": parts[1][1] - 1, "unit": "part"}
    strongest = analyzer.answer("a", {"ask": "links", **question})["links"]["strongest"]
    flow = unit_attention(kept.document.maps, kept.units["part"])
    passage = next(row for row in strongest if row[0] == parts[4][0])
    assert passage[2] == pytest.approx(float(flow[1, 4]), abs=1e-3)
    for wrong in (Source(TEXT, "question"), Source(TEXT, "none", "Who? " * 300), Source(TEXT, "none", "", "other")):
        with pytest.raises(InputError):
            analyzer.analyse("a", wrong)


def test_the_lens_shows_words_by_layer(analyzer: Analyzer) -> None:
    analyzer.analyse("a", Source(TEXT))
    seen, hidden = (analyzer.run("a", {"ask": "lens", "token": 4, "masked": masked}) for masked in (False, True))
    assert seen["rows"][0] != hidden["rows"][0]
    kept = analyzer.store.get("a")
    assert kept is not None
    layers = kept.document.maps.num_layers
    assert [len(view["rows"]) for view in (seen, hidden)] == [layers + 1] * 2
    analyzer.analyse("a", Source(TEXT, "none", "", list(analyzer.reader.models)[1]))
    with pytest.raises(InputError, match="says no words"):
        analyzer.run("a", {"ask": "lens", "token": 4})


def test_norms_of_long_selections_are_refused(analyzer: Analyzer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longformer_plus.demo.answers.MOST_CONTRIBUTING", 20)
    analyzer.analyse("a", Source(TEXT))
    kept = analyzer.store.get("a")
    assert kept is not None
    answer = analyzer.run("a", {"ask": "norm", "token": 2, "last": 21, "layer": 1, "head": 2})
    expected = (
        contributions(kept.maps_with_values, 1, 2, rows=slice(2, 22)).mean(0).index_fill(0, torch.arange(2, 22), 0.0)
    )
    assert answer["links"]["weights"]["largest"] == pytest.approx(float(expected.max()), abs=1e-6)
    with pytest.raises(InputError, match="at most 20 tokens"):
        analyzer.answer("a", {"ask": "norm", "token": 2, "last": 22})


def test_norms_run_the_model_once_for_all_who_ask_and_were_counted_before(analyzer: Analyzer) -> None:
    for visitor in ("a", "b"):
        analyzer.open(visitor)
    kept = analyzer.store.get("a")
    assert kept is not None
    assert kept is analyzer.store.get("b")
    runs: list[str] = []
    with kept.checkpoint.running() as model:
        hook = model.register_forward_pre_hook(lambda *_: runs.append("head"))
        encoder_hook = model.base_model.register_forward_pre_hook(lambda *_: runs.append("encoder"))
    question, before = {"ask": "norm", "token": 5}, kept.num_bytes
    assert analyzer.answer("a", question) == {"kind": "run"}
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda visitor: analyzer.run(visitor, question), ("a", "b"))
    hook.remove()
    encoder_hook.remove()
    assert runs == ["encoder"]
    assert one == other == analyzer.answer("a", question)
    weights = kept.document.maps
    assert kept.num_bytes == before
    assert kept.maps_with_values.num_bytes - weights.num_bytes == num_value_bytes(weights) > 0
    assert kept.maps_with_values.layers[0].local is weights.layers[0].local
