"""The Python snippets of the pages print what the pages say they print."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

import longformer_plus

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "concepts").glob("*.md"))]
SNIPPET = re.compile(r"```python\n((?:(?!```).)*)```\n\n((?:    [^\n]*\n)+)", re.DOTALL)

SNIPPETS = [
    pytest.param(code, expected, id=f"{page.relative_to(ROOT)} {number}")
    for page in PAGES
    for number, (code, expected) in enumerate(SNIPPET.findall(page.read_text()))
]


@pytest.mark.parametrize(("code", "expected"), SNIPPETS)
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
