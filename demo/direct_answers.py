"""Answers to what the page's own script asks, without the queue of gradio's events.

An event waits in a queue and is answered over a stream of messages, which takes longer than reading what is kept of a
document. A component's script can also call a function on the server: one request, guarded as events are. What runs a
model stays an event: the queue keeps its line open however long it takes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr
from anyio import CapacityLimiter, to_thread
from fastapi import HTTPException

from .visitors import MOST_WAITING, failure_or

MOST_AT_ONCE = 4
_BUSY = {"kind": "failed", "message": "Too many visitors ask at this moment. Try again."}


def answering(answer: Callable[[str, Any], dict[str, Any]]) -> Callable[..., Awaitable[dict[str, Any]]]:
    """The function `server.answer` of a viewer's script.

    Args:
        answer: from the session's name and what the script sent to what it shows. InputErrors become an answer of the
            kind "failed".

    Returns:
        A function for `gr.HTML(server_functions=...)`. It answers so many at once, and refuses those beyond
        `MOST_WAITING`.
    """
    limiter = CapacityLimiter(MOST_AT_ONCE)
    in_line = 0

    async def answer_directly(sent: Any, request: gr.Request) -> dict[str, Any]:
        nonlocal in_line
        visitor = await _visitor_of(request)
        if in_line >= MOST_AT_ONCE + MOST_WAITING:
            return _BUSY
        in_line += 1
        try:
            return await to_thread.run_sync(failure_or, lambda: answer(visitor, sent), limiter=limiter)
        finally:
            in_line -= 1

    # What the script calls it.
    answer_directly.__name__ = "answer"
    return answer_directly


async def _visitor_of(request: gr.Request) -> str:
    """The session's name, which gradio reads from the request without passing it on."""
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise HTTPException(415, "Files are not taken here.")
    # Kept by the request since gradio read it.
    return str((await request.json())["session_hash"])
