"""What a trained model has to beat: answers, classes, numbers and tags by counting words, with scikit-learn.

Nothing here looks at a model.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

_WORD = re.compile(r"\S+")
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s")


def first_sentence(document: str) -> str:
    """The first sentence of a document, as an answer to any question."""
    end = _SENTENCE_END.search(document)
    return document[: end.end()].strip() if end else document.strip()


class OverlappingWindow:
    """Answers with the words of a document that are most like the question, by the cosine of their TF-IDF.

    Args:
        document: the text.
        length: words of an answer.
    """

    def __init__(self, document: str, length: int = 10) -> None:
        words = [match.span() for match in _WORD.finditer(document)]
        starts = range(0, max(len(words) - length, 0) + 1, max(length // 2, 1))
        spans = [words[start : start + length] for start in starts]
        self._windows = [document[span[0][0] : span[-1][1]] for span in spans if span] or [document]
        self._vectorizer = TfidfVectorizer()
        self._vectors = self._vectorizer.fit_transform(self._windows)

    def answer(self, question: str) -> str:
        """The window that is most like a question."""
        similarity = self._vectors @ self._vectorizer.transform([question]).T
        return self._windows[int(similarity.toarray().argmax())]


def classify_by_words(texts: Sequence[str], labels: Sequence[str], unseen: Sequence[str]) -> list[str]:
    """The classes of unseen texts by logistic regression on TF-IDF of words and pairs of words.

    Args:
        texts: those that are learned from.
        labels: their classes.
        unseen: those that are classified.
    """
    model = make_pipeline(_words_and_pairs(), LogisticRegression(C=10, max_iter=1000))
    return [str(label) for label in model.fit(texts, labels).predict(unseen)]


def estimate_by_words(texts: Sequence[str], values: Sequence[float], unseen: Sequence[str]) -> list[float]:
    """The numbers of unseen texts by ridge regression on TF-IDF of words and pairs of words.

    Args:
        texts: those that are learned from.
        values: their numbers.
        unseen: those whose numbers are estimated.
    """
    model = make_pipeline(_words_and_pairs(), Ridge())
    return [float(value) for value in model.fit(texts, values).predict(unseen)]


def _words_and_pairs() -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)


def tag_by_word(
    documents: Sequence[Sequence[str]], tags: Sequence[Sequence[str]], unseen: Sequence[Sequence[str]]
) -> list[list[str]]:
    """For each word of unseen documents the tag that it has most often in others; "O" for a word not seen there."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for words, their_tags in zip(documents, tags, strict=True):
        for word, tag in zip(words, their_tags, strict=True):
            counts[word][tag] += 1
    commonest = {word: found.most_common(1)[0][0] for word, found in counts.items()}
    return [[commonest.get(word, "O") for word in words] for words in unseen]
