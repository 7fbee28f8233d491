"""Embeddings trained on text alone: a sentence is to find the text that it was taken from.

longformer-plus convert shipped my-embeddings --to sentence-transformers
python docs/examples/research/inverse_cloze.py SOURCE[=WEIGHT] ... --model my-embeddings --steps 400 --output trained

In nine of ten pairs the text has lost the sentence, so that more than its words must be known; in the others it has
kept it, since those who search use a text's own words too. The idea is that of Lee, Chang and Toutanova, "Latent
Retrieval for Weakly Supervised Open Domain Question Answering" (ACL 2019). The other texts of a batch are those that
are not to be found.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

import longformer_plus  # noqa: F401  (registers the model)
from longformer_plus.integrations.data.packing import TextSource

SENTENCE = re.compile(r"[A-Z\"“][^.!?\n]{40,300}[.!?]")
KEPT = 0.1


def pairs(sources: Sequence[str], number: int, characters: int, seed: int) -> Dataset:
    """Sentences, as `anchor`, and the texts that they were taken from, as `positive`."""
    random = np.random.default_rng(seed)
    given = [source.partition("=") for source in sources]
    texts = [TextSource(name) for name, _, _ in given]
    weights = np.array([float(weight or 1) for _, _, weight in given])
    found: dict[str, list[str]] = {"anchor": [], "positive": []}
    while len(found["anchor"]) < number:
        text = texts[random.choice(len(texts), p=weights / weights.sum())].draw(characters, random)
        sentences = list(SENTENCE.finditer(text))
        if len(sentences) < 3:
            continue
        sentence = sentences[random.integers(len(sentences))]
        is_kept = random.random() < KEPT
        found["anchor"].append(sentence[0])
        found["positive"].append(text if is_kept else text[: sentence.start()] + text[sentence.end() :])
    return Dataset.from_dict(found)


def main() -> None:
    """Train, and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--model", required=True, help="a folder for sentence-transformers")
    parser.add_argument("--output", required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=32, help="pairs of a step")
    parser.add_argument("--characters", type=int, default=700, help="of a text")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = SentenceTransformer(options.model)
    arguments = SentenceTransformerTrainingArguments(
        options.output,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        learning_rate=options.learning_rate,
        warmup_steps=options.steps // 10,
        logging_steps=20,
        save_strategy="no",
        report_to=[],
        seed=options.seed,
    )
    data = pairs(options.sources, options.steps * options.batch, options.characters, options.seed)
    SentenceTransformerTrainer(model, arguments, data, loss=MultipleNegativesRankingLoss(model)).train()
    model.save(options.output)


if __name__ == "__main__":
    main()
