"""The tab Attention: a document, its tokens, and what they attend to."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .analysis import POLICIES, Analyzer
from .viewer import viewer
from .visitors import address_of, mark_as_new, show_input_errors, visitor_of


def attention_tab(analyzer: Analyzer, text: gr.Textbox, document: gr.Accordion) -> None:
    """The tab's components and what they do.

    Args:
        analyzer: what they ask.
        text: the document that all tabs share.
        document: what it stands in; closed when the document is shown.
    """
    with gr.Row():
        policy = gr.Dropdown(
            list(POLICIES),
            value="first token",
            label="Tokens that attend globally",
            info="Any token can be made global in the picture, too.",
        )
        analyse = gr.Button("Analyse", variant="primary", elem_id="analyse")
    shown = viewer("attention", "attention", ("attention_canvases", "attention_panel"))

    def on_analyse(text: str, policy: str, request: gr.Request) -> tuple[dict[str, Any], Any]:
        view = show_input_errors(
            lambda: analyzer.analyse(visitor_of(request), text, analyzer.policy(policy), address_of(request))
        )
        return mark_as_new(view), gr.Accordion(open=False)

    # What runs the model is asked by `submit`, what is read from what is kept by `click`.
    def on_ask(request: gr.Request, event: gr.EventData) -> dict[str, Any]:
        sent = event._data
        answer = show_input_errors(lambda: analyzer.answer(visitor_of(request), sent, address_of(request)))
        # Answers may overtake one another: the page knows by its own number which of them is late.
        return mark_as_new({**answer, "number": sent.get("number")})

    analyse.click(
        on_analyse, [text, policy], [shown, document], concurrency_limit=2, concurrency_id="model", api_name="attention"
    )
    quietly: dict[str, Any] = {"trigger_mode": "multiple", "show_progress": "hidden", "api_visibility": "private"}
    shown.click(on_ask, None, shown, concurrency_limit=4, **quietly)
    shown.submit(on_ask, None, shown, concurrency_limit=2, concurrency_id="model", **quietly)
