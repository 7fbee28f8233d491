"""The character-level recipe: its stages and models, its text, and a run of the command."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
import torch

from longformer_plus import cli
from longformer_plus.integrations.recipes.character_lm import (
    Recipe,
    Stage,
    bits_per_character,
    read_characters,
    train,
)

RECIPE = Recipe.growing(
    Stage(64, 32, 30, 5e-3), 2, layers=4, heads=4, hidden=32, characters_per_step=512, full_length=64
)


def test_windows_grow_with_depth_and_stage_and_two_upper_heads_dilate() -> None:
    first, second = RECIPE.stages
    assert (second.length, second.window, second.learning_rate) == (128, 64, 2.5e-3)
    config = RECIPE.config("dilated", first)
    assert config.attention_window == [4, 8, 16, 32]
    assert RECIPE.config("dilated", second).attention_window == [8, 16, 32, 64]
    assert config.attention_dilation == [[1] * 4, [1] * 4, [1, 1, 2, 2], [1, 1, 4, 4]]
    assert RECIPE.config("undilated", first).attention_dilation == 1
    full = RECIPE.config("full attention", second)
    assert RECIPE.length("full attention", second) == 64
    assert min(full.attention_window) >= 2 * 64
    with pytest.raises(ValueError, match="variant='sparse' is not allowed"):
        RECIPE.config("sparse", first)


def test_text_is_read_from_lines_and_files(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl.xz"
    plain.write_text("Ünder")
    with lzma.open(lines, "wt") as file:
        file.write('{"text": "one"}\n{"text": "two"}\n')
    assert bytes(read_characters([plain, lines]).tolist()).decode() == "Ünderone\n\ntwo"
    assert len(read_characters([lines], limit=4)) == 4
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "one"}\n{"words": "two"}\n')
    with pytest.raises(ValueError, match=r"broken\.jsonl, line 2: "):
        read_characters([broken])
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match="has no text"):
        read_characters([tmp_path / "empty.txt"])


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["dilated", "full attention"])
def test_training_learns_what_can_be_learnt(variant: str) -> None:
    """A text of one repeated sentence."""
    text = torch.tensor(list(b"All work and no play makes a dull text. " * 100), dtype=torch.uint8)
    model, result = train(variant, RECIPE, text, text[:1000], evaluate_every=15, report=lambda line: None)
    assert [characters for characters, _ in result.curve] == [15 * 512, 30 * 512, 45 * 512, 60 * 512]
    assert result.curve[-1][1] < 3 < result.curve[0][1] < 8
    longest = RECIPE.length(variant, RECIPE.stages[-1])
    assert result.by_length[longest] == bits_per_character(model, text[:1000], longest)
    assert model.config.is_causal


def test_too_short_a_text() -> None:
    with pytest.raises(ValueError, match="held-out text has 100 characters; documents of 128 need more"):
        train("dilated", RECIPE, torch.zeros(1000, dtype=torch.uint8), torch.zeros(100, dtype=torch.uint8))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be. " * 100)
    size = ["--layers", "2", "--heads", "2", "--hidden", "16", "--length", "32", "--window", "16", "--stages", "2"]
    variants = ["--variants", "dilated", "undilated", "--steps", "2", "--characters-per-step", "64"]
    outputs = ["--json", str(tmp_path / "run.json"), "--plot", str(tmp_path / "run.svg")]
    pytest.importorskip("matplotlib")
    assert cli.main(["character-lm", "--train", str(text), "--eval", str(text), *size, *variants, *outputs]) == 0
    assert "| dilated |" in capsys.readouterr().out
    record = json.loads((tmp_path / "run.json").read_text())
    assert [result["variant"] for result in record["results"]] == ["dilated", "undilated"]
    assert set(record["results"][0]["by_length"]) == {"32", "64"}
    assert "--variants" in record["command"]
    assert (tmp_path / "run.svg").read_text().startswith("<?xml")
