"""The demo as it is served: its API, many visitors at once, and the page in a real browser where there is one."""

from __future__ import annotations

import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

from longformer_plus.demo.app import build, launch_options
from longformer_plus.demo.checkpoints import Checkpoints
from longformer_plus.demo.explorer import Explored
from longformer_plus.demo.store import VisitorStore

TEXT = (
    "The captain looked at the sea. The wind had blown for three days. Nobody knew what the morning would bring.\n" * 5
)
SCRIPT = (
    "A text <script>window.harmed = 1</script> with <img src=x onerror='window.harmed = 2'> and ${window.harmed = 3}."
)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def store() -> VisitorStore[Explored]:
    return VisitorStore(3_000_000)


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the server puts what is uploaded."""
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def url(task_checkpoints: dict[str, Path], store: VisitorStore[Explored], uploads: Path) -> Iterator[str]:
    by_task = {task.replace("-", "_"): str(folder) for task, folder in task_checkpoints.items()}
    app = build(Checkpoints.find(str(task_checkpoints["fill-mask"]), **by_task), store)
    _, address, _ = app.launch(**launch_options("127.0.0.1", None), prevent_thread_lock=True, quiet=True)
    yield address
    app.close()


def client_of(url: str) -> Any:
    return pytest.importorskip("gradio_client").Client(url, verbose=False)


# The API


def test_the_api_explores_and_answers(url: str) -> None:
    client = client_of(url)
    view = client.predict(TEXT, "none", api_name="/explore")
    assert view["document"]["globals"] == []
    assert view["links"]["strongest"]
    answers = client.predict("Who looked at the sea?", TEXT, api_name="/ask")
    assert len(answers["marks"]) == 5
    assert client.predict(TEXT, api_name="/classify")["results"]


@pytest.mark.parametrize("text", ["", "x" * 5_000_000])
def test_bad_texts_get_a_message_and_the_app_lives_on(url: str, text: str) -> None:
    client = client_of(url)
    with pytest.raises(Exception, match=r"empty|5,000,000|long"):
        client.predict(text, "none", api_name="/explore")
    assert client.predict("Still alive.", "none", api_name="/explore")["document"]["numTokens"]


def test_files_of_the_server_cannot_be_read(url: str) -> None:
    for path in ("/etc/passwd", Path(__file__).resolve(), "../../../../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{url}gradio_api/file={path}")


def test_twenty_visitors_at_once_get_their_own_documents(url: str, store: VisitorStore[Explored]) -> None:
    def visit(number: int) -> bool:
        client = client_of(url)
        for turn in range(3):
            text = f"Visitor {number} writes this in turn {turn}. " * (number + 1)
            view = client.predict(text, "first token", api_name="/explore")
            if not view["document"]["text"].startswith(f"Visitor {number} writes this in turn {turn}."):
                return False
        return True

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(visit, range(20)))
    assert store.num_bytes <= store.max_bytes


@pytest.mark.slow
def test_memory_stays_as_it_is_over_200_requests(url: str) -> None:
    psutil = pytest.importorskip("psutil")
    client, held = client_of(url), []
    for request in range(250):
        client.predict(TEXT, "first token", api_name="/explore")
        if request >= 50:
            held.append(psutil.Process().memory_info().rss)
    assert sum(held[-20:]) / 20 < sum(held[:20]) / 20 + 20e6


# The page


@pytest.fixture(scope="module")
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


class Page:
    """The page as a visitor uses it."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get(url)
        self.wait(lambda: self.all("#explore-analyse"))

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.all(selector)[0]

    def wait(self, condition: Callable[[], Any], seconds: float = 20) -> Any:
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

    def until_shown(self, viewer: str, act: Callable[[], object], seconds: float = 20) -> None:
        before = self.shown(viewer)
        act()
        self.wait(lambda: self.shown(viewer) > before, seconds)

    def type(self, selector: str, text: str) -> None:
        self.one(selector).send_keys(text)

    def token(self, place: int) -> Any:
        return self.one(f'#explore [data-place="{place}"]')

    def text(self, part: str, viewer: str = "explore") -> str:
        return self.one(f'#{viewer} [data-part="{part}"]').text

    def tab(self, name: str) -> None:
        next(tab for tab in self.all("button[role=tab]") if tab.text == name).click()


def test_a_visitor_types_clicks_and_makes_a_token_global(page: Page) -> None:
    page.type("#document-text textarea", TEXT)
    page.until_shown("explore", page.one("#explore-analyse").click)
    assert "tokens, read in" in page.text("status")
    page.until_shown("explore", page.token(9).click)
    assert "at 9" in page.text("title")
    assert "tokens in its window" in page.text("shares")
    assert len(page.all('#explore [data-part="links"] tr')) == 16
    lit = page.browser.execute_script(
        "return [...document.querySelectorAll('#explore [data-place]')].filter((span) => span.style.background).length"
    )
    assert 5 < lit < 60
    page.until_shown("explore", page.one('#explore [data-part="toggle"]').click)
    assert page.text("title").endswith("global")
    assert "all" in page.text("shares")


def test_the_keyboard_chooses_tokens_and_a_head_is_chosen(page: Page) -> None:
    page.type("#document-text textarea", TEXT)
    page.until_shown("explore", page.one("#explore-analyse").click)
    page.until_shown("explore", page.token(20).click)
    band = page.one('#explore [data-part="band"]')
    page.until_shown("explore", lambda: band.send_keys("\ue014"))  # the right arrow
    assert "at 21" in page.text("title")
    assert "token 21" in page.one('#explore [data-part="said"]').get_attribute("textContent")
    cell = page.one('#explore [aria-label^="Layer 2, head 3"]')
    page.until_shown("explore", cell.click)
    assert page.one('#explore [data-part="layer"]').get_attribute("value") == "1"
    assert page.one('#explore [data-part="head"]').get_attribute("value") == "2"
    assert "top: 8 tokens ahead" in page.text("band-caption")
    pixels = page.browser.execute_script(
        "const canvas = arguments[0]; const paint = canvas.getContext('2d');"
        "return new Set(paint.getImageData(0, 0, canvas.width, canvas.height).data).size",
        page.one('#explore [data-part="band"]'),
    )
    assert pixels > 30


def test_scripts_in_a_document_do_not_run(page: Page) -> None:
    page.browser.execute_script(
        "const area = document.querySelector('#document-text textarea'); area.value = arguments[0];"
        "area.dispatchEvent(new Event('input', { bubbles: true }))",
        SCRIPT,
    )
    page.until_shown("explore", page.one("#explore-analyse").click)
    page.until_shown("explore", page.token(6).click)
    assert "<script>window.harmed = 1</script>" in page.text("text")
    assert page.browser.execute_script("return window.harmed") is None


def test_a_file_is_uploaded_and_a_question_asked(page: Page, tmp_path: Path, uploads: Path) -> None:
    path = tmp_path / "upload.md"
    path.write_text(TEXT)
    page.one("#document-upload input[type=file], input[type=file]").send_keys(str(path))
    area = page.one("#document-text textarea")
    page.wait(lambda: area.get_attribute("value") == TEXT)
    assert not [path for path in uploads.rglob("*") if path.is_file() and path.stat().st_size]
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
    page.until_shown("explore", page.one("#explore-analyse").click)


def test_the_pattern_follows_its_sliders(page: Page) -> None:
    page.tab("Understand")
    page.wait(lambda: "of 48" in page.text("explained", "understand"))
    before = page.text("cost", "understand")
    page.one('#understand [data-part="window"]').send_keys("\ue014")
    assert page.text("cost", "understand") != before


def test_a_visitor_who_leaves_is_forgotten(page: Page, store: VisitorStore[Explored]) -> None:
    page.type("#document-text textarea", "I was here.")
    page.until_shown("explore", page.one("#explore-analyse").click)

    def held() -> bool:
        return any("I was here." in entry.kept.document.text for entry in list(store._entries.values()))

    assert held()
    page.browser.get("about:blank")
    page.wait(lambda: not held(), 30)
