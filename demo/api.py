"""The demo for programs: what the tabs show, as short lists and dictionaries that can be read.

Shapes: N tokens.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from . import tasks
from .analysis import Analyzer
from .checkpoints import Checkpoints
from .documents import Source
from .inputs import InputError
from .visitors import show_input_errors

MOST_LINKS = 100
_LINKS = """What a token of a document attends to, strongest first: a list of
{token, position, offset, weight, is_global}. `token` is a position; `layer` and `head` count from 0, -1 is the mean of
all; `direction` is "to", or "from" for who attends to the token; `global_tokens` is "first token", "full stops",
"separators" or "none"; `count` is at most 100. Nothing is kept."""


def add_api(checkpoints: Checkpoints, analyzer: Analyzer) -> None:
    """Add the addresses /links, and, as far as there are checkpoints, /answers, /classes, /entities and /guesses.

    Args:
        checkpoints: the models.
        analyzer: of the tab Attention.
    """

    def links(
        text: str,
        token: int,
        layer: int = -1,
        head: int = -1,
        direction: str = "to",
        global_tokens: str = "first token",
        count: int = 10,
    ) -> list[dict[str, Any]]:
        return show_input_errors(
            lambda: strongest_links(analyzer, text, token, layer, head, direction, global_tokens, count)
        )

    _add(links, _LINKS)
    if (reader := checkpoints.by_task.get("question-answering")) is not None:

        def answers(question: str, text: str) -> list[dict[str, Any]]:
            return show_input_errors(lambda: _marked(tasks.ask(reader, question, text)))

        _add(answers, "The five best answers to a question from a document: a list of {text, score}, best first.")
    if (classifier := checkpoints.by_task.get("text-classification")) is not None:

        def classes(text: str) -> list[dict[str, Any]]:
            found = show_input_errors(lambda: tasks.classify(classifier, text))["results"]
            return [{"label": label, "score": score} for label, score in found]

        _add(classes, "The classes of a document: a list of {label, score}, likeliest first.")
    if (tagger := checkpoints.by_task.get("token-classification")) is not None:

        def entities(text: str) -> list[dict[str, Any]]:
            return show_input_errors(lambda: _marked(tasks.tag(tagger, text), with_label=True))

        _add(entities, "The entities of a document, in its order: a list of {text, label, score}.")
    if (guesser := checkpoints.by_task.get("fill-mask")) is not None:

        def guesses(text: str) -> list[dict[str, Any]]:
            marks = show_input_errors(lambda: tasks.fill(guesser, text))["marks"]
            return [{"word": one["replacement"], "score": one["score"], "others": one["others"]} for one in marks]

        _add(guesses, "The likeliest word for each <mask> of a text: a list of {word, score, others}.")


def _add(function: Any, description: str) -> None:
    gr.api(
        function,
        api_name=function.__name__,
        api_description=description,
        concurrency_limit=2,
        concurrency_id="model",
    )


def strongest_links(
    analyzer: Analyzer, text: str, token: int, layer: int, head: int, direction: str, global_tokens: str, count: int
) -> list[dict[str, Any]]:
    """What /links answers; see its description.

    Raises:
        InputError: the text cannot be read, or an argument is out of range.
    """
    if direction not in ("to", "from"):
        raise InputError('The direction is neither "to" nor "from". Choose one of them.')
    if not 0 < count <= MOST_LINKS:
        raise InputError(f"At least 1 and at most {MOST_LINKS} links can be listed. Choose another count.")
    document = analyzer.reader.read(Source(text, global_tokens)).document
    maps = document.maps
    for name, value, least, most in (
        ("token", token, 0, maps.num_tokens),
        ("layer", layer, -1, maps.num_layers),
        ("head", head, -1, maps.num_heads),
    ):
        if not least <= value < most:
            raise InputError(f"There is no such {name} here: it must be from {least} to {most - 1}.")
    found = maps.links(token, direction, None if layer < 0 else layer, None if head < 0 else head, count)  # type: ignore[arg-type]
    return [
        {
            "token": document.tokens[link.position],
            "position": link.position,
            "offset": link.offset,
            "weight": link.weight,
            "is_global": link.is_global,
        }
        for link in found.strongest
    ]


def _marked(view: dict[str, Any], with_label: bool = False) -> list[dict[str, Any]]:
    """The marks of a view of `tasks`, with their texts."""
    return [
        {"text": one["text"], **({"label": one["label"]} if with_label else {}), "score": one["score"]}
        for one in view["marks"]
    ]
