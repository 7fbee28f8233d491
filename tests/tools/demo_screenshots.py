"""Takes the demo's screenshots that README shows: `python -m tests.tools.demo_screenshots MODEL docs/results/demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from selenium import webdriver

from longformer_plus.demo.app import build, launch_options
from longformer_plus.demo.checkpoints import Checkpoints
from longformer_plus.demo.inputs import SAMPLES, sample

from ..demo.browsing import CHROMIUM, DRIVER, Page


def browser(width: int, height: int, is_phone: bool = False) -> webdriver.Chrome:
    """A headless Chromium with a window of this size."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    found.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 2 if is_phone else 1, "mobile": is_phone},
    )
    return found


def analyse(page: Page, place: int, layer: int, head: int) -> None:
    """Analyse a sample and choose a head and a token."""
    page.browser.execute_script(
        "const area = document.querySelector('#document-text textarea'); area.value = arguments[0];"
        "area.dispatchEvent(new Event('input', { bubbles: true }))",
        sample(next(iter(SAMPLES))),
    )
    page.until_shown("attention", page.one("#analyse").click)
    cell = page.one(f'#attention [aria-label^="Layer {layer}, head {head}"]')
    page.until_shown("attention", lambda: page.browser.execute_script("arguments[0].click()", cell))
    page.until_shown("attention", lambda: page.browser.execute_script("arguments[0].click()", page.token(place)))
    page.browser.execute_script(
        "const text = document.querySelector('#attention [data-part=\"text\"]');"
        "const chosen = text.querySelector('.chosen').getBoundingClientRect();"
        "text.scrollTop += chosen.top - text.getBoundingClientRect().top - 120; window.scrollTo(0, 0)"
    )


def main() -> None:
    """Explore in light, dark and on a phone, and the pattern."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--token", type=int, default=600)
    parser.add_argument("--layer", type=int, default=1)
    parser.add_argument("--head", type=int, default=1)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    app = build(Checkpoints.find(options.model))
    _, url, _ = app.launch(**launch_options("127.0.0.1", None), prevent_thread_lock=True, quiet=True)
    for name, size, theme in (
        ("attention", (1280, 1000, False), "light"),
        ("attention_dark", (1280, 1000, False), "dark"),
        ("attention_phone", (390, 1700, True), "light"),
    ):
        found = browser(*size)
        page = Page(found, f"{url}?__theme={theme}")
        analyse(page, options.token, options.layer, options.head)
        found.save_screenshot(str(options.folder / f"{name}.png"))
        if name == "attention":
            page.tab("Pattern")
            page.wait(lambda page=page: "of 48" in page.text("explained", "pattern"))  # type: ignore[misc]
            found.save_screenshot(str(options.folder / "pattern.png"))
        found.quit()
    app.close()


if __name__ == "__main__":
    main()
