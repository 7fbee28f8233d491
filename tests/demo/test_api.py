"""The demo by its API, and many visitors at once."""

from __future__ import annotations

import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from longformer_plus.demo.analysis import AnalysedDocument
from longformer_plus.demo.store import VisitorStore

TEXT = (
    "The captain looked at the sea. The wind had blown for three days. Nobody knew what the morning would bring.\n" * 5
)


def client_of(url: str) -> Any:
    return pytest.importorskip("gradio_client").Client(url, verbose=False)


def test_the_api_explores_and_answers(url: str) -> None:
    client = client_of(url)
    view = client.predict(TEXT, "none", api_name="/attention")
    assert view["document"]["globals"] == []
    assert view["links"]["strongest"]
    answers = client.predict("Who looked at the sea?", TEXT, api_name="/ask")
    assert len(answers["marks"]) == 5
    assert client.predict(TEXT, api_name="/classify")["results"]


@pytest.mark.parametrize("text", ["", "x" * 5_000_000])
def test_bad_texts_get_a_message_and_the_app_lives_on(url: str, text: str) -> None:
    client = client_of(url)
    with pytest.raises(Exception, match=r"empty|5,000,000|long"):
        client.predict(text, "none", api_name="/attention")
    assert client.predict("Still alive.", "none", api_name="/attention")["document"]["numTokens"]


def test_files_of_the_server_cannot_be_read(url: str) -> None:
    for path in ("/etc/passwd", Path(__file__).resolve(), "../../../../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{url}gradio_api/file={path}")


def test_twenty_visitors_at_once_get_their_own_documents(url: str, store: VisitorStore[AnalysedDocument]) -> None:
    def visit(number: int) -> bool:
        client = client_of(url)
        for turn in range(3):
            text = f"Visitor {number} writes this in turn {turn}. " * (number + 1)
            view = client.predict(text, "first token", api_name="/attention")
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
        client.predict(TEXT, "first token", api_name="/attention")
        if request >= 50:
            held.append(psutil.Process().memory_info().rss)
    assert sum(held[-20:]) / 20 < sum(held[:20]) / 20 + 20e6
