"""What the page opens on: a token of the document that is worth a look."""

from __future__ import annotations

import torch

from longformer_plus.attention_maps import AttentionMaps, DocumentMaps, band

# Links to closer tokens are common; a link from farther away is what a long window is for.
_NEAR = 8
_LEAST_LETTERS = 4


def telling_token(document: DocumentMaps, average: AttentionMaps) -> int:
    """The word in the middle half of a document with the strongest link to a token that is not close to it.

    Args:
        document: a text and its attention.
        average: the mean of its layers and heads.

    Returns:
        A token's position; the middle one where the document has no such word.
    """
    tokens, global_rank = document.tokens, document.maps.layout.global_rank
    windows, reach = band(average)
    near = min(_NEAR, reach)
    windows[:, reach - near : reach + near + 1] = 0
    strongest = windows.amax(1)
    middle = range(len(tokens) // 4, 3 * len(tokens) // 4)
    words = [
        place
        for place in middle
        if len(tokens[place].strip()) >= _LEAST_LETTERS
        and tokens[place].strip().isalpha()
        and int(global_rank[place]) < 0
    ]
    if not words:
        return len(tokens) // 2
    return words[int(strongest[torch.tensor(words)].argmax())]
