"""The article that answers a question, found among all articles: recall of embeddings, and of BM25 (bm25s).

python docs/results/retrieval/articles.py squad_v1.1.validation.jsonl.xz --model shipped

The file has a row for each question, with the title of its article and the paragraph that answers it. An article is its
paragraphs joined.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import bm25s
import torch

from longformer_plus.integrations.checkpoints import load_encoder
from longformer_plus.integrations.data.sources import read_records
from longformer_plus.integrations.long_documents.embedding import embed_documents
from longformer_plus.shipped.names import resolve_checkpoint


def read(source: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Articles by title, and questions with the title of the article that answers them."""
    rows = [record.row for record in read_records([source], lambda row: None)]
    paragraphs: dict[str, list[str]] = {}
    for row in rows:
        known = paragraphs.setdefault(row["title"], [])
        if row["context"] not in known:
            known.append(row["context"])
    articles = {title: "\n\n".join(each) for title, each in paragraphs.items()}
    return articles, [(row["question"], row["title"]) for row in rows]


def by_embeddings(checkpoint: str, articles: Sequence[str], questions: Sequence[str], k: int) -> list[list[int]]:
    """The k articles whose embeddings are nearest to each question's."""
    model, tokenizer = load_encoder(resolve_checkpoint(checkpoint))
    options = {"normalize": True, "batch_tokens": 16384, "show_progress": True}
    of_articles, of_questions = (
        torch.stack(embed_documents(model, tokenizer, texts, **options)) for texts in (articles, questions)
    )
    # What all texts have in common, which is most of an embedding that was not trained for this, tells nothing.
    nearest = (of_questions - of_questions.mean(0)) @ (of_articles - of_articles.mean(0)).T
    return nearest.topk(k).indices.tolist()


def by_words(articles: Sequence[str], questions: Sequence[str], k: int) -> list[list[int]]:
    """The k articles that BM25 ranks first for each question."""
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(articles), stopwords="en", show_progress=False), show_progress=False)
    asked = bm25s.tokenize(list(questions), stopwords="en", show_progress=False)
    found, _ = index.retrieve(asked, k=k, show_progress=False)
    return found.tolist()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="rows with title, context and question")
    parser.add_argument("--model", default="shipped")
    parser.add_argument("--questions", type=int, default=2000, help="drawn at random")
    options = parser.parse_args()
    articles, pairs = read(options.source)
    pairs = random.Random(0).sample(pairs, min(options.questions, len(pairs)))
    titles, questions = list(articles), [question for question, _ in pairs]
    print(f"{len(questions)} questions, {len(titles)} articles")
    texts = list(articles.values())
    for name, found in (
        ("BM25", by_words(texts, questions, 10)),
        (options.model, by_embeddings(options.model, texts, questions, 10)),
    ):
        for k in (1, 10):
            hits = sum(titles.index(title) in each[:k] for (_, title), each in zip(pairs, found, strict=True))
            print(f"{name}: recall@{k} {hits / len(pairs):.3f}, by chance {k / len(titles):.3f}")


if __name__ == "__main__":
    main()
