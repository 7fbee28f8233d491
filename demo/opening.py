"""What the page opens on: a token of the document that is worth a look."""

from __future__ import annotations

import torch

from longformer_plus.attention_maps import DocumentMaps, band

# Links to closer tokens are common; a link from farther away is what a long window is for.
_NEAR = 8
_LEAST_LETTERS = 4


def telling_token(document: DocumentMaps) -> int:
    """The word in the middle half of a document with the strongest link to a token that is not close to it.

    Args:
        document: a text and its attention.

    Returns:
        A token's position; the middle one where the document has no such word.
    """
    maps, tokens = document.maps, document.tokens
    windows, reach = band(maps)
    near = min(_NEAR, reach)
    windows[:, reach - near : reach + near + 1] = 0
    strongest = windows.amax(1)
    middle = range(maps.num_tokens // 4, 3 * maps.num_tokens // 4)
    words = [
        place
        for place in middle
        if len(tokens[place].strip()) >= _LEAST_LETTERS
        and tokens[place].strip().isalpha()
        and int(maps.layout.global_rank[place]) < 0
    ]
    if not words:
        return maps.num_tokens // 2
    return words[int(strongest[torch.tensor(words)].argmax())]
