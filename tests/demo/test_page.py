"""The page in a real browser, where there is one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from longformer_plus.demo.analysis import AnalysedDocument, Analyzer
from longformer_plus.demo.store import VisitorStore

from .browsing import Page

TEXT = (
    "The captain looked at the sea. The wind had blown for three days. Nobody knew what the morning would bring.\n" * 5
)
SCRIPT = (
    "A text <script>window.harmed = 1</script> with <img src=x onerror='window.harmed = 2'> and ${window.harmed = 3}."
)


def test_a_visitor_types_clicks_and_makes_a_token_global(page: Page) -> None:
    page.type("#document-text textarea", TEXT)
    page.until_shown("attention", page.one("#analyse").click)
    assert "tokens, read in" in page.text("status")
    page.until_shown("attention", page.token(9).click)
    assert "at 9" in page.text("title")
    assert "tokens in its window" in page.text("shares")
    assert len(page.all('#attention [data-part="links"] tr')) == 16
    lit = page.browser.execute_script(
        "return [...document.querySelectorAll('#attention [data-place]')].filter((one) => one.style.background).length"
    )
    assert 5 < lit < 60
    page.until_shown("attention", page.one('#attention [data-part="toggle"]').click)
    assert page.text("title").endswith("global")
    assert "all" in page.text("shares")


def test_the_keyboard_chooses_tokens_and_a_head_is_chosen(page: Page) -> None:
    page.paste(TEXT)
    page.until_shown("attention", page.one("#analyse").click)
    page.until_shown("attention", page.token(20).click)
    band = page.one('#attention [data-part="band"]')
    page.until_shown("attention", lambda: band.send_keys("\ue014"))  # the right arrow
    assert "at 21" in page.text("title")
    assert "token 21" in page.one('#attention [data-part="said"]').get_attribute("textContent")
    cell = page.one('#attention [aria-label^="Layer 2, head 3"]')
    page.until_shown("attention", cell.click)
    assert page.one('#attention [data-part="layer"]').get_attribute("value") == "1"
    assert page.one('#attention [data-part="head"]').get_attribute("value") == "2"
    assert "top: 8 tokens ahead" in page.text("band-caption")
    pixels = page.browser.execute_script(
        "const canvas = arguments[0]; const paint = canvas.getContext('2d');"
        "return new Set(paint.getImageData(0, 0, canvas.width, canvas.height).data).size",
        page.one('#attention [data-part="band"]'),
    )
    assert pixels > 30


def test_scripts_in_a_document_do_not_run(page: Page) -> None:
    page.paste(SCRIPT)
    page.until_shown("attention", page.one("#analyse").click)
    page.until_shown("attention", page.token(6).click)
    assert "<script>window.harmed = 1</script>" in page.text("text")
    assert page.browser.execute_script("return window.harmed") is None


def test_a_file_is_uploaded_and_a_question_asked(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "upload.md"
    path.write_text(TEXT)
    page.one("#document-upload input[type=file], input[type=file]").send_keys(str(path))
    area = page.one("#document-text textarea")
    page.wait(lambda: area.get_attribute("value") == TEXT)
    page.tab("Ask")
    page.wait(lambda: page.all("#ask-question textarea, #ask-question input"))
    page.type("#ask-question textarea, #ask-question input", "Who looked at the sea?")
    page.until_shown("ask-shown", page.one("#ask-run").click)
    rows = page.all('#ask-shown [data-part="rows"] tr')
    assert len(rows) == 5
    rows[2].find_element("css selector", "button").click()
    assert page.all("#ask-shown .marked.chosen")


def test_a_broken_file_gets_a_message(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "broken.pdf"
    path.write_bytes(b"%PDF-1.4 broken")
    page.one("#document-upload input[type=file], input[type=file]").send_keys(str(path))
    page.wait(lambda: any("broken" in toast.text for toast in page.all(".toast-body")))
    page.type("#document-text textarea", "Still alive.")
    page.until_shown("attention", page.one("#analyse").click)


def test_the_pattern_follows_its_sliders(page: Page) -> None:
    page.tab("Pattern")
    page.wait(lambda: "of 48" in page.text("explained", "pattern"))
    before = page.text("cost", "pattern")
    page.one('#pattern [data-part="window"]').send_keys("\ue014")
    assert page.text("cost", "pattern") != before


def test_a_visitor_who_leaves_is_forgotten(page: Page, store: VisitorStore[AnalysedDocument]) -> None:
    page.type("#document-text textarea", "I was here.")
    page.until_shown("attention", page.one("#analyse").click)

    def held() -> bool:
        return any("I was here." in entry.kept.document.text for entry in list(store._entries.values()))

    assert held()
    page.browser.get("about:blank")
    page.wait(lambda: not held(), 30)


def test_links_of_a_global_token_are_global_and_counted_once(page: Page) -> None:
    page.paste(TEXT)
    page.until_shown("attention", page.one("#analyse").click)
    page.until_shown("attention", page.token(0).click)
    assert page.browser.execute_script("return document.querySelector('#attention .bar i').style.width") == "0%"
    assert len(page.all('#attention [data-part="links"] tr.global')) == 16
    page.until_shown("attention", page.token(1).click)
    # The widest window has 8 tokens on each side; of the two places before token 1 there is one, and it is global.
    assert "9 tokens in its window" in page.text("shares")
    assert "1 global token" in page.text("shares")


def test_the_last_key_decides_however_late_answers_come(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.paste(TEXT)
    page.until_shown("attention", page.one("#analyse").click)
    answer = Analyzer.answer

    def late(self: Analyzer, visitor: str, sent: Any) -> dict[str, Any]:
        time.sleep(0.5 if sent["token"] % 3 == 0 else 0.0)
        return answer(self, visitor, sent)

    monkeypatch.setattr(Analyzer, "answer", late)
    page.one('#attention [data-part="text"]').send_keys("\ue014" * 12)
    time.sleep(2.5)
    assert "at 13" in page.text("title")
    assert page.one("#attention .text .chosen").get_attribute("data-place") == "13"


def test_a_click_on_a_picture_leaves_the_page_where_it_is(page: Page) -> None:
    page.paste(TEXT)
    page.until_shown("attention", page.one("#analyse").click)
    page.browser.set_window_size(900, 420)
    try:
        page.browser.execute_script("document.querySelector('#attention canvas').scrollIntoView({ block: 'start' })")
        before = page.browser.execute_script("return window.scrollY")
        page.until_shown("attention", page.one('#attention [data-part="map"]').click)
        assert page.browser.execute_script("return window.scrollY") == before
    finally:
        page.browser.set_window_size(1280, 1400)
