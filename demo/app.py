"""The page: its tabs, its limits, and how it is started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from .checkpoints import Checkpoints
from .documents import MOST_UPLOAD_BYTES
from .explore import Explored, Explorer, explore_tab
from .store import VisitorStore

# For all visitors together; a document of 4096 tokens at base size takes 0.3 GB. What was not used for longest goes.
MOST_HELD_BYTES = 2_000_000_000
MOST_WAITING = 40
TITLE = "What a Longformer looks at"


def build(checkpoints: Checkpoints, store: VisitorStore[Explored] | None = None) -> gr.Blocks:
    """The app, not started yet.

    Args:
        checkpoints: the models it shows.
        store: where the visitors' documents are kept.
    """
    store = VisitorStore(MOST_HELD_BYTES) if store is None else store
    # Uploads are deleted when they are read; what remains of them, within the hour.
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as app:
        gr.Markdown(f"# {TITLE}")
        with gr.Tab("Explore"):
            explore_tab(Explorer(checkpoints.explored, store))

        def on_unload(request: gr.Request) -> None:
            store.free(request.session_hash or "")

        app.unload(on_unload)
    app.queue(max_size=MOST_WAITING, default_concurrency_limit=2)
    return app


def launch(checkpoints: Checkpoints, host: str = "127.0.0.1", port: int | None = None, **options: Any) -> gr.Blocks:
    """Load the models and serve the page, until the process is interrupted.

    Args:
        checkpoints: the models.
        host: the address to listen at; 127.0.0.1 is this machine alone, 0.0.0.0 every network.
        port: by default the first free one from 7860.
        options: others of `gr.Blocks.launch`.
    """
    checkpoints.explored.load()
    app = build(checkpoints)
    app.launch(**{**launch_options(host, port), **options})
    return app


def launch_options(host: str, port: int | None) -> Mapping[str, Any]:
    """What the page is always served with."""
    return {
        "server_name": host,
        "server_port": port,
        "share": False,
        "max_file_size": MOST_UPLOAD_BYTES,
        "footer_links": [],
        "theme": gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        "show_error": False,
    }
