"""Takes the screenshots of the documentation: `python -m tests.tools.demo_screenshots docs/results/demo`."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from PIL import Image
from selenium import webdriver

from longformer_plus.demo.app import build
from longformer_plus.demo.checkpoints import Checkpoints
from longformer_plus.demo.serving import launch_options

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


def show_word(page: Page) -> None:
    """The word that the page opens on, near the top of the text."""
    page.browser.execute_script(
        "const text = document.querySelector('#attention [data-part=\"text\"]');"
        "const chosen = text.querySelector('.chosen').getBoundingClientRect();"
        "text.scrollTop += chosen.top - text.getBoundingClientRect().top - 120; window.scrollTo(0, 0)"
    )


def show_sentences(page: Page) -> None:
    """The attention between sentences, averaged over layers and heads, and of the sentence in the middle."""
    page.choose("layer", "-1")
    page.until_shown("attention", lambda: page.choose("head", "-1"))
    page.until_shown("attention", lambda: page.choose("unit", "sentence"))


def compare(page: Page) -> None:
    """The first model beside the last one, and all heads by how differently they attend."""
    page.tab("Compare")
    page.wait(lambda: page.all("#compare-run"))
    page.until_shown("compare-shown", page.one("#compare-run").click, 120)
    page.until_shown("compare-shown", page.one('#compare-shown [data-part="changes"]').click)
    page.browser.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")


def save(found: webdriver.Chrome, path: Path) -> None:
    """What the browser shows, in 256 colours: a third of the bytes, and no difference that one sees."""
    picture = Image.open(io.BytesIO(found.get_screenshot_as_png())).convert("RGB")
    # The best coverage keeps the rare colours of single words.
    colours = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    colours.save(path, optimize=True)


def main() -> None:
    """The tab Attention in light, dark and on a phone, sentences, two models, and the pattern."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="by default the one of the package")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    app = build(Checkpoints.find(options.model))
    _, url, _ = app.launch(**launch_options("127.0.0.1", None), prevent_thread_lock=True, quiet=True)
    for name, size, theme in (
        ("attention", (1280, 1600, False), "light"),
        ("attention_dark", (1280, 1600, False), "dark"),
        ("attention_phone", (390, 2600, True), "light"),
    ):
        found = browser(*size)
        page = Page(found, f"{url}?__theme={theme}")
        show_word(page)
        save(found, options.folder / f"{name}.png")
        if name == "attention":
            show_sentences(page)
            save(found, options.folder / "sentences.png")
            compare(page)
            save(found, options.folder / "compare.png")
            page.tab("Pattern")
            page.wait(lambda page=page: "of 48" in page.text("explained", "pattern"))  # type: ignore[misc]
            save(found, options.folder / "pattern.png")
        found.quit()
    app.close()


if __name__ == "__main__":
    main()
