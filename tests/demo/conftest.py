"""The demo as it is served, and a browser for it: one of each for all tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

import gradio as gr

from longformer_plus.demo.app import build
from longformer_plus.demo.checkpoints import Checkpoints
from longformer_plus.demo.documents import AnalysedDocument
from longformer_plus.demo.serving import launch_options
from longformer_plus.demo.store import VisitorStore

from .browsing import CHROMIUM, DRIVER, Page


@pytest.fixture(scope="package")
def store() -> VisitorStore[AnalysedDocument]:
    return VisitorStore(3_000_000)


@pytest.fixture(scope="package")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the server puts what is uploaded."""
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="package")
def served(
    task_checkpoints: dict[str, Path], store: VisitorStore[AnalysedDocument], uploads: Path
) -> Iterator[gr.Blocks]:
    by_task = {task.replace("-", "_"): str(folder) for task, folder in task_checkpoints.items()}
    app = build(Checkpoints.find(str(task_checkpoints["fill-mask"]), **by_task), store)
    app.launch(**launch_options("127.0.0.1", None), prevent_thread_lock=True, quiet=True)
    yield app
    app.close()


@pytest.fixture(scope="package")
def url(served: gr.Blocks) -> str:
    return str(served.local_url)


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """One Chromium for all tests: each opens the page anew."""
    if not CHROMIUM or not DRIVER:
        pytest.skip("there is no chromium with its driver here")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1400"):
        options.add_argument(argument)
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield started
    started.quit()


@pytest.fixture
def page(browser: Any, url: str) -> Page:
    return Page(browser, url)
