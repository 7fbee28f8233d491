"""The page: its tabs, its limits, and how it is started."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from longformer_plus.ops.memory import release_free_memory

from .analysis import Analyzer
from .api import add_api
from .attention_tab import attention_tab
from .checkpoints import Checkpoints
from .compare_tab import compare_tab
from .comparison import Comparer
from .documents import AnalysedDocument, Reader
from .inputs import FILE_TYPES, MOST_CHARACTERS, SAMPLES, read_upload, sample
from .serving import serve
from .speed_tab import speed_tab
from .store import VisitorStore
from .task_tabs import fill_tab, task_tabs
from .viewer import viewer
from .visitors import MOST_WAITING, show_input_errors

# For all visitors together; a document of 4096 tokens at base size takes 0.6 GB. What was not used for longest goes.
MOST_HELD_BYTES = 2_000_000_000
TITLE = "What a Longformer looks at"


def build(checkpoints: Checkpoints, store: VisitorStore[AnalysedDocument] | None = None) -> gr.Blocks:
    """The app, not started yet.

    Args:
        checkpoints: the models it shows.
        store: where the visitors' documents are kept.
    """
    store = VisitorStore(MOST_HELD_BYTES) if store is None else store
    reader = Reader(checkpoints)
    analyzer, comparer = Analyzer(reader, store), Comparer(reader, store)
    # Uploads are looked for every minute, and deleted when they are five minutes old.
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 300)) as app:
        gr.Markdown(f"# {TITLE}\n{checkpoints.main.description}")
        with gr.Accordion("Document: type, paste or upload your own", open=False, elem_id="document") as document:
            text = _document_input()
        with gr.Tab("Attention") as attention:
            attention_tab(app, analyzer, text, document)
        with gr.Tab("Compare") as compare:
            compare_tab(comparer, text, document)
        with_document = [attention, compare, *task_tabs(checkpoints, text)]
        without_document = []
        if "fill-mask" in checkpoints.by_task:
            without_document.append(fill_tab(checkpoints))
        with gr.Tab("Speed") as speed:
            speed_tab()
        with gr.Tab("Pattern") as pattern:
            viewer("pattern", "pattern")
        without_document += [speed, pattern]
        for tab in with_document:
            tab.select(lambda: gr.Accordion(visible=True), None, document, api_visibility="private")
        for tab in without_document:
            tab.select(lambda: gr.Accordion(visible=False), None, document, api_visibility="private")
        add_api(checkpoints, analyzer)

        def on_unload(request: gr.Request) -> None:
            visitor = request.session_hash or ""
            store.free(visitor)
            comparer.free(visitor)
            release_free_memory()

        app.unload(on_unload)
    app.queue(max_size=MOST_WAITING, default_concurrency_limit=2)
    return app


def _document_input() -> gr.Textbox:
    """The document that the tabs share: typed, pasted, uploaded, or a sample."""
    text = gr.Textbox(
        sample(next(iter(SAMPLES))),
        label="Text",
        placeholder="Type or paste a document, upload a file, or take a sample.",
        lines=5,
        max_lines=10,
        max_length=MOST_CHARACTERS,
        elem_id="document-text",
    )
    with gr.Row():
        samples = gr.Dropdown(list(SAMPLES), label="Sample", value=next(iter(SAMPLES)), elem_id="document-sample")
        upload = gr.UploadButton("Upload a file (txt, md, pdf, docx)", file_types=FILE_TYPES, elem_id="document-upload")
    upload.upload(lambda path: show_input_errors(lambda: read_upload(path)), upload, text, api_visibility="private")
    samples.input(lambda name: show_input_errors(lambda: sample(name)), samples, text, api_visibility="private")
    return text


def launch(
    checkpoints: Checkpoints,
    host: str = "127.0.0.1",
    port: int | None = None,
    allowed_hosts: Iterable[str] = (),
    auth: tuple[str, str] | None = None,
    **options: Any,
) -> gr.Blocks:
    """Load the models and serve the page, until the process is interrupted; arguments and errors as of `serve`."""
    checkpoints.main.load()
    app = build(checkpoints)
    serve(app, host, port, allowed_hosts, auth, **options)
    return app
