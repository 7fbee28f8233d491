"""Workloads, measurement and reports of the benchmark. No test asserts a duration."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from longformer_plus import cli
from longformer_plus.benchmark import measuring as benchmark
from longformer_plus.benchmark import report
from longformer_plus.benchmark.measuring import Plan, Point
from longformer_plus.benchmark.workloads import MODELS, Workload, in_precisions
from longformer_plus.integrations import onnx_export

BENCH = ["bench", "--layers", "1", "--window", "8", "--repeats", "1", "--no-memory"]


def recording(*points: Point) -> report.Recording:
    return report.Recording(
        {**benchmark.environment(), "command": ""}, list(benchmark.IMPLEMENTATIONS), 3, list(points)
    )


def test_mixed_lengths_are_those_of_the_distribution() -> None:
    lengths = torch.tensor(Workload(4096, "forward", batch_size=4000, mixed=True).lengths(), dtype=torch.float64)
    assert lengths.mean().item() == pytest.approx(2048, rel=0.02)
    assert lengths.std().item() == pytest.approx(512, rel=0.05)
    assert lengths.min() >= 1
    assert lengths.max() <= 4096
    assert set(Workload(1, "forward", batch_size=9, mixed=True).lengths()) == {1}
    assert Workload(64, "forward", batch_size=2).lengths() == [64, 64]


def test_mixed_inputs_are_padded_and_the_same_each_time() -> None:
    workload = Workload(16, "forward", window=8, num_layers=1, batch_size=3, mixed=True, num_global=2)
    model = workload.model("longformer_plus")
    inputs = workload.inputs(model)
    valid = inputs["attention_mask"].bool()
    assert valid.shape == (3, 16)
    assert valid.sum(1).tolist() == workload.lengths()
    assert bool((valid[:, 1:] <= valid[:, :-1]).all())
    assert torch.equal(inputs["input_ids"] == model.config.pad_token_id, ~valid)
    assert inputs["global_attention_mask"].sum(1).tolist() == [min(2, length) for length in workload.lengths()]
    assert all(torch.equal(again, inputs[name]) for name, again in workload.inputs(model).items())


@pytest.mark.parametrize("work", ["forward", "training"])
def test_the_floor_is_the_linear_layers_on_the_valid_tokens(work: str) -> None:
    workload = Workload(16, work, num_layers=2, batch_size=3, mixed=True)
    seen: list[tuple[int, ...]] = []
    gradients: list[bool] = []

    def see(module: torch.nn.Module, arguments: tuple, result: torch.Tensor) -> None:
        seen.append((*arguments[0].shape, result.shape[-1]))
        gradients.append(result.requires_grad)

    hook = torch.nn.modules.module.register_module_forward_hook(see)
    try:
        workload.floor()()
    finally:
        hook.remove()
    tokens = sum(workload.lengths())
    assert seen == 2 * [*4 * [(tokens, 768, 768)], (tokens, 768, 3072), (tokens, 3072, 768)]
    assert set(gradients) == {work == "training"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in ("modernbert", "bigbird") else name for name in MODELS],
)
def test_every_model_trains_on_a_mixed_batch(name: str) -> None:
    workload = Workload(32, "training", window=8, num_layers=1, batch_size=2, mixed=True, dropout=0.1)
    model = workload.model(name)
    assert model.config.num_hidden_layers == 1
    workload.run(model, workload.inputs(model))


def test_the_longformers_have_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[PreTrainedModel] = []
    for name in benchmark.IMPLEMENTATIONS:
        make = MODELS[name]
        monkeypatch.setitem(MODELS, name, lambda workload, make=make: built.append(make(workload)) or built[-1])
    benchmark.seconds(Workload(8, "forward", window=8, num_layers=1), repeats=1)
    theirs, ours = (model.state_dict() for model in built)
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


@pytest.mark.slow
def test_memory_is_measured() -> None:
    """The hidden states and weights' gradients alone of one training step are over 100 MB."""
    measured = benchmark.memory(Workload(1024, "training", num_layers=1))
    assert all(size > 100e6 for size in measured.values())
    assert measured["longformer_plus"] < measured["transformers"]


def kill_this_process(*arguments: object) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_a_killed_process_is_a_failure_and_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_memory_of", kill_this_process)
    monkeypatch.setitem(MODELS, "transformers", lambda workload: pytest.fail("built after its process was killed"))
    point = Plan([Workload(8, "forward")], ["transformers"], repeats=1).measure(Workload(8, "forward"))
    assert point.failures["transformers"].startswith("killed: ")
    assert point.seconds == {}


def caused(error: Exception) -> Exception:
    error.__cause__ = RuntimeError("between")
    error.__cause__.__cause__ = KeyError("why")
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError("no room"), "out of memory: no room"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you"),
            "out of memory: DefaultCPUAllocator",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory: CUDA"),
        (IndexError("beyond the table\nand more"), "IndexError: beyond the table$"),
        (caused(ValueError("wrong")), "ValueError: wrong$"),
        (
            caused(torch.onnx.OnnxExporterError("\x1b[96mstep 1/3\x1b[0m\nmore")),
            r"OnnxExporterError: step 1/3 \(KeyError: 'why'\)$",
        ),
    ],
)
def test_reasons_of_failures(error: Exception, reason: str) -> None:
    assert re.match(reason, benchmark._reason(error))


def test_a_failing_model_is_reported_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    make = MODELS["transformers"]

    def fail_at_16(workload: Workload) -> PreTrainedModel:
        if workload.num_tokens == 16:
            raise MemoryError("no room")
        return make(workload)

    monkeypatch.setitem(MODELS, "transformers", fail_at_16)
    path = tmp_path / "run.json"
    assert cli.main([*BENCH, "--lengths", "16", "32", "--work", "forward", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "transformers, forward, 16 tokens: out of memory: no room" in printed
    failed, other = report.Recording.load(path).points
    assert report.cells(failed, ["transformers"])[4] == "out of memory"
    assert failed.seconds.keys() == {"longformer_plus", "floor"}
    assert other.seconds.keys() == {"transformers", "longformer_plus", "floor"}
    assert not other.failures


def test_a_call_that_fails_in_a_turn_is_left_out_from_there_on() -> None:
    left = iter([None, None])
    failures: dict[str, str] = {}
    measured = benchmark.repeat_in_turns({"a": lambda: next(left), "b": lambda: None}, 3, failures)
    assert list(measured) == ["b"]
    assert len(measured["b"]) == 3
    assert failures == {"a": "StopIteration: "}
    with pytest.raises(ZeroDivisionError):
        benchmark.time_in_turns({"c": lambda: 1 / 0})


def test_the_json_is_whole_after_every_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    before: list[int] = []

    def measure(plan: Plan, workload: Workload, keep: object) -> Point:
        before.append(len(json.loads(path.read_text())["points"]) if path.exists() else 0)
        if len(before) == 3:
            raise KeyboardInterrupt
        return Point(workload, workload.num_tokens, {"longformer_plus": [1.0]})

    monkeypatch.setattr(Plan, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        cli.main([*BENCH, "--lengths", "16", "32", "64", "--json", str(path)])
    assert before == [0, 1, 2]
    loaded = report.Recording.load(path)
    assert [point.workload.num_tokens for point in loaded.points] == [16, 32]
    assert {"processor", "threads", "torch", "transformers", "longformer_plus", "python", "date", "command"} <= set(
        loaded.circumstances
    )
    assert loaded.circumstances["command"].startswith("longformer-plus bench --layers 1")


def test_what_was_measured_of_a_row_is_kept_when_the_run_ends_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run, number = tmp_path / "run.json", Workload.run, 0

    def end_in_the_last_turn(workload: Workload, *arguments: object) -> None:
        nonlocal number
        number += 1
        if number == 4 + 4 + 4:
            raise KeyboardInterrupt
        run(workload, *arguments)

    monkeypatch.setattr(Workload, "run", end_in_the_last_turn)
    command = [*BENCH, "--repeats", "2", "--work", "forward", "--json", str(path)]
    models = ["longformer_plus", "longformer_plus:bfloat16"]
    with pytest.raises(KeyboardInterrupt):
        cli.main([*command, "--lengths", "16", "32", "--models", *models])
    whole, begun = report.Recording.load(path).points
    assert [point.workload.num_tokens for point in (whole, begun)] == [16, 32]
    assert {name: len(times) for name, times in whole.seconds.items()} == {**dict.fromkeys(models, 2), "floor": 2}
    assert {name: len(times) for name, times in begun.seconds.items()} == {**dict.fromkeys(models, 1), "floor": 1}


def test_only_the_row_of_a_floor_that_fails_misses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(Workload, "floor", fail)
    monkeypatch.setattr(benchmark, "profile", fail)
    work = Workload(8, "forward", num_layers=1)
    point = Plan([work], ["longformer_plus"], 1, with_memory=False, with_profile=True).measure(work)
    assert set(point.seconds) == {"longformer_plus"}
    assert point.failures == dict.fromkeys(["floor", "profile of longformer_plus"], "out of memory: no room")


def test_each_precision_is_profiled_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    models = ["transformers", "longformer_plus", "longformer_plus:int8"]
    monkeypatch.setattr(benchmark, "seconds", lambda *_: {name: [1.0] for name in models})
    work = Workload(64, "forward", num_layers=1)
    point = Plan([work], models, 1, with_memory=False, with_profile=True).measure(work)
    assert list(point.profile) == models[1:]
    assert "aten::addcmul" not in point.profile["longformer_plus"]
    assert 0 < point.profile["longformer_plus:int8"]["aten::addcmul"] < 1
    lines = report.profile(point).splitlines()
    assert [line.partition(": ")[0].strip() for line in lines] == models[1:]


def test_models_in_onnx_need_its_packages_and_the_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "onnxscript"
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, find=importlib.util.find_spec: None if name == missing else find(name)
    )
    names = ["longformer_plus", "longformer_plus_onnx", "longformer_plus_onnx:int8", "transformers_onnx"]
    work = Workload(8, "forward", window=8, num_layers=1)
    point = Plan([work], names, 1, with_memory=False).measure(work)
    assert set(point.seconds) == {"longformer_plus", "floor"}
    assert set(point.failures) == set(names[1:])
    for reason in point.failures.values():
        assert reason == f"ModuleNotFoundError: Not installed: {missing}. Run `pip install longformer-plus[onnx]`."


def test_recorded_results_are_printed_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "run.json"
    models = [
        "--models",
        "transformers",
        "longformer_plus",
        "roberta",
        "--limit",
        "roberta=16",
        "--mixed",
        "--batch",
        "2",
    ]
    assert cli.main([*BENCH, *models, "--lengths", "16", "32", "--work", "forward", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert cli.main(["bench", "--from", str(path)]) == 0
    assert capsys.readouterr().out == printed
    assert cli.main(["bench", "--from", str(path), "--markdown"]) == 0
    title, rule, short, long, *_ = capsys.readouterr().out.splitlines()
    assert title.split(" | ")[4:10:2] == ["transformers", "longformer_plus", "roberta"]
    assert rule.count("---") == title.count("|") - 1
    assert "-" not in short.split(" | ")[8:10]
    assert long.split(" | ")[8:10] == ["-", "-"]


def test_ratios_are_of_medians_and_rates_of_valid_tokens() -> None:
    seconds = {"transformers": [9.0, 3.0, 2.0], "longformer_plus": [1.0, 2.0, 50.0], "floor": [1.0, 1.6, 1.7]}
    point = Point(Workload(128, "forward", mixed=True), 64, seconds, {"transformers": 2**31, "longformer_plus": 2**30})
    assert report.cells(point, ["transformers", "longformer_plus"]) == [
        *("forward", "128", "512", "sdpa"),
        *("3.00 s, 2.00 GiB", "21", "2.00 s, 1.00 GiB", "32"),
        *("1.50x", "0.50", "1.25x"),
    ]


def test_the_estimate_follows_the_work() -> None:
    short, long = Workload(128, "forward"), Workload(1024, "training")
    plan = Plan([short, long], limits={"transformers": 128})
    assert plan.cost(short) == 2 * 12 * 128
    assert plan.cost(long) == 3 * 12 * 1024


@pytest.mark.parametrize("name", ["curves.svg", "curves.png"])
def test_a_plot_is_drawn(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = [
        Point(Workload(length, work, window=window), length, {"transformers": [0.2], "roberta": [0.1], "floor": [0.1]})
        for length in (128, 1024)
        for work in ("forward", "training")
        for window in (128, 512)
    ]
    recording(*points).save(tmp_path / "run.json")
    assert cli.main(["bench", "--from", str(tmp_path / "run.json"), "--plot", str(tmp_path / name)]) == 0
    drawn = (tmp_path / name).read_bytes()
    assert drawn.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")


def test_curves_are_named_by_what_was_varied_and_matters() -> None:
    measured = {"transformers": [0.2], "longformer_plus": [0.1], "roberta": [0.1, 0.3, 0.5], "floor": [0.1]}
    works = [
        Workload(128, "forward", window=window, backend=name) for window in (128, 512) for name in ("sdpa", "eager")
    ]
    points = [Point(work, 100, measured) for work in works]
    curves = report._curves(points, report._varied(points))
    assert curves.keys() == {
        *("transformers, window 128", "transformers, window 512", "roberta", "floor"),
        *(f"longformer_plus, window {window}, {name}" for window in (128, 512) for name in ("sdpa", "eager")),
    }
    assert curves["roberta"] == {128: pytest.approx(3000)}


def test_a_plot_without_matplotlib_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as error:
        cli.main(["bench", "--plot", "curves.svg"])
    assert error.value.code == 2
    assert "longformer-plus[bench]" in capsys.readouterr().err


def test_a_plot_of_nothing_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="Nothing to draw"):
        report.plot([recording()], tmp_path / "curves.svg")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"work": "sleep"}, "work='sleep' is not allowed: it must be one of 'forward', 'training'"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"device": "tpu"}, "device='tpu'"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"batch_size": 0}, "batch_size=0 is not allowed: it must be at least 1"),
        ({"num_global": -1}, "num_global=-1"),
    ],
)
def test_impossible_workloads_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Workload(**{"num_tokens": 16, "work": "forward", **values})


def test_models_in_each_precision_that_they_can_be_in() -> None:
    names = ["transformers", "longformer_plus", "longformer_plus_onnx", "transformers_onnx"]
    assert in_precisions(names, ["float32", "bfloat16", "int8"]) == [
        *("transformers", "transformers:bfloat16"),
        *("longformer_plus", "longformer_plus:bfloat16", "longformer_plus:int8"),
        *("longformer_plus_onnx", "longformer_plus_onnx:int8", "transformers_onnx"),
    ]
    for name in ("transformers:int8", "longformer_plus:int4", "gpt:int8"):
        with pytest.raises(ValueError, match="is not allowed"):
            Plan([Workload(8, "forward")], [name], with_memory=False)
    for name in ("longformer_plus:int8", "longformer_plus_onnx"):
        with pytest.raises(ValueError, match=f"{name} is for inference on a CPU"):
            Plan([Workload(8, "training")], [name], with_memory=False)


def test_precisions_are_measured_side_by_side() -> None:
    plan = Plan(
        [Workload(8, "forward", num_layers=1)], ["longformer_plus", "longformer_plus:int8"], 1, with_memory=False
    )
    recording = report.Recording(benchmark.environment(), list(plan.models), 1, [plan.measure(plan.workloads[0])])
    assert set(recording.points[0].seconds) == {"longformer_plus", "longformer_plus:int8", "floor"}
    assert re.search(r"longformer_plus:int8, 8 tokens: \d+\.\d\dx longformer_plus\n", report.notes(recording))


@pytest.mark.slow
def test_graphs_are_measured_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """This package's is exported once for all lengths."""
    pytest.importorskip("onnxruntime")
    made: list[int] = []
    export = onnx_export.export_onnx
    monkeypatch.setattr(onnx_export, "export_onnx", lambda *given: made.append(1) or export(*given))
    names = ["longformer_plus_onnx", "longformer_plus_onnx:int8"]
    works = [Workload(length, "forward", window=16, num_layers=1) for length in (32, 48)]
    plan = Plan(works, names, 1, with_memory=False)
    for work in works:
        point = plan.measure(work)
        assert not point.failures
        assert set(point.seconds) == {*names, "floor"}
    assert made == [1]
