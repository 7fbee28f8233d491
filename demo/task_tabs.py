"""The tabs Ask, Classify, Tag and Fill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from . import tasks
from .checkpoints import Checkpoints
from .inputs import MOST_CHARACTERS, MOST_QUESTION_CHARACTERS
from .viewer import viewer
from .visitors import mark_as_new, show_input_errors

_FILL = (
    "The captain looked at the sea and at the <mask>. For three days the <mask> had blown from the north, and the men, "
    "who had slept little and eaten <mask>, said nothing."
)


def task_tabs(checkpoints: Checkpoints, document: gr.Textbox) -> list[gr.Tab]:
    """The tabs about the document, for the tasks that have a checkpoint.

    Args:
        checkpoints: the models.
        document: the text that all tabs share.
    """
    tabs = []
    if "question-answering" in checkpoints.by_task:
        with gr.Tab("Ask") as tab:
            question = gr.Textbox(
                label="Question about the document", max_length=MOST_QUESTION_CHARACTERS, elem_id="ask-question"
            )
            _run(checkpoints, "question-answering", tasks.ask, [question, document], "ask", question)
        tabs.append(tab)
    for task, work, name in (
        ("text-classification", tasks.classify, "classify"),
        ("token-classification", tasks.tag, "tag"),
    ):
        if task in checkpoints.by_task:
            with gr.Tab(name.capitalize()) as tab:
                _run(checkpoints, task, work, [document], name)
            tabs.append(tab)
    return tabs


def fill_tab(checkpoints: Checkpoints) -> gr.Tab:
    """The tab Fill, which has a text of its own; for checkpoints with one for "fill-mask"."""
    with gr.Tab("Fill") as tab:
        text = gr.Textbox(
            _FILL,
            label="Text with <mask> where a word is to be guessed",
            lines=4,
            max_length=MOST_CHARACTERS,
            elem_id="fill-text",
        )
        _run(checkpoints, "fill-mask", tasks.fill, [text], "fill")
    return tab


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
    # The view is for the page; `api` has the same for programs.
    gr.on(
        events,
        on_click,
        inputs,
        shown,
        concurrency_limit=2,
        concurrency_id="model",
        api_name=name,
        api_visibility="undocumented",
    )
