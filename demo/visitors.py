"""Who asks, and how they are told what went wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr

from .inputs import InputError

Answer = TypeVar("Answer")


def visitor_of(request: gr.Request) -> str:
    """The session's name, made by the page anew each time it is opened.

    Raises:
        gr.Error: the request has none.
    """
    if not request.session_hash:
        raise gr.Error("This request belongs to no session. Reload the page.", print_exception=False)
    return request.session_hash


def told(answer: Callable[[], Answer]) -> Answer:
    """What `answer` gives; its InputError as a message on the page."""
    try:
        return answer()
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from error


def stamped(view: dict[str, Any]) -> dict[str, Any]:
    """A view that differs from every other: the page hears of a value only where it changes."""
    return {**view, "made": time.time_ns()}
