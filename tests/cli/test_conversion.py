"""`longformer-plus convert`, `extend`, `info` and `doctor`, as they are typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import transformers

import longformer_plus
from longformer_plus import LongformerPlusForMaskedLM, LongformerPlusModel, cli
from longformer_plus.benchmark.memory import memory_at

from ..cases import small_config
from ..conversion.test_to_long import SHORT, short_model


def run(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    short_model("roberta", "ForMaskedLM").save_pretrained(tmp_path / "short")
    long = tmp_path / "long"
    printed = run(capsys, "convert", tmp_path / "short", long, "--attention-window", 8, "--max-length", 100)
    assert "LongformerPlusForMaskedLM" in printed
    assert "window 8, 100 positions" in printed
    printed = run(capsys, "extend", long, tmp_path / "longer", "--max-length", 1000)
    assert "window 8, 1,000 positions" in printed
    assert "RobertaForMaskedLM" in run(
        capsys, "convert", long, tmp_path / "back", "--to", "roberta", "--max-length", SHORT
    )
    assert "LongformerForMaskedLM" in run(capsys, "convert", long, tmp_path / "native", "--to", "longformer")
    assert type(transformers.AutoModel.from_pretrained(tmp_path / "native")) is transformers.LongformerModel

    with pytest.raises(SystemExit):
        cli.main(["extend", str(long), str(tmp_path / "longer"), "--max-length", "2000"])
    assert "ask for overwriting" in capsys.readouterr().err
    printed = run(capsys, "extend", long, tmp_path / "longer", "--max-length", 2000, "--overwrite")
    assert "2,000 positions" in printed


def test_info(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = LongformerPlusForMaskedLM(small_config(attention_window=[8, 12]))
    model.save_pretrained(tmp_path / "plus")
    printed = run(capsys, "info", tmp_path / "plus")
    assert "[8, 12] tokens, half on each side" in printed
    assert "598 tokens" in printed
    assert f"{model.num_parameters() / 1e6:.1f}M of F32" in printed
    short_model("bert", "Model").half().save_pretrained(tmp_path / "short")
    printed = run(capsys, "info", tmp_path / "short")
    assert "M of F16" in printed
    assert f"longformer-plus convert {tmp_path / 'short'}" in printed
    transformers.LongformerModel(small_config()).save_pretrained(tmp_path / "native")
    assert "LongformerModel (longformer)" in run(capsys, "info", tmp_path / "native")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured on Linux only")
def test_memory_grows_with_length_and_layers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fields = small_config(hidden_size=192, intermediate_size=768, attention_window=64).to_dict()
    del fields["model_type"]
    config = longformer_plus.LongformerPlusConfig(**fields)
    short, long = (memory_at(LongformerPlusModel, config, length) for length in (2048, 8192))
    assert short.weights == long.weights == 4 * LongformerPlusModel(config).num_parameters()
    assert 2 < long.forward / short.forward < 6
    # A training step keeps at least the input of every linear layer: seven of the hidden size and one of the inner.
    states = 3 * long.weights
    assert long.training - states > 2 * 8192 * (2 * 192 + 768) * 4
    assert 2 < (long.training - states) / (short.training - states) < 6
    LongformerPlusModel(config).save_pretrained(tmp_path)
    assert re.search(r"at 512 tokens +[\d.]+ GiB forward", run(capsys, "info", tmp_path, "--length", 512))


def test_doctor(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from longformer_plus.cli import doctor, extras

    monkeypatch.setitem(extras.EXTRAS, "fancy", ("no-such-package",))
    monkeypatch.setattr(doctor, "_BACKENDS", ("eager", "sdpa", "slow_attention"))
    printed = run(capsys, "doctor")
    assert f"longformer_plus   {longformer_plus.__version__}" in printed
    assert f"transformers      {transformers.__version__}" in printed
    assert "missing no-such-package: pip install longformer-plus[fancy]" in printed
    for backend in ("eager", "sdpa"):
        assert re.search(rf"^  {backend} +runs, forward and backward$", printed, re.MULTILINE)
    assert re.search(r"^  slow_attention +no: .*slow_attention", printed, re.MULTILINE)


@pytest.mark.parametrize("command", ["convert", "extend", "info", "doctor"])
def test_help_teaches(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    printed = capsys.readouterr().out
    assert command == "doctor" or f"  longformer-plus {command} " in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "{short}", "{new}", "--attention-window", "7"], "attention_window=7"),
        (["convert", "{short}", "{new}", "--attention-window", "8", "10", "12"], "has 3 entries"),
        (["convert", "{short}", "{new}", "--max-length", "3"], "max_length=3"),
        (["convert", "{short}", "{new}", "--to", "longformer"], "convert it to one first"),
        (["convert", "{short}", "{new}", "--to", "gpt2"], "convert it to one first"),
        (["convert", "{short}", "{short}"], "ask for overwriting"),
        (["convert", "no/such/thing", "{new}"], "neither a folder nor a name on the hub"),
        (["extend", "{short}", "{new}", "--max-length", "100"], "none of Longformer's"),
        (["info", "{short}", "--length", "10"], "convert this one first"),
        (["info", "no/such/thing"], "neither a folder nor a name on the hub"),
    ],
)
def test_wrong_command_lines(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    short_model("roberta", "Model").save_pretrained(tmp_path / "short")
    with pytest.raises(SystemExit) as error:
        cli.main([each.format(short=tmp_path / "short", new=tmp_path / "new") for each in arguments])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
