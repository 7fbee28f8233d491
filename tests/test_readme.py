"""The README's snippets print what the README says they print."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

import longformer_plus

README = Path(__file__).parents[1] / "README.md"


SNIPPETS = re.findall(r"```python\n((?:(?!```).)*)```\n\n((?:    [^\n]*\n)+)", README.read_text(), re.DOTALL)


@pytest.mark.parametrize(("code", "expected"), SNIPPETS, ids=[f"snippet {number}" for number in range(len(SNIPPETS))])
def test_a_snippet_prints_what_stands_below_it(
    code: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(code, {})
    finally:
        longformer_plus.unregister_for_longformer()
    assert printed.getvalue() == "".join(line.removeprefix("    ") for line in expected.splitlines(keepends=True))


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 2
