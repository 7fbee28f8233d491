"""A checkpoint's name is found, or fails at once with one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from longformer_plus import shipped_checkpoint
from longformer_plus.cli import main
from longformer_plus.shipped import names
from longformer_plus.shipped.names import resolve_checkpoint


def test_folders_and_what_is_shipped(tmp_path: Path) -> None:
    assert resolve_checkpoint(tmp_path) == str(tmp_path)
    assert resolve_checkpoint("shipped") == str(shipped_checkpoint())
    with pytest.raises(ValueError, match="task='sleep' is not allowed: the package ships 'fill-mask'"):
        resolve_checkpoint("shipped:sleep")


def test_a_checkpoint_of_another_task_that_is_shipped() -> None:
    pytest.importorskip("peft")
    assert resolve_checkpoint("shipped:token-classification") == str(shipped_checkpoint("token-classification"))


def test_names_that_nothing_can_be_loaded_from(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"no/such/folder is neither a folder nor a name on the hub\.$"):
        resolve_checkpoint("no/such/folder")
    monkeypatch.setattr(names.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"somebody/model is not a folder, and not in the hub's cache.*HF_HUB_OFFLINE"):
        resolve_checkpoint("somebody/model")
    monkeypatch.setattr(names.constants, "HF_HUB_OFFLINE", False)
    seconds = []

    def unreachable(url: str, timeout: float) -> None:
        seconds.append(timeout)
        raise ConnectionError("no route")

    monkeypatch.setattr(names, "get_hf_file_metadata", unreachable)
    with pytest.raises(OSError, match=r"somebody/model is not a folder, and the hub cannot be reached: no route"):
        resolve_checkpoint("somebody/model")
    assert seconds == [5.0]


def test_what_is_in_the_cache_is_taken_without_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "try_to_load_from_cache", lambda name, file: "/cache" if "adapter" in file else None)
    assert resolve_checkpoint("somebody/adapters") == "somebody/adapters"


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--task", "fill-mask", "--train", "a.txt", "--output", "out"],
        ["evaluate", "--task", "fill-mask", "--eval", "a.txt"],
        ["predict", "--task", "fill-mask", "--input", "a.txt", "--output", "out"],
    ],
)
def test_commands_say_so(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--model", "no/such/folder"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "longformer-plus: error: no/such/folder is neither a folder nor a name on the hub.\n"
    )
