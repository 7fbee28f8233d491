"""The page in a real browser, where there is one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from transformers import AutoTokenizer

from longformer_plus import LongformerPlusModel
from longformer_plus.attention_maps import attention_maps, show
from longformer_plus.demo.answers import READ, RUN, Answer
from longformer_plus.demo.documents import AnalysedDocument
from longformer_plus.demo.questions import Question
from longformer_plus.demo.store import VisitorStore

from .browsing import Page

TEXT = (
    "The captain looked at the sea. The wind had blown for three days. Nobody knew what the morning would bring.\n" * 5
)
SCRIPT = (
    "A text <script>window.harmed = 1</script> with <img src=x onerror='window.harmed = 2'> and ${window.harmed = 3}."
)


def test_a_visitor_types_clicks_and_makes_a_token_global(page: Page) -> None:
    page.analyse(TEXT)
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
    page.analyse(TEXT)
    page.until_shown("attention", page.token(20).click)
    band = page.one('#attention [data-part="band"]')
    page.until_shown("attention", lambda: band.send_keys("\ue014"))  # the right arrow
    assert "at 21" in page.text("title")
    assert "token 21" in page.one('#attention [data-part="said"]').get_attribute("textContent")
    page.choose_head(2, 3)
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
    page.analyse(SCRIPT)
    page.until_shown("attention", page.token(6).click)
    assert "<script>window.harmed = 1</script>" in page.text("text")
    assert page.browser.execute_script("return window.harmed") is None


def test_a_file_is_uploaded_and_a_question_asked(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "upload.md"
    path.write_text(TEXT)
    page.open_document()
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
    page.open_document()
    page.one("#document-upload input[type=file], input[type=file]").send_keys(str(path))
    page.wait(lambda: any("broken" in toast.text for toast in page.all(".toast-body")))
    page.analyse("Still alive.")


def test_the_pattern_follows_its_sliders(page: Page) -> None:
    page.tab("Pattern")
    page.wait(lambda: "of 48" in page.text("explained", "pattern"))
    before = page.text("cost", "pattern")
    page.one('#pattern [data-part="window"]').send_keys("\ue014")
    assert page.text("cost", "pattern") != before


def test_a_visitor_who_leaves_is_forgotten(page: Page, store: VisitorStore[AnalysedDocument]) -> None:
    page.analyse("I was here.")

    def held() -> bool:
        return any("I was here." in entry.kept.document.text for entry in list(store._entries.values()))

    page.wait(held, 30)
    page.browser.get("about:blank")
    page.wait(lambda: not held(), 30)


def test_links_of_a_global_token_are_global_and_counted_once(page: Page) -> None:
    page.analyse(TEXT)
    places = [int(one.get_attribute("data-place")) for one in page.all("#attention .text .global")]
    page.until_shown("attention", page.token(places[0]).click)
    page.wait(lambda: f"at {places[0]}," in page.text("title"))
    assert page.browser.execute_script("return document.querySelector('#attention .bar i').style.width") == "0%"
    assert len(page.all('#attention [data-part="links"] tr.global')) == 16
    place = places[0] + 1
    page.until_shown("attention", page.token(place).click)
    page.wait(lambda: page.text("title").endswith(f"at {place}"))
    # The widest window has 8 tokens on each side; those that are global are counted beside it.
    inside = 17 - sum(abs(one - place) <= 8 for one in places)
    assert 0 < inside < 17
    assert f"{inside} tokens in its window" in page.text("shares")
    assert f"{len(places)} global tokens" in page.text("shares")


def test_the_last_key_decides_however_late_answers_come(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.analyse(TEXT)
    page.until_shown("attention", page.token(1).click)
    answer = READ["links"]

    def late(analysed: AnalysedDocument, question: Question) -> dict[str, Any]:
        time.sleep(0.3 if question.first % 3 == 0 else 0.0)
        return answer(analysed, question)

    monkeypatch.setitem(READ, "links", late)
    page.browser.execute_script(
        "const title = document.querySelector('#attention [data-part=\"title\"]'); window.titles = [];"
        "new MutationObserver(() => window.titles.push(title.textContent)).observe(title, { childList: true })"
    )
    page.one('#attention [data-part="text"]').send_keys("\ue014" * 12)
    time.sleep(1.6)
    assert "at 13" in page.text("title")
    # None of the late answers was shown in between.
    shown = [int(title.rsplit("at ", 1)[1].split(",")[0]) for title in page.browser.execute_script("return titles")]
    assert shown == sorted(shown)
    assert page.one("#attention .text .chosen").get_attribute("data-place") == "13"


def test_late_pictures_and_late_results_of_the_model_change_nothing(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.analyse(TEXT)
    page.until_shown("attention", page.token(5).click)
    pictures, gradient, came = READ["layer"], RUN["gradient"], []

    def late(answer: Answer, is_slow: bool, analysed: AnalysedDocument, question: Question) -> dict[str, Any]:
        if is_slow:
            time.sleep(0.8)
        came.append(question.ask)
        return answer(analysed, question)

    monkeypatch.setitem(READ, "layer", lambda kept, asked: late(pictures, asked.layer == 0, kept, asked))
    monkeypatch.setitem(RUN, "gradient", lambda kept, asked: late(gradient, True, kept, asked))
    page.choose("layer", "0")
    page.choose("layer", "1")
    page.wait(lambda: len(came) == 2)
    time.sleep(0.3)
    assert page.one('#attention [data-part="layer"]').get_attribute("value") == "1"
    page.choose("measure", "gradient")
    page.choose("measure", "links")
    page.token(9).click()
    page.wait(lambda: "gradient" in came)
    time.sleep(0.5)
    assert "at 9" in page.text("title")


def test_a_click_on_a_picture_leaves_the_page_where_it_is(page: Page) -> None:
    page.analyse(TEXT)
    page.browser.set_window_size(900, 420)
    try:
        page.browser.execute_script("document.querySelector('#attention canvas').scrollIntoView({ block: 'start' })")
        before = page.browser.execute_script("return window.scrollY")
        page.until_shown("attention", page.one('#attention [data-part="map"]').click)
        assert page.browser.execute_script("return window.scrollY") == before
    finally:
        page.browser.set_window_size(1280, 1400)


def test_the_page_opens_on_a_sample_with_a_word_chosen(page: Page) -> None:
    assert "tokens." in page.text("status")
    token = int(page.one("#attention .text .chosen").get_attribute("data-place"))
    assert f"at {token}" in page.text("title")
    assert len(page.all("#attention .text .global")) > 1
    assert [tab.text for tab in page.all("button[role=tab]") if tab.text] == [
        "Attention",
        "Compare",
        "Ask",
        "Classify",
        "Tag",
        "Fill",
        "Speed",
        "Pattern",
    ]
    # The document stands only where it is used.
    is_displayed = "return Boolean(document.querySelector('#document')?.offsetParent)"
    assert page.browser.execute_script(is_displayed)
    page.tab("Pattern")
    page.wait(lambda: not page.browser.execute_script(is_displayed))


def test_colours_change_without_the_server_and_the_legend_says_how(page: Page) -> None:
    pixels = (
        "const canvas = document.querySelector('#attention [data-part=\"band\"]');"
        "return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.join()"
    )
    seen = set()
    for scale, words in (("clipped", "or more"), ("root", "middle"), ("logarithm", "middle")):
        page.choose("scale", scale)
        seen.add(page.browser.execute_script(pixels))
        assert words in page.text("legend")
    assert len(seen) == 3
    assert "left out" in page.text("legend")
    page.until_shown("attention", page.one('#attention [data-part="with-self"]').click)
    assert "left out" not in page.text("legend")
    assert page.browser.execute_script(pixels) not in seen


def test_heads_are_shown_by_pictures_with_names_and_by_numbers(page: Page) -> None:
    page.browser.execute_script("document.querySelector('#attention [data-part=\"grid\"]').scrollIntoView()")
    page.wait(lambda: page.all("#attention .grid canvas"))
    labels = [one.get_attribute("aria-label") for one in page.all("#attention .grid button")]
    assert any(label and label.startswith("Layer 1, head 1: ") and "%" in label for label in labels)
    page.choose_head(2, 3)
    assert page.one('#attention [aria-label^="Layer 2, head 3"]').get_attribute("aria-pressed") == "true"
    page.choose("grid-of", "distance")
    assert "How far away" in page.text("grid-caption")
    assert not page.all("#attention .grid canvas")


def test_a_token_is_found_by_its_text(page: Page) -> None:
    page.analyse(TEXT)
    find = page.one('#attention [data-part="find"]')
    find.send_keys("THE CAPTAIN")
    lines: list[str] = []
    # As many lines begin so as the model has room for; after the last comes the first.
    while len(set(lines)) == len(lines):
        page.until_shown("attention", lambda: find.send_keys("\ue007"))
        assert "The" in page.text("title")
        lines.append(page.text("title"))
    assert len(lines) > 3
    assert lines[-1] == lines[0]
    find.send_keys(" zzz\ue007")
    assert find.get_attribute("aria-invalid") == "true"


def test_a_document_that_the_server_lost_is_analysed_again(page: Page, store: VisitorStore[AnalysedDocument]) -> None:
    page.analyse(TEXT)
    for visitor in list(store._entries):
        store.free(visitor)
    page.token(9).click()
    button = page.one('#attention [data-part="restore"]')
    page.wait(button.is_displayed)
    page.until_shown("attention", button.click)
    assert not button.is_displayed()
    page.until_shown("attention", page.token(9).click)
    assert "at 9" in page.text("title")


def test_sentences_phrases_and_what_the_model_would_say(page: Page) -> None:
    page.analyse(TEXT)
    page.wait(lambda: "captain" in page.text("text"))
    page.until_shown("attention", lambda: page.choose("unit", "sentence"))
    page.until_shown("attention", page.token(3).click)
    assert "stays inside" in page.text("shares")
    assert page.one('#attention [data-part="flow"]').is_displayed()
    chosen = "".join(one.text for one in page.all("#attention .text .chosen"))
    assert chosen.endswith(".")
    assert " at 1 to " in page.text("title")
    # The next key goes to the next sentence.
    page.until_shown("attention", lambda: page.one('#attention [data-part="text"]').send_keys("\ue014"))
    assert len(page.all("#attention .text .chosen.first")) == 1
    assert " at 1 to " not in page.text("title")
    page.until_shown("attention", lambda: page.choose("unit", "token"))
    page.until_shown("attention", page.token(3).click)
    from selenium.webdriver import ActionChains, Keys

    extend = ActionChains(page.browser).key_down(Keys.SHIFT).click(page.token(6)).key_up(Keys.SHIFT)
    page.until_shown("attention", extend.perform)
    assert " at 3 to 6" in page.text("title")
    assert not page.one('#attention [data-part="lens-box"]').is_displayed()
    page.until_shown("attention", page.token(4).click)
    page.browser.execute_script("document.querySelector('#attention details').open = true")
    page.wait(lambda: page.all('#attention [data-part="lens"] tr'))
    assert "the answer" in page.text("lens")


def test_a_shared_link_opens_the_same_view(page: Page) -> None:
    page.until_shown("attention", lambda: page.choose("head", "1"))
    page.until_shown("attention", lambda: page.choose("unit", "sentence"))
    page.until_shown("attention", lambda: page.choose("direction", "from"))
    page.until_shown("attention", lambda: page.choose("measure", "norm"))
    address, title = page.browser.current_url, page.text("title")
    other = Page(page.browser, address)
    other.wait(lambda: other.text("title") == title and "norm of what it carries" in other.text("shares"))
    assert other.browser.current_url == address
    chosen = {name: other.one(f'#attention [data-part="{name}"]').get_attribute("value") for name in ("head", "unit")}
    assert chosen == {"head": "1", "unit": "sentence"}


def test_pictures_are_saved_with_axes_and_legend(page: Page) -> None:
    page.until_shown("attention", lambda: page.choose("unit", "paragraph"))
    page.browser.execute_script(
        "window.saved = []; URL.createObjectURL = (blob) => { window.saved.push(blob); return '#'; };"
    )
    for name in ("map", "band", "global", "flow"):
        for kind in ("svg", "png"):
            page.browser.execute_script(
                f'document.querySelector(\'#attention [data-save="{name}"][data-type="{kind}"]\').click()'
            )
    page.wait(lambda: page.browser.execute_script("return window.saved.length") == 8)
    found = page.browser.execute_async_script(
        "const done = arguments[0];"
        "Promise.all(window.saved.map((blob) => blob.type.includes('svg') ? blob.text() : createImageBitmap(blob)"
        ".then((picture) => picture.width))).then(done)"
    )
    sheets = [ElementTree.fromstring(one) for one in found if isinstance(one, str)]
    assert len(sheets) == 4
    for sheet in sheets:
        words = [one.text for one in sheet.iter("{http://www.w3.org/2000/svg}text")]
        assert "position in the document, in tokens" in words
        assert "0" in words
        assert any("weight" in word or "window" in word for word in words if word)
    assert all(one > 1000 for one in found if not isinstance(one, str))


def test_two_models_and_an_edit_are_compared(page: Page) -> None:
    page.paste(TEXT)
    page.tab("Compare")
    page.wait(lambda: page.all("#compare-text textarea"))
    page.type("#compare-text textarea", TEXT.replace("\n", " ").replace("captain", "old sailor", 1)[:200])
    page.until_shown("compare-shown", page.one("#compare-run").click)
    assert page.all("#compare-shown .text .edited")
    # A token before the edit stands in both texts.
    left = page.all('#compare-shown [data-part="text-0"] [data-place]:not(.edited)')[1]
    page.until_shown("compare-shown", left.click)
    assert f"at {left.get_attribute('data-place')}" in page.text("apart", "compare-shown")
    assert [len(page.all(f'#compare-shown [data-part="text-{side}"] .chosen')) for side in (0, 1)] == [1, 1]
    page.until_shown("compare-shown", page.one('#compare-shown [data-part="changes"]').click)
    page.until_shown("compare-shown", page.all("#compare-shown .grid td button")[4].click)
    heads = [page.one(f'#compare-shown [data-part="head-{side}"]').get_attribute("value") for side in (0, 1)]
    assert heads == ["1", "1"]


def test_a_notebook_shows_a_document(browser: Any, task_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = str(task_checkpoints["fill-mask"])
    model, tokenizer = LongformerPlusModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    shown = show(attention_maps(model, tokenizer, SCRIPT), layers=0)
    (tmp_path / "notebook.html").write_text(
        f"<!DOCTYPE html><title>Cell</title>{shown._repr_html_()}", encoding="utf-8"
    )
    browser.get((tmp_path / "notebook.html").as_uri())
    browser.switch_to.frame(browser.find_element("tag name", "iframe"))
    try:
        browser.find_element("css selector", '[data-place="4"]').click()
        assert "at 4" in browser.find_element("id", "links").text
        assert browser.execute_script("return window.harmed") is None
    finally:
        browser.switch_to.default_content()
    assert browser.execute_script("return window.harmed") is None
