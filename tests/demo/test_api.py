"""The demo by its API, and many visitors at once."""

from __future__ import annotations

import runpy
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from longformer_plus.demo.documents import AnalysedDocument
from longformer_plus.demo.serving import MOST_SESSIONS
from longformer_plus.demo.store import VisitorStore

from ..tools.demo_load import Visitor

TEXT = (
    "The captain looked at the sea. The wind had blown for three days. Nobody knew what the morning would bring.\n" * 5
)


def client_of(url: str) -> Any:
    return pytest.importorskip("gradio_client").Client(url, verbose=False, httpx_kwargs={"timeout": 60})


def test_the_api_answers_with_lists_that_can_be_read(url: str) -> None:
    client = client_of(url)
    links = client.predict(text=TEXT, token=3, layer=1, head=2, count=4, api_name="/links")
    assert len(links) == 4
    assert [link["weight"] for link in links] == sorted((link["weight"] for link in links), reverse=True)
    assert all(link["offset"] == link["position"] - 3 for link in links)
    assert {link["is_global"] for link in links if link["position"] == 0} <= {True}
    assert all(link["token"].strip() in TEXT or link["token"] in ("<s>", "</s>") for link in links)
    answers = client.predict(question="Who looked at the sea?", text=TEXT, api_name="/answers")
    assert len(answers) == 5
    assert all(answer["text"] in TEXT for answer in answers)
    classes = client.predict(text=TEXT, api_name="/classes")
    assert sum(one["score"] for one in classes) == pytest.approx(1, abs=1e-5)
    assert {one["label"] for one in client.predict(text=TEXT, api_name="/entities")} <= {"LABEL_0", "LABEL_1"}
    assert client.predict(text="The <mask> looked.", api_name="/guesses")[0]["word"]


def test_the_example_of_the_documentation_runs(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio_client")
    monkeypatch.setattr("sys.argv", ["client.py", url])
    runpy.run_path(str(Path(__file__).parents[2] / "docs" / "examples" / "demo" / "client.py"), run_name="__main__")
    *links, guess = capsys.readouterr().out.splitlines()
    assert len(links) == 5
    assert all(" at " in link for link in links)
    assert "%" in guess


def test_the_api_describes_itself(url: str) -> None:
    named = client_of(url).view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {"/links", "/answers", "/classes", "/entities", "/guesses"}
    assert "strongest first" in named["/links"]["description"]
    assert [one["parameter_name"] for one in named["/answers"]["parameters"]] == ["question", "text"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"token": 10**6}, "no such token"),
        ({"token": 1, "layer": 9}, "no such layer"),
        ({"token": 1, "head": -2}, "no such head"),
        ({"token": 1, "direction": "up"}, "direction"),
        ({"token": 1, "count": 1000}, "at most 100"),
        ({"token": 1, "global_tokens": "all"}, "Choose one of"),
    ],
)
def test_wrong_arguments_of_the_api_get_a_message(url: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        client_of(url).predict(text=TEXT, **arguments, api_name="/links")


@pytest.mark.parametrize("text", ["", "x" * 5_000_000])
def test_bad_texts_get_a_message_and_the_app_lives_on(url: str, text: str) -> None:
    client = client_of(url)
    with pytest.raises(Exception, match=r"empty|5,000,000|long"):
        client.predict(text, "none", "", None, api_name="/attention")
    assert client.predict("Still alive.", "none", "", None, api_name="/attention")["kind"] == "read"


def test_files_of_the_server_cannot_be_read(url: str) -> None:
    for path in ("/etc/passwd", Path(__file__).resolve(), "../../../../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{url}gradio_api/file={path}")


def test_twenty_visitors_at_once_get_their_own_documents(
    url: str, store: VisitorStore[AnalysedDocument], served: Any
) -> None:
    def visit(number: int) -> set[str]:
        visitor = Visitor(url, number)
        texts = [f"Visitor {number} writes this in turn {turn}. " * (number + 1) for turn in range(2)]
        return {found for text in texts for found in (visitor.analyse(text), visitor.click(number))}

    with ThreadPoolExecutor(20) as pool:
        assert set().union(*pool.map(visit, range(20))) == {"right"}
    assert store.num_bytes <= store.max_bytes
    # What gradio itself keeps of a session is megabytes.
    assert len(served.state_holder.session_data) <= MOST_SESSIONS


@pytest.mark.slow
def test_memory_stays_as_it_is_over_200_requests(url: str) -> None:
    psutil = pytest.importorskip("psutil")
    client, held = client_of(url), []
    for request in range(250):
        client.predict(TEXT, "first token", "", None, api_name="/attention")
        if request >= 50:
            held.append(psutil.Process().memory_info().rss)
    assert sum(held[-20:]) / 20 < sum(held[:20]) / 20 + 20e6
