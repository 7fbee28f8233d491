"""The tab Attention: a document, its tokens, and what they attend to."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .analysis import OPENING_POLICY, POLICIES, Analyzer
from .viewer import viewer
from .visitors import address_of, mark_as_new, show_input_errors, visitor_of


def attention_tab(app: gr.Blocks, analyzer: Analyzer, text: gr.Textbox, document: gr.Accordion) -> None:
    """The tab's components and what they do.

    Args:
        app: the page, which shows a sample here when it is opened.
        analyzer: what they ask.
        text: the document that all tabs share.
        document: what it stands in; closed when the document is shown.
    """
    with gr.Row():
        policy = gr.Dropdown(
            list(POLICIES),
            value=OPENING_POLICY,
            label="Tokens that attend globally",
            info="Any token can be made global in the text, too.",
        )
        analyse = gr.Button("Analyse", variant="primary", elem_id="analyse")
    shown = viewer("attention", "attention", ("attention_canvases", "attention_heads", "attention_panel"))

    def on_load(request: gr.Request) -> dict[str, Any]:
        return mark_as_new(analyzer.open(visitor_of(request), address_of(request)))

    def on_analyse(text: str, policy: str, request: gr.Request) -> tuple[dict[str, Any], Any]:
        view = show_input_errors(
            lambda: analyzer.analyse(visitor_of(request), text, analyzer.policy(policy), address_of(request))
        )
        return mark_as_new(view), gr.Accordion(open=False)

    def on_ask(request: gr.Request, event: gr.EventData) -> dict[str, Any]:
        sent = event._data
        answer = show_input_errors(lambda: analyzer.answer(visitor_of(request), sent, address_of(request)))
        # Answers may overtake one another: the page knows by its own number which of them is late.
        number = sent.get("number") if isinstance(sent, dict) else None
        return mark_as_new({**answer, "number": number})

    model: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "model"}
    analyse.click(
        on_analyse, [text, policy], [shown, document], api_name="attention", api_visibility="undocumented", **model
    )
    quietly: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    app.load(on_load, None, shown, **model, **quietly)
    # What runs the model is asked by `submit`, what is read from what is kept by `click`.
    shown.click(on_ask, None, shown, concurrency_limit=4, trigger_mode="multiple", **quietly)
    shown.submit(on_ask, None, shown, trigger_mode="multiple", **model, **quietly)
