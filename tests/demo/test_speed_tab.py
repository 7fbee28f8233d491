"""Measuring the backends while one looks."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("gradio")

from longformer_plus.benchmark.backends import reason_against_forward
from longformer_plus.benchmark.measuring import Point
from longformer_plus.benchmark.workloads import Workload
from longformer_plus.demo import speed_tab
from longformer_plus.demo.inputs import InputError


def test_measuring_gives_a_point_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure_one(name: str, length: int, with_memory: bool) -> Point:
        measured.append((length, name))
        model = "transformers" if name == "transformers" else "longformer_plus"
        failures = {model: "out of memory"} if (length, name) == (512, "eager") else {}
        seconds = {} if failures else {model: [3.0, 1.0, 2.0]}
        return Point(Workload(length, "forward"), length, seconds, {model: 2**21} if with_memory else {}, failures)

    monkeypatch.setattr(speed_tab, "_measure_one", measure_one)
    views = list(speed_tab.measure(["eager", "transformers"], 512, with_memory=True))
    assert measured == [(256, "eager"), (256, "transformers"), (512, "eager"), (512, "transformers")]
    assert views[-1]["share"] == 1.0
    assert views[-1]["curves"]["transformers"] == [[256, 2.0, 2.0], [512, 2.0, 2.0]]
    assert views[-1]["curves"]["eager"] == [[256, 2.0, 2.0], [512, None, 2.0]]
    assert views[-1]["notes"] == ["eager failed at 512 tokens: out of memory"]


def test_flex_attention_is_left_out_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    point = Point(Workload(256, "forward"), 256, {"longformer_plus": [1.0]}, {}, {})
    monkeypatch.setattr(speed_tab, "_measure_one", lambda *_: point)
    assert "flex_attention" in speed_tab.contenders()
    for reason, measured in ((None, {"sdpa", "flex_attention"}), ("there is no C++ compiler", {"sdpa"})):
        monkeypatch.setattr(speed_tab, "reason_against_forward", lambda _, reason=reason: reason)
        views = list(speed_tab.measure(["sdpa", "flex_attention"], 256, with_memory=False))
        assert "compiling" in views[0]["doing"]
        assert set(views[-1]["curves"]) == measured
        assert any("no C++ compiler" in note for note in views[-1]["notes"]) == (reason is not None)


def test_a_backend_that_cannot_be_compiled_is_told_by_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from longformer_plus.attention import flex

    assert reason_against_forward("sdpa") is None
    assert "no_such" in str(reason_against_forward("no_such"))
    from torch._dynamo.exc import TorchDynamoException

    def uncompilable(*rows: object) -> None:
        raise TorchDynamoException("no compiler")

    monkeypatch.setattr(flex, "_kernels", {})
    monkeypatch.setattr(torch, "compile", lambda function, **options: uncompilable)
    assert reason_against_forward("flex_attention") == "it does not compile here (no compiler)"


def test_one_visitor_measures_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_tab, "_measure_one", lambda *_: pytest.fail("measured"))
    first = speed_tab.measure(["sdpa"], 256, with_memory=False)
    next(first)
    with pytest.raises(InputError, match="Another visitor"):
        next(speed_tab.measure(["sdpa"], 256, with_memory=False))
    first.close()  # as when it is stopped
    second = speed_tab.measure(["sdpa"], 256, with_memory=False)
    assert next(second)["share"] == 0
    second.close()
    with pytest.raises(InputError, match="at least one"):
        next(speed_tab.measure([], 256, with_memory=False))


def test_a_backend_is_measured() -> None:
    point = speed_tab._measure_one("sdpa", 64, with_memory=False)
    assert point.median("longformer_plus")
    assert not point.failures
