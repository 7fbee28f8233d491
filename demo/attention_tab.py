"""The tab Attention: a document, its tokens, and what they attend to."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .analysis import Analyzer
from .documents import OPENING_POLICY, POLICIES, Source
from .inputs import MOST_QUESTION_CHARACTERS
from .viewer import viewer
from .visitors import address_of, failure_or, mark_as_new, show_input_errors, visitor_of

SCRIPTS = (
    "attention_canvases",
    "attention_heads",
    "attention_units",
    "attention_panel",
    "attention_address",
    "attention_saving",
    "attention_answers",
)


def attention_tab(app: gr.Blocks, analyzer: Analyzer, text: gr.Textbox, document: gr.Accordion) -> None:
    """The tab's components and what they do.

    Args:
        app: the page, which shows a sample here when it is opened.
        analyzer: what they ask.
        text: the document that all tabs share.
        document: what it stands in; closed when the document is shown.
    """
    models = list(analyzer.reader.models)
    with gr.Row():
        policy = gr.Dropdown(
            list(POLICIES),
            value=OPENING_POLICY,
            label="Tokens that attend globally",
            info="Any token can be made global in the text, too.",
        )
        model = gr.Dropdown(models, value=models[0], label="Model", visible=len(models) > 1, elem_id="model", scale=2)
        question = gr.Textbox(
            "",
            label="Question, optional",
            info="Read before the document: see what flows between the two.",
            max_length=MOST_QUESTION_CHARACTERS,
            elem_id="question",
            scale=2,
        )
        analyse = gr.Button("Analyse", variant="primary", elem_id="analyse")
    shown = viewer("attention", "attention", SCRIPTS, analyzer.answer)

    def on_load(request: gr.Request) -> dict[str, Any]:
        return mark_as_new(analyzer.open(visitor_of(request), address_of(request)))

    def on_analyse(
        text: str, policy: str, question: str, model: str | None, request: gr.Request
    ) -> tuple[dict[str, Any], Any]:
        source = Source(text, policy, question, model or "")
        view = show_input_errors(lambda: analyzer.analyse(visitor_of(request), source, address_of(request)))
        return mark_as_new(view), gr.Accordion(open=False)

    def on_submit(request: gr.Request, event: gr.EventData) -> dict[str, Any]:
        sent = event._data
        answer = failure_or(lambda: analyzer.run(visitor_of(request), sent, address_of(request)))
        # Answers may overtake one another: the page knows by its own number which of them is late.
        number = sent.get("number") if isinstance(sent, dict) else None
        return mark_as_new({**answer, "number": number})

    running: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "model"}
    gr.on(
        [analyse.click, question.submit],
        on_analyse,
        [text, policy, question, model],
        [shown, document],
        api_name="attention",
        api_visibility="undocumented",
        **running,
    )
    quietly: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    app.load(on_load, None, shown, **running, **quietly)
    # What runs the model; what is read from what is kept the script asks directly.
    shown.submit(on_submit, None, shown, trigger_mode="multiple", **running, **quietly)
