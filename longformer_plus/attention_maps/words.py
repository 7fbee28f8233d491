"""From tokens to characters and words.

Shapes: N tokens, M words, K characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|[^\w\s]+")


@dataclass(frozen=True)
class Words:
    """The words of a text, and the tokens that each is made of.

    A word is a run of letters and digits, with apostrophes and hyphens inside it, or a run of punctuation. A token
    belongs to the word in which it starts; a special token, which has no characters, is a word by itself.

    Attributes:
        spans: M pairs of character positions, start and stop; stop = start for special tokens.
        word_of_token: (N) int64, each token's word.
    """

    spans: list[tuple[int, int]]
    word_of_token: Tensor

    @classmethod
    def find(cls, text: str, offsets: Sequence[tuple[int, int]]) -> Words:
        """The words of a text.

        Args:
            text: what was tokenized.
            offsets: N pairs, the first character of each token and the one after its last, as the tokenizer's
                `return_offsets_mapping` gives them; both 0 for special tokens.
        """
        word_of_character = [-1] * (len(text) + 1)
        found = [match.span() for match in _WORD.finditer(text)]
        for word, (start, stop) in enumerate(found):
            word_of_character[start:stop] = [word] * (stop - start)
        spans: list[tuple[int, int]] = []
        word_of_token: list[int] = []
        before: int | None = None
        for start, stop in offsets:
            # White space that is a token of its own stays one.
            word = next((word_of_character[place] for place in range(start, stop) if word_of_character[place] >= 0), -1)
            if word < 0 or word != before:
                spans.append(found[word] if word >= 0 else (start, stop))
            word_of_token.append(len(spans) - 1)
            before = word
        return cls(spans, torch.tensor(word_of_token, dtype=torch.long))

    @property
    def num_words(self) -> int:
        """M."""
        return len(self.spans)

    def sum(self, weights: Tensor, dim: int = -1) -> Tensor:
        """The sum over each word's tokens: what a word receives. (..., N, ...) -> (..., M, ...)."""
        shape = list(weights.shape)
        shape[dim] = self.num_words
        return weights.new_zeros(shape).index_add(dim, self.word_of_token, weights)

    def mean(self, weights: Tensor, dim: int = -1) -> Tensor:
        """The mean over each word's tokens: how a word attends. (..., N, ...) -> (..., M, ...)."""
        count = torch.bincount(self.word_of_token, minlength=self.num_words).to(weights.dtype)
        shape = [1] * weights.dim()
        shape[dim] = self.num_words
        return self.sum(weights, dim) / count.view(shape)

    def merge(self, weights: Tensor) -> Tensor:
        """Attention between tokens -> between words: (..., N, N) -> (..., M, M); rows keep their sum."""
        return self.mean(self.sum(weights, dim=-1), dim=-2)


def by_character(weights: Tensor, offsets: Sequence[tuple[int, int]], length: int) -> Tensor:
    """Each token's weight, spread evenly over its characters.

    Args:
        weights: (N).
        offsets: N pairs, as in `Words.find`.
        length: K, the number of characters.

    Returns:
        (K). Tokens without characters are left out; where several tokens share a character theirs add up.
    """
    characters = torch.zeros(length)
    for weight, (start, stop) in zip(weights.tolist(), offsets, strict=True):
        if stop > start:
            characters[start:stop] += weight / (stop - start)
    return characters
