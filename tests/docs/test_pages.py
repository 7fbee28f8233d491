"""The pages: their links lead somewhere, and the picture of the pattern is what its script draws."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ..tools.draw_pattern import draw

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s#]*)(#[^)\s]*)?\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        if target.startswith("http"):
            continue
        path = page.parent / target if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target + anchor


def test_the_picture_of_the_pattern_is_what_its_script_draws() -> None:
    assert (ROOT / "docs" / "concepts" / "pattern.svg").read_text() == draw()


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Pages name files from the top of the repository, or from the folder of the package."""
    for name in re.findall(r"`([\w/.]+/[\w.]+\.(?:py|sh|svg|yaml|toml))`", page.read_text()):
        is_placeholder = "NAME" in name
        assert is_placeholder or (ROOT / name).exists() or (ROOT / "longformer_plus" / name).exists(), name
