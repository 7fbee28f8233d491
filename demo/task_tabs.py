"""The tabs Ask, Fill, Classify and Tag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from . import tasks
from .checkpoints import Checkpoints
from .inputs import MOST_CHARACTERS
from .viewer import viewer
from .visitors import mark_as_new, show_input_errors

_FILL = (
    "The captain looked at the sea and at the <mask>. For three days the <mask> had blown from the north, and the men, "
    "who had slept little and eaten <mask>, said nothing."
)


def task_tabs(checkpoints: Checkpoints, document: gr.Textbox) -> None:
    """The tabs' components and what they do.

    Args:
        checkpoints: a task without one gets a line that says how to name one.
        document: the text that all tabs share.
    """
    with gr.Tab("Ask"):
        if _is_there(checkpoints, "question-answering"):
            question = gr.Textbox(
                label="Question about the document", max_length=tasks.MOST_QUESTION_CHARACTERS, elem_id="ask-question"
            )
            _run(checkpoints, "question-answering", tasks.ask, [question, document], "ask", question)
    with gr.Tab("Fill"):
        if _is_there(checkpoints, "fill-mask"):
            text = gr.Textbox(
                _FILL,
                label="Text with <mask> where a word is to be guessed",
                lines=4,
                max_length=MOST_CHARACTERS,
                elem_id="fill-text",
            )
            _run(checkpoints, "fill-mask", tasks.fill, [text], "fill")
    with gr.Tab("Classify"):
        if _is_there(checkpoints, "text-classification"):
            _run(checkpoints, "text-classification", tasks.classify, [document], "classify")
    with gr.Tab("Tag"):
        if _is_there(checkpoints, "token-classification"):
            _run(checkpoints, "token-classification", tasks.tag, [document], "tag")


def _is_there(checkpoints: Checkpoints, task: str) -> bool:
    if task in checkpoints.by_task:
        return True
    gr.Markdown(
        f"No checkpoint for this is loaded. Start the demo with `--{task} MODEL`, a folder or a name on the hub."
    )
    return False


def _run(
    checkpoints: Checkpoints,
    task: str,
    work: Callable[..., dict[str, Any]],
    inputs: list[gr.Textbox],
    name: str,
    entered: gr.Textbox | None = None,
) -> None:
    """A button that does the work and shows what comes of it; `entered` does it too when Enter is pressed in it."""
    button = gr.Button(name.capitalize(), variant="primary", elem_id=f"{name}-run")
    shown = viewer("marked_text", f"{name}-shown")
    checkpoint = checkpoints.by_task[task]

    def on_click(*texts: str) -> dict[str, Any]:
        return mark_as_new(show_input_errors(lambda: work(checkpoint, *texts)))

    events = [button.click] if entered is None else [button.click, entered.submit]
    gr.on(events, on_click, inputs, shown, concurrency_limit=2, concurrency_id="model", api_name=name)
