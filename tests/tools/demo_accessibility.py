"""Checks every tab of the demo with axe: `python -m tests.tools.demo_accessibility node_modules/axe-core/axe.min.js`.

Light and dark, on a desk and on a phone; axe-core is a package of npm. Prints the findings by their impact, serious and
critical ones with the elements that they are about, and how many texts have which contrast.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from longformer_plus.demo.app import build
from longformer_plus.demo.checkpoints import Checkpoints
from longformer_plus.demo.serving import launch_options

from ..demo.browsing import Page
from .demo_screenshots import browser

_RUN = """
const done = arguments[0];
axe.run(document, { resultTypes: ["violations", "passes"] }).then((found) => done({
  violations: found.violations.map(({ id, impact, help, nodes }) =>
    ({ id, impact, help, nodes: nodes.map((one) => `${one.target.join(" ")}: ${one.any[0]?.message ?? ""}`) })),
  contrasts: found.passes.concat(found.violations).filter((one) => one.id === "color-contrast")
    .flatMap((one) => one.nodes.flatMap((node) => node.any.map((check) => check.data?.contrastRatio)))
    .filter((ratio) => ratio),
}));
"""
_SERIOUS = ("serious", "critical")


def check(page: Page, axe: str) -> tuple[dict[str, Any], list[str]]:
    """The findings of axe in the page as it is, and those that are serious, in words."""
    page.browser.execute_script(axe)
    found = page.browser.execute_async_script(_RUN)
    serious = [
        f"{one['id']} ({one['impact']}): {one['help']}\n      " + "\n      ".join(one["nodes"][:4])
        for one in found["violations"]
        if one["impact"] in _SERIOUS
    ]
    return found, serious


def prepare(page: Page, tab: str) -> None:
    """Open a tab, with something in it where that is done fast."""
    page.tab(tab)
    run = {
        "Compare": ("compare-run", "compare-shown"),
        "Tag": ("tag-run", "tag-shown"),
        "Fill": ("fill-run", "fill-shown"),
    }
    if tab in run:
        button, shown = run[tab]
        page.wait(lambda: page.all(f"#{button}"))
        page.until_shown(shown, page.one(f"#{button}").click, 120)
    if tab == "Attention":
        page.until_shown("attention", lambda: page.choose("unit", "sentence"))
        page.browser.execute_script("document.querySelector('#attention details').open = true")


def main() -> int:
    """Check all tabs; 1 where there is a serious finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("axe", type=Path)
    options = parser.parse_args()
    app = build(Checkpoints.find(None))
    _, url, _ = app.launch(**launch_options("127.0.0.1", None), prevent_thread_lock=True, quiet=True)
    failed = 0
    for device, size in (("desk", (1280, 1400, False)), ("phone", (390, 900, True))):
        for theme in ("light", "dark"):
            page = Page(browser(*size), f"{url}?__theme={theme}")
            page.browser.set_script_timeout(120)
            buttons = page.all("button[role=tab], .overflow-dropdown button")
            for tab in [button.get_attribute("textContent").strip() for button in buttons]:
                prepare(page, tab)
                found, serious = check(page, options.axe.read_text(encoding="utf-8"))
                impacts = Counter(one["impact"] for one in found["violations"])
                ratios = sorted(found["contrasts"])
                print(
                    f"{device} {theme} {tab}: findings {dict(impacts)}, least contrast {ratios[0] if ratios else '-'}"
                )
                for one in serious:
                    print("   ", one)
                failed += len(serious)
            page.browser.quit()
    app.close()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
