"""Times the tab Attention from a click to the painted answer: `python -m tests.tools.demo_latency DOCUMENT`.

In ms, medians; beside them the server's own share, as processor time, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from longformer_plus.demo.analysis import Analyzer
from longformer_plus.demo.app import build
from longformer_plus.demo.checkpoints import Checkpoints
from longformer_plus.demo.serving import launch_options

from ..demo.browsing import Page
from .demo_screenshots import browser

# Does something in the page; its result are the ms until the answer is drawn, and until it is painted.
_CLICK = """
const [act, done] = arguments;
const root = document.querySelector("#attention [data-shown]");
const started = performance.now();
new MutationObserver((_, observer) => {
  observer.disconnect();
  const drawn = performance.now() - started;
  requestAnimationFrame(() => setTimeout(() => done([drawn, performance.now() - started])));
}).observe(root, { attributeFilter: ["data-shown"] });
const select = (name, value) => {
  const box = root.querySelector(`[data-part="${name}"]`);
  box.value = value;
  box.dispatchEvent(new Event("change"));
};
new Function("root", "select", act)(root, select);
"""

_ANALYSE = "document.querySelector('#analyse').click()"


def actions(num_layers: int, num_heads: int, repeats: int) -> dict[str, list[str]]:
    """What is done in the page, by what it is called."""
    turns = range(repeats)
    return {
        "token": [f"root.querySelector('[data-place=\"{100 + 7 * turn}\"]').click()" for turn in turns],
        "layer": [f"select('layer', {turn % num_layers})" for turn in turns],
        "head": [f"select('head', {turn % num_heads})" for turn in turns],
        # The first chooses the unit, with the picture of all sentences.
        "sentence": [
            "select('unit', 'sentence')",
            *(f"root.querySelector('[data-place=\"{100 + 70 * turn}\"]').click()" for turn in turns),
        ],
    }


def main() -> None:
    """Analyse a document some times, click, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("document", type=Path)
    parser.add_argument("--model", help="by default the one of the package")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--analyses", type=int, default=5)
    options = parser.parse_args()
    served: list[float] = []
    answer = Analyzer.answer

    def timed(self: Analyzer, visitor: str, sent: Any) -> dict[str, Any]:
        started = time.thread_time()
        view = answer(self, visitor, sent)
        served.append(1000 * (time.thread_time() - started))
        return view

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Analyzer, "answer", timed)
        checkpoints = Checkpoints.find(options.model)
        config = checkpoints.main.config
        app = build(checkpoints)
        _, url, _ = app.launch(**launch_options("127.0.0.1", None), prevent_thread_lock=True, quiet=True)
        page = Page(browser(1280, 1000), url)
        page.browser.set_script_timeout(300)
        page.paste(options.document.read_text())
        pasted = [page.browser.execute_async_script(_CLICK, _ANALYSE)[1] for _ in range(options.analyses)]
        print(f"{page.text('status')} From paste to picture {median(pasted):.0f}, least {min(pasted):.0f}")
        for name, acts in actions(config.num_hidden_layers, config.num_attention_heads, options.repeats).items():
            served.clear()
            times = [page.browser.execute_async_script(_CLICK, act) for act in acts]
            drawn, painted = (median(column) for column in zip(*times, strict=True))
            print(f"{name:<8} painted {painted:4.0f}, drawn {drawn:4.0f}, server {median(served):5.1f}")
        page.browser.quit()
    app.close()


if __name__ == "__main__":
    main()
