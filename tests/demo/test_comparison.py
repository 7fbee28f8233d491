"""Two models or two versions of a text, side by side."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gradio")

from longformer_plus.demo.checkpoints import Checkpoint, Checkpoints
from longformer_plus.demo.comparison import Comparer
from longformer_plus.demo.documents import AnalysedDocument, Reader, Source
from longformer_plus.demo.inputs import InputError
from longformer_plus.demo.store import VisitorStore

TEXT = "The captain looked at the sea. The wind had blown for three days! Nobody knew why. " * 3


@pytest.fixture
def comparer(task_checkpoints: dict[str, Path]) -> Comparer:
    main, other = (Checkpoint(str(task_checkpoints[task])) for task in ("fill-mask", "token-classification"))
    reader = Reader(Checkpoints(main, {"fill-mask": main, "token-classification": other}))
    return Comparer(reader, VisitorStore[AnalysedDocument](10_000_000))


def integers(packed: str) -> list[int]:
    return torch.frombuffer(bytearray(base64.b64decode(packed)), dtype=torch.int32).tolist()


def test_an_edit_is_aligned_and_both_sides_are_asked(comparer: Comparer) -> None:
    edited = TEXT.replace("three", "thirty long", 1)
    comparer.compare("a", Source(TEXT), Source(edited))
    view = comparer.answer("a", {"ask": "documents"})
    json.dumps(view, allow_nan=False)
    left, right = view["sides"]
    partners = integers(view["partners"])
    starts = [integers(side["starts"]) for side in (left, right)]
    stops = [integers(side["stops"]) for side in (left, right)]
    assert -1 in partners
    for place, partner in enumerate(partners):
        if partner >= 0:
            words = [
                side["text"][starts[index][at] : stops[index][at]]
                for index, (side, at) in enumerate(((left, place), (right, partner)))
            ]
            assert words[0] == words[1]
    place = len(partners) - 3
    kept = comparer.store.get("a right")
    assert kept is not None
    answer = comparer.answer(
        "a", {"ask": "pair", "sides": [{"token": -1}, {"token": partners[place], "layer": 1, "head": 2}]}
    )
    assert answer["weights"][0]["largest"] == 0
    expected = kept.document.maps.links(partners[place], "to", 1, 2).weights.max()
    assert answer["weights"][1]["largest"] == pytest.approx(float(expected))


def test_heads_of_two_models_are_told_apart(comparer: Comparer) -> None:
    models = list(comparer.reader.models)
    comparer.compare("a", Source(TEXT), Source(TEXT))
    assert comparer.answer("a", {"ask": "changes"})["rows"] == [[pytest.approx(0, abs=1e-3)] * 3] * 2
    comparer.compare("a", Source(TEXT), Source(TEXT, model=models[1]))
    rows = comparer.answer("a", {"ask": "changes"})["rows"]
    assert all(0.01 < value <= 1 for row in rows for value in row)


@pytest.mark.parametrize(
    "sent",
    [
        None,
        "pair",
        {},
        {"ask": "pair"},
        {"ask": "pair", "sides": [1, 2]},
        {"ask": "pair", "sides": [{"token": 0}]},
        {"ask": "pair", "sides": [{"token": 0}, {"token": 10**9}]},
        {"ask": "x", "sides": [{}, {}]},
    ],
)
def test_questions_that_make_no_sense_are_refused(comparer: Comparer, sent: Any) -> None:
    assert comparer.answer("a", {"ask": "changes"}) == {"kind": "gone"}
    comparer.compare("a", Source(TEXT), Source(TEXT))
    with pytest.raises(InputError, match="Reload"):
        comparer.answer("a", sent)
    comparer.free("a")
    assert len(comparer.store) == 0
