"""Who asks, and how what went wrong is shown to them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr

from .inputs import InputError

Answer = TypeVar("Answer")
# In each line; who comes then is told to come back.
MOST_WAITING = 40


def visitor_of(request: gr.Request) -> str:
    """The session's name, made by the page anew each time it is opened.

    Raises:
        gr.Error: the request has none.
    """
    if not request.session_hash:
        raise gr.Error("This request belongs to no session. Reload the page.", print_exception=False)
    return request.session_hash


def address_of(request: gr.Request) -> str:
    """The address that a visitor comes from, "" where it is not known."""
    return request.client.host if request.client else ""


def show_input_errors(answer: Callable[[], Answer]) -> Answer:
    """What `answer` returns; where it raises an InputError, the page shows its message."""
    try:
        return answer()
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from error


def failure_or(answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `answer` returns; where it raises an InputError, its message as an answer of the kind "failed"."""
    try:
        return answer()
    except InputError as error:
        return {"kind": "failed", "message": str(error)}


def mark_as_new(view: dict[str, Any]) -> dict[str, Any]:
    """The view with the time in it: gradio tells the page of a value only if it differs from the one before."""
    return {**view, "made": time.time_ns()}
