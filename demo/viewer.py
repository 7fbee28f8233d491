"""The components that draw in the browser: a `gr.HTML` with a fixed template, and JavaScript that is fed by `value`.

A template that mentions `value` would run what a visitor typed as a script; these never do. Texts reach the page by
`textContent` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import gradio as gr

from .direct_answers import answering


def viewer(
    name: str,
    elem_id: str,
    scripts: Sequence[str] = (),
    answer: Callable[[str, Any], dict[str, Any]] | None = None,
) -> gr.HTML:
    """A viewer.

    Args:
        name: of its files `<name>.html` and `<name>.js` in `assets`, which run after `common.js` and `export.js`.
        elem_id: its id in the page.
        scripts: names of more files, which run after them.
        answer: what its script asks by `server.answer`; see `direct_answers.answering`.

    Returns:
        A component that takes the dictionaries of `views` as its value.
    """
    assets = files(__package__).joinpath("assets")

    def read(file: str) -> str:
        return assets.joinpath(file).read_text(encoding="utf-8")

    return gr.HTML(
        html_template=read(f"{name}.html"),
        css_template=read("viewer.css"),
        js_on_load="".join(read(f"{script}.js") for script in ("common", "export", name, *scripts)),
        apply_default_css=False,
        elem_id=elem_id,
        server_functions=None if answer is None else [answering(answer)],
    )
