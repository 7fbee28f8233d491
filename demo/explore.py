"""The tab Explore: a document, its tokens, and what they attend to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gradio as gr
import torch

from longformer_plus import LongformerPlusForMaskedLM
from longformer_plus.attention_maps import DocumentMaps, attention_maps, gradient_times_input, mask_of, to_html
from longformer_plus.global_attention import Policy

from .checkpoints import Checkpoint
from .documents import InputError, check_text
from .store import VisitorStore
from .viewer import viewer
from .views import document_view, layer_view, links_view, scores_view
from .visitors import stamped, told, visitor_of

# The mean of a long text is between 3 and 6.
MOST_CHARACTERS_PER_TOKEN = 32
MOST_GLOBAL_TOKENS = 512
POLICIES = ("first token", "full stops", "separators", "none")
FREED = "Your document is no longer held here. Choose Analyse again."


@dataclass
class Explored:
    """A visitor's document."""

    document: DocumentMaps
    global_positions: list[int]
    mean_view: dict[str, Any]

    @property
    def num_bytes(self) -> int:
        """What is held for the visitor."""
        pictures = (self.mean_view[name]["png"] for name in ("band", "fromGlobal", "toGlobal"))
        return self.document.maps.num_bytes + len(self.document.text) + sum(map(len, pictures))


class Explorer:
    """What Explore does, apart from how it looks.

    Args:
        checkpoint: the model.
        store: where the visitors' documents are kept.
    """

    def __init__(self, checkpoint: Checkpoint, store: VisitorStore[Explored]) -> None:
        self.checkpoint = checkpoint
        self.store = store

    def policy(self, name: str) -> str | list[int]:
        """One of `POLICIES` -> a policy of `longformer_plus.global_attention`.

        Raises:
            InputError: there is none of this name.
        """
        if name not in POLICIES:
            raise InputError("There is no such choice of global tokens.")
        if name == "full stops":
            found = [self.checkpoint.tokenizer.convert_tokens_to_ids(mark) for mark in (".", "?", "!")]
            return [index for index in found if isinstance(index, int)]
        return {"first token": "cls"}.get(name, name)

    def analyse(
        self,
        visitor: str,
        text: str | None,
        policy: Policy | None = None,
        global_positions: list[int] | None = None,
        token: int = 1,
    ) -> dict[str, Any]:
        """Run the model on a text, keep its attention for the visitor, and say what the browser needs to show it.

        Args:
            visitor: the session's name.
            text: the document.
            policy: a policy of `longformer_plus.global_attention`; None for the model's own.
            global_positions: tokens that attend globally, in place of a policy.
            token: whose links are shown first.

        Raises:
            InputError: the text is empty or too long.
        """
        text = check_text(text)
        limit = self.checkpoint.max_tokens
        started = time.perf_counter()
        # What is cut off here the tokenizer would cut off too, only slower.
        shortened = text[: limit * MOST_CHARACTERS_PER_TOKEN]
        with self.checkpoint.running() as model:
            document = attention_maps(model, self.checkpoint.tokenizer, shortened, policy, global_positions)
        if len(document.maps.layout.global_positions) > MOST_GLOBAL_TOKENS:
            raise InputError(f"At most {MOST_GLOBAL_TOKENS} tokens can be global here. Choose another policy.")
        maps = document.maps
        explored = Explored(document, maps.layout.global_positions.tolist(), layer_view(maps, None, None))
        try:
            self.store.put(visitor, explored, explored.num_bytes)
        except ValueError as error:
            raise InputError(
                "The attention of this document takes more memory than there is for all visitors. Shorten it."
            ) from error
        read = max(stop for _, stop in document.offsets)
        cut = len(text) > read and bool(text[read:].strip())
        return {
            "kind": "document",
            "seconds": round(time.perf_counter() - started, 2),
            "cut": f"Only the first {limit:,} tokens are shown: the model has room for no more." if cut else "",
            "document": document_view(document),
            **explored.mean_view,
            "layer": -1,
            "head": -1,
            "links": links_view(maps, min(token, maps.num_tokens - 1), "to", None, None),
        }

    def answer(self, visitor: str, question: dict[str, Any]) -> dict[str, Any]:
        """Answer what a click in the browser asks.

        Args:
            visitor: the session's name.
            question: "ask" is "links", "rollout", "gradient", "layer", "global" or "page"; "token", "layer", "head" (-1
                for the mean) and "direction" say of what.

        Raises:
            InputError: nothing is kept for the visitor, or the question makes no sense.
        """
        explored = self.store.get(visitor)
        if explored is None:
            raise InputError(FREED)
        try:
            ask, token = str(question["ask"]), int(question.get("token", 0))
            layer, head = (int(question.get(name, -1)) for name in ("layer", "head"))
            direction = question.get("direction", "to")
            layers, heads = (None if index < 0 else index for index in (layer, head))
            explored.document.maps.positions(token, "token")
            explored.document.maps.choose_layers(layers), explored.document.maps.choose_heads(heads)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("This page asked for something that is not there. Reload it.") from error
        if token < 0 or direction not in ("to", "from"):
            raise InputError("This page asked for something that is not there. Reload it.")
        where = {"layer": layer, "head": head}
        maps = explored.document.maps
        if ask == "links":
            return {"kind": "links", **where, "links": links_view(maps, token, direction, layers, heads)}
        if ask == "layer":
            links = links_view(maps, token, direction, layers, heads)
            return {"kind": "layer", **where, **self._layer(explored, layers, heads), "links": links}
        if ask == "rollout":
            scores = maps.rollout(token, heads, layers)
            return {"kind": "links", **where, "links": scores_view(maps, token, scores, layers, heads)}
        if ask == "gradient":
            scores = self._gradient(explored, token)
            return {"kind": "links", **where, "links": scores_view(maps, token, scores, layers, heads)}
        if ask == "global":
            return self._toggle(visitor, explored, token)
        if ask == "page":
            page = to_html(explored.document, layers, heads, title="What a Longformer looks at")
            return {"kind": "page", "page": page}
        raise InputError("This page asked for something that is not there. Reload it.")

    def _layer(self, explored: Explored, layers: int | None, heads: int | None) -> dict[str, Any]:
        """The pictures; those of the mean, which take longest, are made once."""
        if layers is None and heads is None:
            return explored.mean_view
        return layer_view(explored.document.maps, layers, heads)

    def _toggle(self, visitor: str, explored: Explored, token: int) -> dict[str, Any]:
        """Make a token global, or local again."""
        positions = sorted(set(explored.global_positions) ^ {token})
        if len(positions) > MOST_GLOBAL_TOKENS:
            raise InputError(f"At most {MOST_GLOBAL_TOKENS} tokens can be global here.")
        return self.analyse(visitor, explored.document.text, global_positions=positions, token=token)

    def _gradient(self, explored: Explored, token: int) -> torch.Tensor:
        """How much each token counts for what the model says at a token: its likeliest word, or its state's size."""
        document = explored.document
        ids = self._ids(document)
        inputs = {"input_ids": ids, "global_attention_mask": mask_of(explored.global_positions, ids.shape[1])}
        with self.checkpoint.running() as model:
            # Words are many: the head of a masked language model is asked for this token alone.
            if isinstance(model, LongformerPlusForMaskedLM):
                return gradient_times_input(
                    model.longformer, inputs, lambda outputs: model.lm_head(outputs.last_hidden_state[0, token]).max()
                )
            return gradient_times_input(model, inputs, lambda outputs: _scalar_of(outputs, token))

    def _ids(self, document: DocumentMaps) -> torch.Tensor:
        encoding = self.checkpoint.tokenizer(
            document.text, truncation=True, max_length=document.maps.num_tokens, return_tensors="pt"
        )
        return encoding["input_ids"]


def _scalar_of(outputs: Any, token: int) -> torch.Tensor:
    """What a model's outputs say at a token, or of the document, as one number."""
    if "last_hidden_state" in outputs:
        return outputs.last_hidden_state[0, token].square().sum()
    if "start_logits" in outputs:
        return outputs.start_logits[0, token]
    logits = outputs.logits[0]
    return logits.max() if logits.dim() == 1 else logits[token].max()


def explore_tab(explorer: Explorer, text: gr.Textbox, document: gr.Accordion) -> None:
    """The tab's components and what they do.

    Args:
        explorer: what they ask.
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
        analyse = gr.Button("Analyse", variant="primary", elem_id="explore-analyse")
    shown = viewer("explore", "explore")

    def on_analyse(text: str, policy: str, request: gr.Request) -> tuple[dict[str, Any], Any]:
        view = told(lambda: explorer.analyse(visitor_of(request), text, explorer.policy(policy)))
        return stamped(view), gr.Accordion(open=False)

    def on_ask(request: gr.Request, event: gr.EventData) -> dict[str, Any]:
        return stamped(told(lambda: explorer.answer(visitor_of(request), event._data or {})))

    analyse.click(
        on_analyse, [text, policy], [shown, document], concurrency_limit=2, concurrency_id="model", api_name="explore"
    )
    shown.click(
        on_ask,
        None,
        shown,
        trigger_mode="multiple",
        show_progress="hidden",
        concurrency_limit=4,
        api_visibility="private",
    )
