"""Attention in a notebook."""

from __future__ import annotations

import html
from dataclasses import dataclass

from .exports import to_html
from .maps import Choice
from .recording import DocumentMaps


@dataclass(frozen=True)
class Shown:
    """What a notebook shows: put it on the last line of a cell.

    Attributes:
        page: a whole page, as of `to_html`, which needs neither network nor server nor extension.
        height: of the frame that it stands in, in pixels.
    """

    page: str
    height: int

    def _repr_html_(self) -> str:
        """The page in a frame of its own: its scripts and styles touch nothing of the notebook."""
        style = f"width: 100%; height: {self.height}px; border: 0"
        page = html.escape(self.page)
        return f'<iframe title="Attention" sandbox="allow-scripts" style="{style}" srcdoc="{page}"></iframe>'


def show(
    document: DocumentMaps, layers: Choice = None, heads: Choice = None, top_k: int = 12, height: int = 900
) -> Shown:
    """Attention to look at in a notebook, and still there when it is opened again without a kernel.

    Args:
        document: a text and its attention.
        layers, heads: which are averaged.
        top_k: links of each token that can be seen.
        height: in pixels.

    Raises:
        ValueError: a layer or head is out of range, or the height is not above 0.
    """
    if height <= 0:
        raise ValueError(f"height={height} is not allowed: it must be above 0.")
    return Shown(to_html(document, layers, heads, top_k), height)
