"""Documents that a model has read.

Shapes: N tokens.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import torch
from torch import Tensor

from longformer_plus.attention_maps import (
    AttentionMaps,
    DocumentMaps,
    Units,
    add_values,
    attention_maps,
    average,
    mask_of,
    num_value_bytes,
)
from longformer_plus.attention_maps.maps import Choice
from longformer_plus.attention_maps.units import UnitName
from longformer_plus.global_attention import Policy, build_global_attention_mask
from longformer_plus.ops.memory import release_free_memory

from .checkpoints import Checkpoint, Checkpoints
from .inputs import SAMPLES, InputError, check_question, check_text, sample
from .opening import telling_token

# The mean of a long text is between 3 and 6.
MOST_CHARACTERS_PER_TOKEN = 32
MOST_GLOBAL_TOKENS = 512
POLICIES = ("first token", "full stops", "separators", "question", "none")
# What the page opens with: global tokens that one sees in the whole text.
OPENING_POLICY = "full stops"


@dataclass(frozen=True)
class Source:
    """What a visitor wants to be read.

    Attributes:
        text: the document.
        policy: one of `POLICIES`, or "chosen" where the tokens that attend globally were chosen one by one.
        question: what the model reads before the document, "" for nothing.
        model: the title of a checkpoint, "" for the main one.
    """

    text: str
    policy: str = OPENING_POLICY
    question: str = ""
    model: str = ""

    @property
    def sample(self) -> str:
        """The name of the sample that the text is, "" for a visitor's own."""
        return next((name for name in SAMPLES if sample(name) == self.text), "")


@dataclass(frozen=True)
class AnalysedDocument:
    """A visitor's document.

    Attributes:
        source: what was read.
        checkpoint: what read it.
        document: the text and its attention.
        input_ids: (1, N).
        global_positions: the tokens that attend globally.
        average: the mean of all layers and heads, which takes long to read from them.
        opening: the token to look at first.
        seconds: how long the analysis took.
        is_cut: whether the text goes on after the last token.
    """

    source: Source
    checkpoint: Checkpoint
    document: DocumentMaps
    input_ids: Tensor
    global_positions: list[int]
    average: AttentionMaps
    opening: int
    seconds: float
    is_cut: bool

    @cached_property
    def units(self) -> dict[str, Units]:
        """Sentences, paragraphs and sections; of a question and a passage the two parts."""
        document = self.document
        found = {name: Units.find(document.text, document.offsets, name) for name in get_args(UnitName)}
        return {**found, "part": Units.of(document.parts)} if self.source.question else found

    @cached_property
    def maps_with_values(self) -> AttentionMaps:
        """Its attention with what norms need; the first call runs the model, others wait for it."""
        with self.checkpoint.running() as model:
            # Who waited for the model finds what the other one made.
            made: AttentionMaps | None = self.__dict__.get("maps_with_values")
            return add_values(self.document.maps, model.base_model, self.inputs) if made is None else made

    @property
    def has_values(self) -> bool:
        """Whether the norms can be read without running the model."""
        return "maps_with_values" in self.__dict__

    @property
    def inputs(self) -> dict[str, Tensor]:
        """(1, N) each, what the model was given."""
        mask = mask_of(self.global_positions, self.input_ids.shape[1])
        return {"input_ids": self.input_ids, "global_attention_mask": mask}

    @property
    def num_bytes(self) -> int:
        """What is held for the visitor, with the values, which may be asked for at any time."""
        maps = self.document.maps
        return maps.num_bytes + num_value_bytes(maps) + self.average.num_bytes + len(self.document.text)

    def choose(self, layer: int | None, head: int | None) -> tuple[AttentionMaps, Choice, Choice]:
        """The maps to ask for a layer and a head, None for all, and what they are called there."""
        if layer is None and head is None:
            return self.average, None, None
        return self.document.maps, layer, head


class Reader:
    """Runs models on visitors' documents, and keeps nothing.

    Args:
        checkpoints: the models.

    Attributes:
        models: by their titles, the main one first.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.models: dict[str, Checkpoint] = {}
        for checkpoint in (checkpoints.main, *checkpoints.by_task.values()):
            self.models.setdefault(checkpoint.title, checkpoint)

    def read(self, source: Source, global_positions: list[int] | None = None) -> AnalysedDocument:
        """Run a model on a text.

        Args:
            source: what is read.
            global_positions: the tokens that attend globally, in place of the source's policy.

        Raises:
            InputError: the text is empty or too long, there is no such model or policy, too many tokens would be
                global, or the positions are none of the document's.
        """
        checkpoint = self._checkpoint(source.model)
        question = _question(source, checkpoint)
        # What is cut off here the tokenizer would cut off too, only slower.
        text = check_text(source.text)[: checkpoint.max_tokens * MOST_CHARACTERS_PER_TOKEN]
        started = time.perf_counter()
        ids = checkpoint.tokenizer(
            *([text] if question is None else [question, text]),
            truncation=True if question is None else "only_second",
            max_length=checkpoint.max_tokens,
            return_tensors="pt",
        )["input_ids"]
        if global_positions is None:
            policy = _policy(source, checkpoint)
            mask = build_global_attention_mask(policy, ids, torch.ones_like(ids) > 0, checkpoint.tokenizer.sep_token_id)
            global_positions = [] if mask is None else mask[0].nonzero()[:, 0].tolist()
        _check_positions(global_positions, ids.shape[1])
        first, second = (text, None) if question is None else (question, text)
        with checkpoint.running() as model:
            document = attention_maps(
                model,
                checkpoint.tokenizer,
                first,
                global_positions=global_positions,
                second_text=second,
            )
        mean = average(document.maps)
        release_free_memory()
        opening = telling_token(document, mean) if question is None else 1
        is_cut = bool(document.text[max(stop for _, stop in document.offsets) :].strip())
        seconds = time.perf_counter() - started
        return AnalysedDocument(source, checkpoint, document, ids, global_positions, mean, opening, seconds, is_cut)

    def _checkpoint(self, title: str) -> Checkpoint:
        if title and title not in self.models:
            raise InputError("There is no such model here. Choose one of the list.")
        return self.models[title] if title else next(iter(self.models.values()))


def _question(source: Source, checkpoint: Checkpoint) -> str | None:
    if not source.question.strip():
        if source.policy == "question":
            raise InputError("There is no question whose tokens could be global. Write one, or choose other tokens.")
        return None
    question = check_question(source.question)
    if 2 * len(checkpoint.tokenizer(question)["input_ids"]) > checkpoint.max_tokens:
        raise InputError("The question leaves no room for the document. Shorten it.")
    return question


def _policy(source: Source, checkpoint: Checkpoint) -> Policy:
    """One of `POLICIES` -> a policy of `longformer_plus.global_attention`."""
    name = source.policy
    if name not in POLICIES:
        raise InputError(f"There is no such choice of global tokens. Choose one of: {', '.join(POLICIES)}.")
    if name == "full stops":
        found = [checkpoint.tokenizer.convert_tokens_to_ids(mark) for mark in (".", "?", "!")]
        return [index for index in found if isinstance(index, int)]
    return {"first token": "cls"}.get(name, name)


def _check_positions(positions: list[int], num_tokens: int) -> None:
    if not all(0 <= place < num_tokens for place in positions):
        raise InputError("The tokens that shall be global are not all in the document. Reload the page.")
    if len(positions) > MOST_GLOBAL_TOKENS:
        raise InputError(
            f"{len(positions):,} tokens would attend globally; at most {MOST_GLOBAL_TOKENS} can here. Choose others, "
            "or a shorter document."
        )
