"""One ONNX graph of each head for every shape and global mask, as onnxruntime runs it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LongformerConfig, LongformerForMaskedLM, RobertaConfig

import longformer_plus
from longformer_plus import cli
from longformer_plus.integrations import onnx_export
from longformer_plus.integrations.onnx_export import export_onnx
from longformer_plus.integrations.quantization import quantize

from ..cases import small_config, spread
from ..model.test_export import HEADS, assert_same, batch, make

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)

# Rows, tokens and global tokens; no length but that of the example (40) was seen at export.
UNSEEN = [(1, 1, 0), (1, 1, 1), (3, 7, 2), (2, 33, 33), (1, 100, 5), (2, 333, 1), (1, 550, 0)]


def run(path: Path, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    arrays = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
    return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}


def with_types(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**inputs, "token_type_ids": inputs["input_ids"] % 2}


def small_model(head: str = "ForSequenceClassification", **changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    config = small_config(unpad_inputs=False, num_hidden_layers=1, attention_window=[8], type_vocab_size=1, **changes)
    return spread(getattr(longformer_plus, f"LongformerPlus{head}")(config)).eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of transformers' own Longformer."""
    folder = tmp_path_factory.mktemp("longformer")
    config = small_config(unpad_inputs=False, num_hidden_layers=1, attention_window=[8], type_vocab_size=1)
    spread(LongformerForMaskedLM(config)).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_one_graph_for_every_shape(head: str, tmp_path: Path) -> None:
    model = make(head)
    exported = export_onnx(model, tmp_path / "model.onnx")
    assert len({comparison.shape for comparison in exported.comparisons}) == 6
    assert 0 < exported.largest_difference < 2e-5
    for shape in UNSEEN:
        inputs = with_types(batch(head, *shape))
        have, want = run(exported.path, inputs), model(**inputs)
        assert set(have) == set(want)
        assert_same(have, want)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.slow
@torch.no_grad()
def test_rows_of_padding(tmp_path: Path) -> None:
    """On the left, in the middle, and a whole row."""
    model = make("Model")
    path = export_onnx(model, tmp_path / "model.onnx").path
    inputs = with_types(batch("Model", 3, 150, 4))
    inputs["attention_mask"][0, :20] = inputs["attention_mask"][1, 60:90] = inputs["attention_mask"][2] = 0
    assert_same(run(path, inputs), model(**inputs))


@pytest.mark.slow
@torch.no_grad()
def test_a_static_shape_with_weights_beside_it(tmp_path: Path) -> None:
    model = small_model().train()
    path = tmp_path / "model.onnx"
    exported = export_onnx(model, path, static=(2, 30), external_data=True)
    assert model.training
    assert {comparison.shape for comparison in exported.comparisons} == {(2, 30)}
    assert [comparison.num_global for comparison in exported.comparisons] == [0, 1, 5, 30]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    inputs = batch("", 2, 30, 3)
    assert_same(run(path, inputs), model.eval()(**inputs))

    exported = export_onnx(model, path, static=(2, 30), max_global_tokens=5, external_data=True, overwrite=True)
    assert [comparison.num_global for comparison in exported.comparisons] == [0, 1, 5]
    assert_same(run(path, inputs), model.eval()(**inputs))
    with pytest.raises(ValueError, match="max_global_tokens=5"):
        export_onnx(model, path, max_global_tokens=5, overwrite=True)

    # The weights of what was there before are not left behind.
    export_onnx(model, path, static=(2, 30), external_data=False, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert_same(run(path, inputs), model(**inputs))


@torch.no_grad()
def test_the_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "model.onnx"
    arguments = ["export", str(checkpoint), str(output)]
    assert cli.main([*arguments, "--static", "1", "20"]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^inputs \(1, 20\), \d+ global tokens: differs by \S+ from torch$", printed, re.M)) == 4
    assert f"Wrote {output}." in printed
    model = LongformerForMaskedLM.from_pretrained(checkpoint).eval()
    inputs = batch("", 1, 20, 2)
    assert_same(run(output, inputs), model(**inputs))

    before = output.read_bytes()
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2
    assert "--overwrite" in capsys.readouterr().err
    assert output.read_bytes() == before


def test_the_command_says_which_package_is_missing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    find = onnx_export.importlib.util.find_spec
    monkeypatch.setattr(
        onnx_export.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    with pytest.raises(SystemExit) as error:
        cli.main(["export", str(checkpoint), str(tmp_path / "model.onnx")])
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert "Not installed: onnxscript." in message
    assert "pip install longformer-plus[onnx]" in message


@pytest.mark.parametrize("failure", ["conversion", pytest.param("comparison", marks=pytest.mark.slow)])
def test_a_failed_export_leaves_what_was_there(failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    model = small_model()
    if failure == "conversion":
        monkeypatch.setattr(torch.onnx, "export", lambda *arguments, **options: 1 / 0)
    with pytest.raises(
        ZeroDivisionError if failure == "conversion" else RuntimeError, match=r"zero|differs from torch"
    ):
        export_onnx(model, path, static=(1, 8), overwrite=True, tolerance=-1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (None, "LongformerPlusForMaskedLM"),
        ("fill-mask", "LongformerPlusForMaskedLM"),
        ("feature-extraction", "LongformerPlusModel"),
    ],
)
def test_the_head_of_a_checkpoint(checkpoint: Path, task: str | None, name: str) -> None:
    model = onnx_export.load(checkpoint, task)
    assert type(model).__name__ == name
    assert getattr(model, "pooler", None) is None


def test_the_head_of_our_own_checkpoint(tmp_path: Path) -> None:
    small_model("ForMultipleChoice").to(torch.bfloat16).save_pretrained(tmp_path)
    model = onnx_export.load(tmp_path)
    assert type(model).__name__ == "LongformerPlusForMultipleChoice"
    assert model.dtype == torch.float32


def test_what_cannot_be_exported(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match=r"task='sleeping'.*fill-mask"):
        export_onnx(checkpoint, output, "sleeping")
    with pytest.raises(ValueError, match="no weights for qa_outputs"):
        export_onnx(checkpoint, output, "question-answering")
    with pytest.raises(ValueError, match="task='fill-mask'"):
        export_onnx(small_model(), output, "fill-mask")
    with pytest.raises(ValueError, match="bfloat16"):
        export_onnx(small_model().to(torch.bfloat16), output)
    with pytest.raises(TypeError, match="Linear"):
        export_onnx(torch.nn.Linear(2, 2), output)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not a folder"):
        export_onnx(checkpoint, tmp_path / "no" / "model.onnx")
    with pytest.raises(ValueError, match="is a folder"):
        export_onnx(checkpoint, tmp_path, overwrite=True)
    for static in ((2,), (2, 30, 4), (0, 30), (1, 10_000)):
        with pytest.raises(ValueError, match="static="):
            export_onnx(small_model(), output, static=static)
    RobertaConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'roberta'"):
        onnx_export.load(tmp_path)
    LongformerConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"architectures=None.*Or give a task"):
        onnx_export.load(tmp_path)
    assert not output.exists()


@torch.no_grad()
def test_int8(tmp_path: Path) -> None:
    """One graph for every shape, in which the layers' products and no others are in int8."""
    import onnx

    model = small_model("ForTokenClassification")
    for name, bias in model.longformer.encoder.layer[0].named_parameters():
        if name.endswith("bias"):
            bias.zero_()  # the exporter keeps equal ones once, by one name
    path = tmp_path / "model.onnx"
    exported = export_onnx(model, path, int8=True)
    assert exported.largest_difference > 1e-4
    nodes = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert nodes["MatMulInteger"] == 6 * len(model.longformer.encoder.layer)
    for shape in UNSEEN:
        inputs = batch("", *shape)
        have, want = run(path, inputs)["logits"], model(**inputs).logits
        valid = inputs["attention_mask"] > 0
        assert float((have - want)[valid].norm() / want[valid].norm()) < 0.1
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.slow
@torch.no_grad()
def test_int8_with_weights_beside_it(tmp_path: Path) -> None:
    model, path = small_model(), tmp_path / "model.onnx"
    with pytest.raises(RuntimeError, match=r"tolerance=1e-05 was allowed"):
        export_onnx(model, path, static=(2, 30), int8=True, tolerance=1e-5)
    assert not list(tmp_path.iterdir())
    export_onnx(model, path, static=(2, 30), external_data=True, int8=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    inputs = batch("", 2, 30, 3)
    have, want = run(path, inputs)["logits"], model(**inputs).logits
    assert float((have - want).norm() / want.norm()) < 0.1


def test_a_quantised_model_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int8=True"):
        export_onnx(quantize(small_model()), tmp_path / "model.onnx")


@pytest.mark.slow
@torch.no_grad()
def test_openvino_reads_the_graph_and_compresses_its_weights(tmp_path: Path) -> None:
    """The recipe of the guide."""
    openvino, nncf = pytest.importorskip("openvino"), pytest.importorskip("nncf")
    model, path = small_model("ForTokenClassification"), tmp_path / "model.onnx"
    export_onnx(model, path)
    graph = nncf.compress_weights(openvino.Core().read_model(path), mode=nncf.CompressWeightsMode.INT8_SYM)
    compiled = openvino.Core().compile_model(graph, "CPU")
    inputs = batch("", 2, 33, 3)
    have = torch.from_numpy(compiled({name: tensor.numpy() for name, tensor in inputs.items()})["logits"])
    want = model(**inputs).logits
    assert float((have - want).norm() / want.norm()) < 0.05
