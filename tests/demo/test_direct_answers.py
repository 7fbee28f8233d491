"""What the page's script asks past the queue: who is answered, with what, and how many at once."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest

pytest.importorskip("gradio")

from longformer_plus.demo.direct_answers import MOST_AT_ONCE, answering
from longformer_plus.demo.inputs import InputError
from longformer_plus.demo.visitors import MOST_WAITING

from ..tools.demo_load import Visitor


class Request:
    """What gradio hands on of a question."""

    def __init__(self, session: str, content_type: str = "application/json") -> None:
        self.headers, self.session = {"content-type": content_type}, session

    async def json(self) -> dict[str, Any]:
        return {"session_hash": self.session, "data": {"session_hash": "that of another"}}


def test_each_session_is_answered_from_its_own_document(url: str) -> None:
    first, second, stranger = (Visitor(url, number) for number in range(3))
    assert first.analyse("The first visitor's words.") == second.analyse("What the second one wrote.") == "right"
    assert "first visitor" in first.ask("page")["page"]
    assert "first visitor" not in second.ask("page")["page"]
    assert stranger.ask("links", token=1) == {"kind": "gone"}
    # What is sent as a part of the question names nobody.
    assert stranger.ask("links", token=1, session_hash=first.session, visitor=first.session) == {"kind": "gone"}
    failed = first.ask("links", token=10**9)
    assert failed["kind"] == "failed"
    assert "Reload" in failed["message"]


def test_files_and_other_functions_are_refused(url: str) -> None:
    visitor = Visitor(url, 0)
    fields = {"component_id": str(visitor.viewer), "fn_name": "answer", "session_hash": visitor.session}
    address = f"{url}gradio_api/component_server/"
    for name in ("get_config", "postprocess", "__init__"):
        answer = httpx.post(address, json={**fields, "component_id": visitor.viewer, "fn_name": name, "data": {}})
        assert answer.status_code == 404
    asked = asyncio.run(_refused(answering(lambda *_: pytest.fail("it was answered"))))
    assert asked == 415


async def _refused(ask: Any) -> int:
    from fastapi import HTTPException

    with pytest.raises(HTTPException) as error:
        await ask({}, Request("a", "multipart/form-data; boundary=x"))
    return error.value.status_code


def test_so_many_are_answered_at_once_and_those_beyond_the_line_are_told() -> None:
    go_on, running, most = threading.Event(), [], []

    def answer(visitor: str, sent: Any) -> dict[str, Any]:
        running.append(visitor)
        most.append(len(running))
        assert go_on.wait(20)
        running.remove(visitor)
        if sent:
            raise InputError("Of no use.")
        return {"kind": "links", "visitor": visitor}

    async def visit() -> list[dict[str, Any]]:
        ask = answering(answer)
        names = [f"visitor {number}" for number in range(MOST_AT_ONCE + MOST_WAITING + 3)]
        asked = [asyncio.create_task(ask(number % 2, Request(name))) for number, name in enumerate(names)]  # type: ignore[arg-type]
        while sum(task.done() for task in asked) < 3 or len(running) < MOST_AT_ONCE:
            await asyncio.sleep(0.01)
        go_on.set()
        return await asyncio.gather(*asked)

    answers = asyncio.run(visit())
    assert max(most) == MOST_AT_ONCE
    assert [one["kind"] for one in answers[-3:]] == ["failed"] * 3
    assert all("Try again" in one["message"] for one in answers[-3:])
    for number, one in enumerate(answers[:-3]):
        expected = {"kind": "failed", "message": "Of no use."}
        assert one == (expected if number % 2 else {"kind": "links", "visitor": f"visitor {number}"})
