"""Lets many visitors use the demo at once: `python -m tests.tools.demo_load`.

Each visitor speaks to the server as the page does: analyses a document of its own again and again, and clicks tokens in
between. An answer is lost where none comes, mixed up where it is of another visitor's document. Then rounds of twelve
visitors with long documents, who leave after each; the memory of the server after each round.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil

from longformer_plus.demo.inputs import SAMPLES, sample

_SERVE = """
import sys
from longformer_plus.demo.app import launch
from longformer_plus.demo.checkpoints import Checkpoints
launch(Checkpoints.find(sys.argv[2] or None), port=int(sys.argv[1]), quiet=True)
"""
# Of so many requests of a visitor one analyses a document.
_ANALYSE_EVERY = 20


class Visitor:
    """A page that is open, without a browser.

    Args:
        url: the server's.
        number: which visitor; each has a document of another length.
    """

    def __init__(self, url: str, number: int) -> None:
        url = url.rstrip("/")
        self.url, self.number = f"{url}/gradio_api", number
        self.session = uuid.uuid4().hex[:11]
        self.client = httpx.Client(timeout=600)
        config = self.client.get(f"{url}/config").json()
        self.viewer = next(one["id"] for one in config["components"] if one["props"].get("elem_id") == "attention")
        self.event = next(one["id"] for one in config["dependencies"] if one["api_name"] == "attention")
        self.tokens = 0

    def ask(self, what: str, **more: Any) -> dict[str, Any]:
        """Ask as the page's script does, past the queue."""
        body = {"component_id": self.viewer, "fn_name": "answer", "session_hash": self.session}
        answer = self.client.post(f"{self.url}/component_server/", json={**body, "data": {"ask": what, **more}})
        return answer.json() if answer.is_success else {"kind": "lost"}

    def submit(self, data: list[Any]) -> dict[str, Any]:
        """Analyse as the page does, and wait until it is done."""
        body = {"fn_index": self.event, "session_hash": self.session, "data": data}
        joined = self.client.post(f"{self.url}/queue/join", json=body).raise_for_status().json()
        with self.client.stream("GET", f"{self.url}/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed" and message["event_id"] == joined["event_id"]:
                    return message["output"]["data"][0] if message["success"] else {"kind": "failed"}
        return {"kind": "lost"}

    def analyse(self, text: str) -> str:
        """ "right", "lost" or "mixed up"."""
        if self.submit([text, "first token", "", None]).get("kind") != "read":
            return "lost"
        value = self.ask("document", columns=1000, rows=150)
        if value.get("kind") != "document":
            return "lost"
        self.tokens = value["document"]["numTokens"]
        return "right" if value["document"]["text"] == text[: len(value["document"]["text"])] else "mixed up"

    def click(self, request: int) -> str:
        """Select a token."""
        token = request % self.tokens
        value = self.ask("links", token=token)
        if value.get("kind") != "links":
            return "lost"
        count = len(base64.b64decode(value["links"]["weights"]["codes"]))
        return "right" if (value["links"]["token"], count) == (token, self.tokens) else "mixed up"

    def visit(self, requests: int) -> Counter[str]:
        """Ask so often, and count what came of it."""
        found: Counter[str] = Counter()
        for request in range(requests):
            if request % _ANALYSE_EVERY == 0:
                text = f"Visitor {self.number} writes this before request {request}. " * (self.number + 2)
                found[self.analyse(text)] += 1
            else:
                found[self.click(request)] += 1
        return found

    def leave(self) -> None:
        """Close the page: the server hears of it when the stream of its heartbeat ends."""
        with self.client.stream("GET", f"{self.url}/heartbeat/{self.session}") as stream:
            next(stream.iter_lines())
        self.client.close()


def main() -> None:
    """Print how many answers came and were right, and the server's memory after each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="by default the one of the package")
    parser.add_argument("--port", type=int, default=7899)
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    server = subprocess.Popen([sys.executable, "-c", _SERVE, str(options.port), options.model])
    try:
        measure(psutil.Process(server.pid), f"http://127.0.0.1:{options.port}", options)
    finally:
        server.terminate()


def measure(process: psutil.Process, url: str, options: argparse.Namespace) -> None:
    """Both measurements, on a server that is being started."""
    wait_for(url)

    def megabytes() -> int:
        return round(process.memory_info().rss / 1e6)

    def long_visit(number: int) -> str:
        visitor = Visitor(url, number)
        found = visitor.analyse(f"Visitor {number}. " + text)
        visitor.leave()
        return found

    text = "\n\n".join(sample(name) for name in SAMPLES) * 3
    with ThreadPoolExecutor(12) as pool:
        for turn in range(options.rounds):
            found = Counter(pool.map(long_visit, range(12)))
            # The server hears of a visitor who left at the next beat of its heart, some seconds later.
            least = min(sleep_then(1, megabytes) for _ in range(20))
            print(f"12 long documents, round {turn + 1}: {dict(found)}, {least} MB", flush=True)
    visitors = [Visitor(url, number) for number in range(options.visitors)]
    started, before = time.perf_counter(), megabytes()
    with ThreadPoolExecutor(options.visitors) as pool:
        total = sum(pool.map(lambda visitor: visitor.visit(options.requests), visitors), Counter())
    seconds = time.perf_counter() - started
    what = f"{options.visitors} visitors x {options.requests} requests"
    print(f"{what} in {seconds:.0f} s: {dict(total)}; {before} MB before, {megabytes()} MB after")


def sleep_then(seconds: float, measured: Callable[[], int]) -> int:
    """What is measured after some seconds."""
    time.sleep(seconds)
    return measured()


def wait_for(url: str) -> None:
    """Until the server answers."""
    for _ in range(600):
        try:
            httpx.get(f"{url}/health").raise_for_status()
            # gradio still looks whether its own page can be reached.
            time.sleep(5)
            return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise TimeoutError(f"{url} did not answer in two minutes.")


if __name__ == "__main__":
    main()
