"""From tokens to units of text: sentences, paragraphs, sections, and the parts of an input of two texts.

Shapes: N tokens, U units, W window.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .maps import MOST_ENTRIES, AttentionMaps, Choice
from .pictures import band

UnitName = Literal["sentence", "paragraph", "section"]
_ROWS_AT_ONCE = 1024

_EMPTY_LINES = re.compile(r"\n[^\S\n]*\n\s*")
_LINE_BREAKS = re.compile(r"\n\s*")
# The end of a sentence, and what may stand between it and the next one; in Chinese and Japanese nothing does.
_SENTENCE_ENDS = re.compile(r"[.!?\u2026]+[\"'\u2019\u201d\u00bb)\]]*\s+|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d]?\s*")
_OPENING = "\"'\u2018\u201c\u00ab([\u300c\u300e"
_TITLES = ("mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr")
_REFERENCES = ("vs", "no", "nos", "fig", "figs", "eq", "eqs", "sec", "vol", "pp", "cf", "al", "ca", "e.g", "i.e")
_ABBREVIATIONS = frozenset((*_TITLES, *_REFERENCES))
_LAST_WORD = re.compile(r"([^\W\d_](?:[\w.]*\w)?)\.$")
_HEADING = re.compile(
    r"#{1,6}\s+\S.*|(?:\d+(?:\.\d+)*|[IVXLC]+)[.)]?\s+[^\W\d_].*|(?:chapter|part|section|appendix)\b.*", re.IGNORECASE
)
_NUMBER_OF_A_LINE = re.compile(r"(?:^|\n)\s*\d+(?:\.\d+)*\.$")
_LONGEST_HEADING = 80


@dataclass(frozen=True)
class Units:
    """Parts of a text, one after the other, and the tokens that each is made of.

    A special token, which has no characters, is a unit by itself: so every token belongs to one, and the attention that
    a unit gives to all units sums to 1.

    Attributes:
        spans: U pairs of token positions, the first token of each unit and the one after its last.
        unit_of_token: (N) int64, each token's unit.
    """

    spans: list[tuple[int, int]]
    unit_of_token: Tensor

    @classmethod
    def find(cls, text: str, offsets: Sequence[tuple[int, int]], name: UnitName) -> Units:
        """The sentences, paragraphs or sections of a text.

        Paragraphs stand apart by empty lines or, in a text that has none, by line breaks. A section starts with a
        heading: a short paragraph of one line without a full stop that is in Markdown, numbered, or in capitals. A
        sentence ends with its paragraph, or with a full stop, question or exclamation mark before a capital, a digit or
        a script without capitals; common abbreviations and initials end none.

        Args:
            text: what was tokenized.
            offsets: N pairs of character positions, as in `Words.find`.
            name: "sentence", "paragraph" or "section".

        Raises:
            ValueError: there are no units of this name.
        """
        if name not in get_args(UnitName):
            raise ValueError(f"name={name!r} is not allowed: it must be one of {', '.join(get_args(UnitName))}.")
        starts = {"sentence": _sentences, "paragraph": _paragraphs, "section": _sections}[name](text)
        # By a token's last character: the white space before a word is often part of its token.
        keys = [bisect_right(starts, stop - 1) if stop > start else -1 for start, stop in offsets]
        return cls.of(keys)

    @classmethod
    def of(cls, keys: Sequence[int]) -> Units:
        """Units of neighbouring tokens with the same key; a token with a negative key is a unit by itself.

        Args:
            keys: N, such as the texts that the tokens come from (`DocumentMaps.segments`).
        """
        spans: list[tuple[int, int]] = []
        unit_of_token: list[int] = []
        for place, key in enumerate(keys):
            if place and key >= 0 and key == keys[place - 1]:
                spans[-1] = (spans[-1][0], place + 1)
            else:
                spans.append((place, place + 1))
            unit_of_token.append(len(spans) - 1)
        return cls(spans, torch.tensor(unit_of_token, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.spans)

    def sum(self, weights: Tensor) -> Tensor:
        """(..., N) -> (..., U), the sum over each unit's tokens: what a unit receives."""
        return weights.new_zeros(*weights.shape[:-1], len(self)).index_add(-1, self.unit_of_token, weights)

    def mean(self, weights: Tensor) -> Tensor:
        """(..., N) -> (..., U), the mean over each unit's tokens: how a unit attends."""
        return self.sum(weights) / torch.bincount(self.unit_of_token, minlength=len(self))


def unit_attention(maps: AttentionMaps, units: Units, layers: Choice = None, heads: Choice = None) -> Tensor:
    """The attention between units of a text, averaged over layers and heads.

    The windows are added up where they lie: nothing of size N x N is built.

    Args:
        maps: the attention over a document.
        units: of the same document.
        layers, heads: which are averaged.

    Returns:
        (U, U): row u holds the mean, over the tokens of unit u, of the sum of their weights on each unit's tokens.
        Rows sum to 1 as those of tokens do.

    Raises:
        ValueError: the units are of another document, or too many for a table (`MOST_ENTRIES`).
    """
    count = len(units)
    if len(units.unit_of_token) != maps.num_tokens:
        raise ValueError(
            f"The units are of {len(units.unit_of_token)} tokens, the maps of {maps.num_tokens}. Take those of the "
            "same document."
        )
    if count * count > MOST_ENTRIES:
        raise ValueError(
            f"The attention between {count:,} units has {count * count:,} entries; at most {MOST_ENTRIES:,} are "
            "allowed. Choose larger units."
        )
    of_token, places = units.unit_of_token, maps.layout.global_positions
    total = torch.zeros(count * count)
    windows, reach = band(maps, layers, heads)
    offsets = torch.arange(-reach, reach + 1)
    for rows in torch.arange(maps.num_tokens).split(_ROWS_AT_ONCE):
        # Beyond the document the weights are 0, whatever unit they are added to.
        keys = of_token[(rows[:, None] + offsets).clamp_(0, maps.num_tokens - 1)]
        total.index_add_(0, (of_token[rows, None] * count + keys).flatten(), windows[rows].flatten())
    by_unit = total.view(count, count)
    if len(places):
        to_global = maps.mean(layers, heads, columns=places).index_fill_(0, places, 0.0)
        by_unit.index_put_((of_token[:, None], of_token[places]), to_global, accumulate=True)
        by_unit.index_add_(0, of_token[places], units.sum(maps.mean(layers, heads, rows=places)))
    return by_unit / torch.bincount(of_token, minlength=count)[:, None]


def _paragraphs(text: str) -> list[int]:
    """The first characters of the paragraphs."""
    between = _EMPTY_LINES if _EMPTY_LINES.search(text.strip()) else _LINE_BREAKS
    first = len(text) - len(text.lstrip())
    return [first, *(match.end() for match in between.finditer(text) if first < match.end() < len(text))]


def _sections(text: str) -> list[int]:
    starts = _paragraphs(text)
    headings = [
        start
        for start, stop in zip(starts, [*starts[1:], len(text)], strict=True)
        if _is_heading(text[start:stop].strip())
    ]
    return sorted({starts[0], *headings})


def _is_heading(paragraph: str) -> bool:
    if not paragraph or "\n" in paragraph or len(paragraph) > _LONGEST_HEADING or paragraph[-1] in ".,;:!?":
        return False
    return paragraph.isupper() or _HEADING.fullmatch(paragraph) is not None


def _sentences(text: str) -> list[int]:
    starts = set(_paragraphs(text))
    for match in _SENTENCE_ENDS.finditer(text):
        if match.end() < len(text) and _starts_a_sentence(text, match):
            starts.add(match.end())
    return sorted(starts)


def _starts_a_sentence(text: str, end: re.Match[str]) -> bool:
    """Whether what follows the end of a sentence is a new one."""
    if end[0][0] in "\u3002\uff01\uff1f":
        return True
    following = text[end.end() : end.end() + 3].lstrip(_OPENING)
    # A small letter goes on with a sentence; scripts without capitals have none.
    if not following or following[0].islower():
        return False
    before = text[max(end.start() - 20, 0) : end.start() + 1]
    if _NUMBER_OF_A_LINE.search(before):
        return False
    word = _LAST_WORD.search(before)
    if word is None or end[0].startswith(("..", "!", "?")):
        return True
    return word[1].lower() not in _ABBREVIATIONS and not (len(word[1]) == 1 and word[1] != "I")
