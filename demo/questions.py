"""What a click in the browser asks, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longformer_plus.attention_maps.maps import Direction
from longformer_plus.attention_maps.pictures import MOST_COLUMNS, MOST_ROWS

from .documents import AnalysedDocument
from .inputs import InputError

NOT_THERE = "This page asked for something that is not there. Reload it."


@dataclass(frozen=True)
class Question:
    """What a click asks.

    Attributes:
        ask: one of `answers.READ` or `answers.RUN`, or "global".
        first, last: the tokens that are selected, from the first to the last.
        unit: what the answer is added up by: "token", or one of the document's units.
        layer, head: their indices, None for the mean of all.
        direction: "to" or "from".
        columns, rows: the pixels that there are for a picture.
        with_self: whether to show the weight of each token, or unit, on itself.
        is_masked: whether the token is hidden from the model that is asked for the word.
    """

    ask: str
    first: int
    last: int
    unit: str
    layer: int | None
    head: int | None
    direction: Direction
    columns: int
    rows: int
    with_self: bool
    is_masked: bool

    @property
    def tokens(self) -> slice:
        """The selected tokens."""
        return slice(self.first, self.last + 1)

    @classmethod
    def read(cls, sent: Mapping[str, Any], analysed: AnalysedDocument) -> Question:
        """Check what the browser sent, where -1 stands for the mean; without a token it is the document's telling one.

        Raises:
            InputError: it asks for something that the document does not have.
        """
        if not isinstance(sent, Mapping):
            raise InputError(NOT_THERE)
        maps = analysed.document.maps
        try:
            first = int(sent.get("token", analysed.opening))
            last = int(sent.get("last", first))
            layer, head = (int(sent.get(name, -1)) for name in ("layer", "head"))
            direction, unit = sent.get("direction", "to"), str(sent.get("unit", "token"))
            columns, rows = (
                min(int(sent.get(name, most)), most) for name, most in (("columns", MOST_COLUMNS), ("rows", MOST_ROWS))
            )
            within = 0 <= first <= last < maps.num_tokens
            within = within and -1 <= layer < maps.num_layers and -1 <= head < maps.num_heads
            named = direction in ("to", "from") and (unit == "token" or unit in analysed.units)
            if not within or not named or min(columns, rows) < 1:
                raise InputError(NOT_THERE)
            where = (None if layer < 0 else layer, None if head < 0 else head)
            flags = (sent.get("withSelf") is True, sent.get("masked") is True)
            return cls(str(sent["ask"]), first, last, unit, *where, direction, columns, rows, *flags)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(NOT_THERE) from error
