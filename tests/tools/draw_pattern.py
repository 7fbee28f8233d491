"""Draws who attends to whom: `python -m tests.tools.draw_pattern docs/concepts/pattern.svg`.

The picture is drawn from the tests' own dense definition of the attention, not from the package.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..oracle import who_attends

TOKENS, WINDOW = 16, 4
CELL, GAP, TITLE, COLUMNS = 10, 26, 18, 3
SIDE = TOKENS * CELL
COLOURS = {"window": "#4f7fd9", "global column": "#e8a33d", "global row": "#c4572f"}


@dataclass(frozen=True)
class Panel:
    """One square of the picture: rows are queries, columns are keys."""

    title: str
    global_tokens: tuple[int, ...] = ()
    dilation: int = 1
    causal: bool = False
    first_document: int = TOKENS
    num_valid: int = TOKENS

    def cells(self) -> dict[str, Tensor]:
        """(N, N) bool for each kind of link."""
        places = torch.arange(TOKENS)
        is_global = torch.isin(places, torch.tensor(self.global_tokens))
        local, global_rows = who_attends(
            (places < self.num_valid)[None],
            is_global[None],
            WINDOW,
            self.dilation,
            self.causal,
            segments=(places >= self.first_document).long()[None],
        )
        return {
            "window": local[0] & ~is_global,
            "global column": local[0] & is_global,
            "global row": global_rows[0],
        }


PANELS = (
    Panel("a window of 4"),
    Panel("and a global token", global_tokens=(0,)),
    Panel("dilation 2", global_tokens=(0,), dilation=2),
    Panel("causal", global_tokens=(0, 6), causal=True),
    Panel("two documents in a row", global_tokens=(0, 9), first_document=9),
    Panel("padding at the end", global_tokens=(0,), num_valid=12),
)


def draw() -> str:
    """The picture, as SVG."""
    rows = -(-len(PANELS) // COLUMNS)
    width = COLUMNS * SIDE + (COLUMNS + 1) * GAP
    height = rows * (SIDE + TITLE + GAP) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12" fill="#7a7a7a">',
        "<title>Who attends to whom: each row is a query, each column a key</title>",
    ]
    for index, panel in enumerate(PANELS):
        left = GAP + index % COLUMNS * (SIDE + GAP)
        top = TITLE + index // COLUMNS * (SIDE + TITLE + GAP)
        parts += _panel(panel, left, top)
    for index, (kind, colour) in enumerate(COLOURS.items()):
        x, y = GAP + index * 140, height - 22
        parts.append(f'<rect x="{x}" y="{y}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16}" y="{y + 10}">{kind}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, left: int, top: int) -> list[str]:
    parts = [
        f'<text x="{left}" y="{top - 5}">{panel.title}</text>',
        f'<rect x="{left}" y="{top}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#9a9a9a" stroke-width="0.5"/>',
    ]
    for kind, allowed in panel.cells().items():
        squares = "".join(
            f"M{left + key * CELL} {top + query * CELL}h{CELL - 1}v{CELL - 1}h-{CELL - 1}z"
            for query, key in allowed.nonzero().tolist()
        )
        if squares:
            parts.append(f'<path fill="{COLOURS[kind]}" d="{squares}"/>')
    return parts


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(), encoding="utf-8")
