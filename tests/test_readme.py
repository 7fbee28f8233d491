"""The README's first snippet prints what the README says it prints."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

import longformer_plus

README = Path(__file__).parents[1] / "README.md"


def test_the_first_snippet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = README.read_text()
    snippet = re.search(r"```python\n(.*?)```\n\n((?:    [^\n]*\n)+)", text, re.DOTALL)
    assert snippet is not None
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(snippet[1], {})
    finally:
        longformer_plus.unregister_for_longformer()
    expected = "".join(line.removeprefix("    ") for line in snippet[2].splitlines(keepends=True))
    assert printed.getvalue() == expected
