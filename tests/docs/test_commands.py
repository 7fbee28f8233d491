"""The commands of the README and the guides have options that exist."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from longformer_plus import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "getting_started.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
COMMAND = re.compile(r"^ *(?:\.venv/bin/)?longformer-plus ((?:[^\n]*\\\n)*[^\n]*)$", re.MULTILINE)


class ParsedError(Exception):
    """The command line was understood."""


def commands() -> list[str]:
    """Each command line of each page, without those that leave something out."""
    found = [command for page in PAGES for command in COMMAND.findall(page.read_text())]
    return [command.replace("\\\n", " ") for command in found if "..." not in command]


@pytest.mark.parametrize("command", commands())
def test_a_command_is_understood(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    parse = argparse.ArgumentParser.parse_args

    def parse_only(*arguments: object) -> None:
        parse(*arguments)  # type: ignore[call-overload]
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    with pytest.raises(ParsedError):
        cli.main(shlex.split(command, comments=True))


def test_there_are_commands() -> None:
    assert len(commands()) >= 15
