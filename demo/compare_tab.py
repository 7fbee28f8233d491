"""The tab Compare: two models, two versions of a text, or two heads, side by side."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .comparison import Comparer
from .documents import POLICIES, Source
from .inputs import MOST_CHARACTERS
from .viewer import viewer
from .visitors import address_of, mark_as_new, show_input_errors, visitor_of


def compare_tab(comparer: Comparer, text: gr.Textbox, document: gr.Accordion) -> None:
    """The tab's components and what they do.

    Args:
        comparer: what they ask.
        text: the document that all tabs share: the left side.
        document: what it stands in; closed when the two are shown.
    """
    models = list(comparer.reader.models)
    gr.Markdown("On the left the document above. On the right another model, another version of the text, or both.")
    with gr.Row():
        left = gr.Dropdown(models, value=models[0], label="Model on the left", elem_id="compare-left")
        right = gr.Dropdown(models, value=models[-1], label="Model on the right", elem_id="compare-right")
        policy = gr.Dropdown(
            [name for name in POLICIES if name != "question"], value="first token", label="Tokens that attend globally"
        )
    version = gr.Textbox(
        label="Text on the right",
        placeholder="Leave it empty for the same text.",
        lines=2,
        max_lines=8,
        max_length=MOST_CHARACTERS,
        elem_id="compare-text",
    )
    with gr.Row():
        copy = gr.Button("Copy the document here, to edit it", elem_id="compare-copy")
        button = gr.Button("Compare", variant="primary", elem_id="compare-run")
    shown = viewer("compare", "compare-shown", ("compare_view",), comparer.answer)

    def on_compare(
        text: str, version: str, left: str, right: str, policy: str, request: gr.Request
    ) -> tuple[dict[str, Any], Any]:
        sources = Source(text, policy, "", left), Source(version if version.strip() else text, policy, "", right)
        view = show_input_errors(lambda: comparer.compare(visitor_of(request), *sources, address_of(request)))
        return mark_as_new(view), gr.Accordion(open=False)

    copy.click(lambda text: text, text, version, api_visibility="private")
    button.click(
        on_compare,
        [text, version, left, right, policy],
        [shown, document],
        concurrency_limit=2,
        concurrency_id="model",
        api_visibility="private",
    )
