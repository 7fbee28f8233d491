"""A real browser, and the page as a visitor uses it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


class Page:
    """The page as a visitor uses it."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get(url)
        self.wait(lambda: self.all("#analyse"))
        # The page opens on a sample.
        self.wait(lambda: self.shown("attention"), 60)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.all(selector)[0]

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, "the page did not change in time"
            time.sleep(0.02)
        return found

    def shown(self, viewer: str) -> int:
        """How often a viewer has shown something."""
        return int(
            self.browser.execute_script(f"return document.querySelector('#{viewer} [data-shown]')?.dataset.shown ?? 0")
        )

    def until_shown(self, viewer: str, act: Callable[[], object], seconds: float = 60) -> None:
        before = self.shown(viewer)
        act()
        self.wait(lambda: self.shown(viewer) > before, seconds)

    def type(self, selector: str, text: str) -> None:
        self.one(selector).send_keys(text)

    def open_document(self) -> None:
        """Unfold the document's box, which is not in the page before."""
        if not self.all("#document-text textarea"):
            self.one("#document button").click()
            # It comes with the sample in it, which would overwrite what is written before.
            self.wait(lambda: any(one.get_attribute("value") for one in self.all("#document-text textarea")))

    def paste(self, text: str) -> None:
        """Put a text into the document's box at once: keys take a hundredth of a second each."""
        self.open_document()

        def stays() -> bool:
            self.browser.execute_script(
                "const area = document.querySelector('#document-text textarea'); area.value = arguments[0];"
                "area.dispatchEvent(new Event('input', { bubbles: true }))",
                text,
            )
            # A moment after it has appeared the box sets its sample once more.
            time.sleep(0.3)
            return self.one("#document-text textarea").get_attribute("value") == text

        self.wait(stays)

    def click_at_rest(self, selector: str) -> None:
        """Click what may still be on its way to its place: a box above it that unfolds moves it."""

        def is_at_rest() -> bool:
            tops = []
            for _ in range(2):
                time.sleep(0.1)
                tops.append(self.one(selector).rect["y"])
            return tops[0] == tops[1]

        self.wait(is_at_rest)
        self.one(selector).click()

    def analyse(self, text: str) -> None:
        """Show the attention of a text, and wait for it: the page may still be showing what it opened on."""
        self.paste(text)
        self.until_shown("attention", lambda: self.click_at_rest("#analyse"))
        self.wait(lambda: text[:10] in self.one('#attention [data-part="text"]').get_attribute("textContent")[:20])

    def token(self, place: int) -> Any:
        return self.one(f'#attention [data-place="{place}"]')

    def text(self, part: str, viewer: str = "attention") -> str:
        return self.one(f'#{viewer} [data-part="{part}"]').text

    def tab(self, name: str) -> None:
        """Open a tab; on a phone most of them are in a menu."""
        tabs = [tab for tab in self.all("button[role=tab]") if tab.text == name]
        if not tabs:
            self.one(".overflow-menu > button").click()
            tabs = [tab for tab in self.all(".overflow-dropdown button") if tab.text == name]
        tabs[0].click()

    def choose(self, part: str, value: str) -> None:
        """Choose an option of a box in the tab Attention."""
        self.browser.execute_script(
            'const box = document.querySelector(`#attention [data-part="${arguments[0]}"]`);'
            "box.value = arguments[1]; box.dispatchEvent(new Event('change'))",
            part,
            value,
        )

    def choose_head(self, layer: int, head: int) -> None:
        """Click a head, counted from 1, when the pictures of the heads are there: they replace the cells."""
        self.browser.execute_script("document.querySelector('#attention [data-part=\"grid\"]').scrollIntoView()")
        self.wait(lambda: self.all("#attention .grid canvas"))
        self.until_shown("attention", self.one(f'#attention [aria-label^="Layer {layer}, head {head}"]').click)
