"""Questions made of text alone, to learn from before, or beside, the few that people wrote.

python docs/examples/research/cloze_questions.py SOURCE[=WEIGHT] ... --number 10000 --output cloze.jsonl

Of a stretch of text, one sentence loses a few words: the answer. What is left of it, thinned out and behind a question
word, is the question. One in eight asks another stretch, which does not answer it. The idea is that of Lewis, Denoyer
and Riedel, "Unsupervised Question Answering by Cloze Translation" (ACL 2019).
"""

from __future__ import annotations

import argparse
import json
import re

import numpy as np

from longformer_plus.integrations.data.packing import TextSource

SENTENCE = re.compile(r"[A-Z\"“][^.!?\n]{40,300}[.!?]")
ANSWERS = {
    "name": re.compile(r"[a-z,] ([A-Z][\w'\u2019-]+(?: (?:of |the )?[A-Z][\w'\u2019-]+)*)"),
    "number": re.compile(r" (\$?\d[\d,.]*\d(?: (?:percent|million|billion|years|miles))?|\d\b)"),
    "phrase": re.compile(r" (?:the|his|her|its|for|was|are|had|and|with|from) ([a-z]\w+(?: [a-z]\w+){0,3})(?=[ ,.;])"),
}
QUESTION_WORDS = {"name": ["who", "what", "which", "where"], "number": ["when", "how many", "what"], "phrase": ["what"]}


def ask(text: str, random: np.random.Generator) -> tuple[str, int, str] | None:
    """A question about a text, where its answer starts, and the answer. None where no sentence gives one."""
    sentences = list(SENTENCE.finditer(text))
    if not sentences:
        return None
    sentence = sentences[random.integers(len(sentences))]
    found = {kind: [match.span(1) for match in pattern.finditer(sentence[0])] for kind, pattern in ANSWERS.items()}
    kinds = [kind for kind, places in found.items() if places]
    if not kinds:
        return None
    kind = kinds[random.integers(len(kinds))]
    start, stop = found[kind][random.integers(len(found[kind]))]
    words = [*sentence[0][:start].split()[-12:], *sentence[0][stop:].split()[:12]]
    kept = [word.strip(',;:.!?"“”()') for word in words if random.random() < 0.6]
    if random.random() < 0.5:
        middle = random.integers(len(kept) + 1)
        kept = kept[middle:] + kept[:middle]
    asked = QUESTION_WORDS[kind][random.integers(len(QUESTION_WORDS[kind]))]
    return f"{asked.capitalize()} {' '.join(kept)}?", sentence.start() + start, sentence[0][start:stop]


def main() -> None:
    """Write the questions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--output", required=True)
    parser.add_argument(
        "--characters", type=int, nargs=2, default=(400, 4000), help="of the shortest and the longest stretch"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    given = [source.partition("=") for source in options.sources]
    sources = [TextSource(name, {"text": "context"} if "question" in name else None) for name, _, _ in given]
    weights = np.array([float(weight or 1) for _, _, weight in given])
    shortest, longest = options.characters
    written = 0
    with open(options.output, "w", encoding="utf-8") as file:
        while written < options.number:
            source = sources[random.choice(len(sources), p=weights / weights.sum())]
            # Short stretches are the more frequent ones.
            text = source.draw(int(shortest * (longest / shortest) ** random.random()), random)
            question = ask(text, random)
            if question is None:
                continue
            asked, start, answer = question
            answers = {"text": [answer], "answer_start": [start]}
            if random.random() < 1 / 8:
                text, answers = source.draw(len(text), random), {"text": [], "answer_start": []}
            file.write(json.dumps({"question": asked, "context": text, "answers": answers}) + "\n")
            written += 1


if __name__ == "__main__":
    main()
