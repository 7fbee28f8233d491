"""Every Python snippet of the README and of the pages runs, and prints what the page shows below it.

A comment above a snippet says what its test needs, as one line of parts with semicolons between them:

    <!-- test: slow; several processes; documents; a classifier; needs FILES; NEW for OLD -->

slow: not in the default run. several processes: it is only compiled, not run. documents: a folder of that name with
small texts. a classifier: a folder "classifier" with one, untrained, and a folder "new" with a text. needs: shared data
whose paths start so; where they are missing, the test is skipped. NEW for OLD: what is run in place of what is written,
for training that would take long.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import longformer_plus

from ..conftest import SHARED_DATA

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPET = re.compile(
    r"(?:<!-- test: ([^\n]*) -->\n)?```python\n((?:(?!```).)*)```\n(?:\n((?:    [^\n]*\n)+))?", re.DOTALL
)


def snippets() -> list:
    """Each snippet of each page: its code, the output shown, and what its test needs."""
    found = []
    for page in PAGES:
        for number, (needs, code, shown) in enumerate(SNIPPET.findall(page.read_text())):
            parts = [part.strip() for part in needs.split(";") if part]
            marks = [pytest.mark.slow] if "slow" in parts else []
            rest = [part for part in parts if part != "slow"]
            found.append(pytest.param(code, shown, rest, id=f"{page.relative_to(ROOT)} {number}", marks=marks))
    return found


def prepared(code: str, need: str, folder: Path) -> str:
    """The code to run, with what it needs in a folder."""
    if need == "documents":
        for place in ("peps/0.txt", "peps/1.md", "eips/0.txt", "eips/1.txt", "eips/2.txt"):
            (folder / "documents" / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / "documents" / place).write_text(f"The text of {place}.")
    elif need == "a classifier":
        base = longformer_plus.shipped_checkpoint()
        AutoModelForSequenceClassification.from_pretrained(base).save_pretrained(folder / "classifier")
        AutoTokenizer.from_pretrained(base).save_pretrained(folder / "classifier")
        (folder / "new").mkdir()
        (folder / "new" / "1.txt").write_text("A new document.")
    elif need.startswith("needs "):
        files = list(SHARED_DATA.glob(f"{need.removeprefix('needs ')}*"))
        if not files:
            pytest.skip("the shared data are not here")
        for file in files:
            (folder / file.name).symlink_to(file)
    else:
        new, _, old = need.partition(" for ")
        assert old in code
        return code.replace(old, new)
    return code


@pytest.mark.parametrize(("code", "shown", "needs"), snippets())
def test_a_snippet_prints_what_stands_below_it(
    code: str, shown: str, needs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "several processes" in needs:
        compile(code, "snippet", "exec")
        return
    for part in needs:
        code = prepared(code, part, tmp_path)
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(code, {})
    finally:
        longformer_plus.unregister_for_longformer()
    if shown:
        assert printed.getvalue() == "".join(line.removeprefix("    ") for line in shown.splitlines(keepends=True))


def test_there_are_snippets() -> None:
    assert len(snippets()) >= 10
