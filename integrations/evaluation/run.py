"""The evaluation behind `longformer-plus evaluate`: a checkpoint's scores on held-out data, beside simple baselines.

Whole documents are read, however long: by the functions of `long_documents`, not by the batches of training.

    scores = evaluate_checkpoint(EvaluationPlan("question-answering", "my-answers", ["dev.jsonl"], join_by="title"))

Shapes: N tokens of a document, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, PreTrainedModel, TokenizersBackend
from transformers.utils import logging
from transformers.utils.logging import tqdm

from ..data.features import join_paragraphs
from ..data.sources import Record, read_records
from ..long_documents.reading import answer_questions, classify_documents, tag_documents
from ..metrics import baselines
from ..metrics.metrics import AnswerMetric, ClassificationMetric, EntityMetric, TokenMetric
from ..tasks.registry import TASKS

logger = logging.get_logger(__name__)

Scores = dict[str, dict[str, float]]

# Long documents are read in so many places, as far apart as they can be.
_STRETCHES_OF_A_DOCUMENT = 4
_TOKENS_OF_A_BATCH = 16384


@dataclass
class EvaluationPlan:
    """What is to be evaluated, on what.

    Attributes:
        task: a task that `evaluate_checkpoint` knows.
        model: a checkpoint with the task's head, or adapters for it.
        evaluation: sources of held-out data; see `records.read_records`.
        train: the data that the model was trained on, from which the baselines learn; without, those that have to
            learn are left out.
        columns: what fields are called in the sources, by the names in `records`.
        join_by: the field by which paragraphs are joined to whole articles, such as "title".
        contexts: for fill-mask, the lengths in tokens that documents are cut into, the shortest first. Those that the
            model has no positions for are passed over, but documents are as long as for one that has.
        max_length: for other tasks, the tokens of a stretch that is read at once; by default as many as the model has
            positions for.
        max_rows: use no more rows of each source, drawn at random.
        batch_size: stretches read at once.
        seed: of which rows are drawn and which tokens are hidden.
    """

    task: str
    model: str | Path
    evaluation: Sequence[str]
    train: Sequence[str] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    join_by: str | None = None
    contexts: Sequence[int] = (512, 4096)
    max_length: int | None = None
    max_rows: int | None = None
    batch_size: int = 4
    seed: int = 0

    def check(self) -> None:
        """Raise a ValueError for the first value that is not allowed."""
        if self.task not in _EVALUATIONS:
            allowed = ", ".join(map(repr, _EVALUATIONS))
            raise ValueError(f"task={self.task!r} is not allowed: it must be one of {allowed}.")
        if sorted(self.contexts) != list(self.contexts) or not self.contexts or self.contexts[0] < 3:
            raise ValueError(
                f"contexts={list(self.contexts)} is not allowed: give lengths of at least 3, the shortest first."
            )
        if self.max_length is not None and self.task == "fill-mask":
            raise ValueError("max_length is not for fill-mask, which reads the same text in several: give contexts.")

    @property
    def reading(self) -> dict[str, Any]:
        """How documents are read: options of `stretches.StretchReader`."""
        return {"max_length": self.max_length, "batch_size": self.batch_size, "show_progress": True}


def evaluate_checkpoint(plan: EvaluationPlan) -> Scores:
    """The scores of a checkpoint, and of the baselines.

    Returns:
        By what was evaluated ("model", the name of a baseline; for fill-mask the source and the context) the scores
        by their names. Those of answers are percent, all others shares from 0 to 1, or nats.

    Raises:
        OSError, ValueError: the plan or the data are wrong, or the checkpoint cannot be read.
    """
    plan.check()
    model, tokenizer = load(plan.task, plan.model)
    return _EVALUATIONS[plan.task](plan, model, tokenizer)


def load(task: str, checkpoint: str | Path) -> tuple[PreTrainedModel, TokenizersBackend]:
    """A checkpoint's model with the head of a task, and its tokenizer. Adapters are put on their base.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: the task has no head here.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r} is not allowed: it must be one of {', '.join(map(repr, TASKS))}.")
    options = {"add_prefix_space": True} if task == "token-classification" else {}
    tokenizer_folder = checkpoint
    if (Path(checkpoint) / "adapter_config.json").is_file():
        from ..adapters import load_adapted, tokenizer_of

        model: Any = load_adapted(checkpoint)
        tokenizer_folder = tokenizer_of(checkpoint)
    else:
        model = TASKS[task].model.from_pretrained(checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, **options)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return model.to(device or "cpu").eval(), tokenizer  # type: ignore[return-value]


def fill_prompts(
    model: PreTrainedModel, tokenizer: TokenizersBackend, prompts: Sequence[str], top_k: int = 5
) -> dict[str, list[str]]:
    """The likeliest tokens in place of the one mask of each prompt.

    Raises:
        ValueError: a prompt has no mask, or several.
    """
    found = {}
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
        place = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
        if len(place) != 1:
            raise ValueError(f"{prompt!r} has {len(place)} masks: write {tokenizer.mask_token} exactly once.")
        with torch.no_grad():
            logits = model(**inputs).logits[0, place[0]]
        found[prompt] = [str(tokenizer.decode([token])).strip() for token in logits.topk(top_k).indices.tolist()]
    return found


def _evaluate_masked_lm(plan: EvaluationPlan, model: PreTrainedModel, tokenizer: TokenizersBackend) -> Scores:
    """The same hidden tokens predicted from the whole stretch and from its pieces, by source."""
    scores: Scores = {}
    room = getattr(model.config, "max_tokens", model.config.max_position_embeddings - 2)
    contexts = [context for context in plan.contexts if context <= room]
    if not contexts:
        raise ValueError(f"contexts={list(plan.contexts)} are too long: the model has positions for {room} tokens.")
    if skipped := plan.contexts[len(contexts) :]:
        logger.warning(f"Not read in pieces of {', '.join(map(str, skipped))}: the model has {room} positions.")
    for source in plan.evaluation:
        texts = _draw(_texts(plan, source), plan)
        stretches = list(_stretches(texts, tokenizer, plan.contexts))
        if not stretches:
            continue
        losses = []
        for context in contexts:
            metric, means = TokenMetric(), []
            for ids in tqdm(stretches, desc=f"{Path(source).name}, {context} tokens"):
                hidden = _hide(ids, plan.seed)
                guesses, nats = _predict(model, tokenizer, ids, hidden, context)
                metric.add_batch(predictions=guesses, references=ids[hidden], losses=nats)
                means.append(float(nats.mean()))
            losses.append(means)
            name = f"{Path(source).name}, {context} tokens"
            scores[name] = {**(metric.compute() or {}), "stretches": float(len(stretches))}
        if len(contexts) == 1:
            continue
        shortest, longest = np.array(losses[0]), np.array(losses[-1])
        scores[name]["no_worse_than_shortest"] = float((longest <= shortest).mean())
    if not scores:
        raise ValueError(f"No document is longer than the shortest context of {plan.contexts[0]} tokens.")
    return scores


def _texts(plan: EvaluationPlan, source: str) -> list[str]:
    """The documents of a source; paragraphs joined to articles where the plan says so."""
    records = read_records([source], "fill-mask", plan.columns)
    if plan.join_by is None:
        return [record.row["text"] for record in records]
    articles: dict[Any, dict[str, None]] = {}
    for record in records:
        if plan.join_by not in record.row:
            raise ValueError(f"{record.where}: has no {plan.join_by!r} to join paragraphs by.")
        articles.setdefault(record.row[plan.join_by], {})[record.row["text"]] = None
    return ["\n\n".join(paragraphs) for paragraphs in articles.values()]


def _stretches(texts: Sequence[str], tokenizer: TokenizersBackend, contexts: Sequence[int]) -> Iterator[Tensor]:
    """(N) token ids, without special tokens, of a few places of each text that has more than the shortest context.

    N is a whole number of shortest contexts, so that no piece is shorter than they are.
    """
    piece = contexts[0] - 2
    for text in texts:
        ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        length = min(len(ids), contexts[-1] - 2) // piece * piece
        if length <= piece:
            continue
        count = min(len(ids) // length, _STRETCHES_OF_A_DOCUMENT)
        for start in np.linspace(0, len(ids) - length, count).astype(int).tolist():
            yield ids[start : start + length]


def _hide(ids: Tensor, seed: int) -> Tensor:
    """(N) bool, about every seventh True, the same for the same number of tokens."""
    return torch.rand(len(ids), generator=torch.Generator().manual_seed(seed)) < 0.15


@torch.no_grad()
def _predict(
    model: PreTrainedModel, tokenizer: TokenizersBackend, ids: Tensor, hidden: Tensor, context: int
) -> tuple[Tensor, Tensor]:
    """The likeliest of the hidden tokens, and the negative log-likelihood of the true ones, read in pieces."""
    shown = ids.masked_fill(hidden, tokenizer.mask_token_id)
    logits = []
    size = context - 2
    for rows, are_hidden in zip(_rows(shown, size), _rows(hidden, size), strict=True):
        first, last = (torch.full_like(rows[:, :1], end) for end in (tokenizer.bos_token_id, tokenizer.eos_token_id))
        inputs = torch.cat([first, rows, last], 1).to(model.device)
        logits.append(model(input_ids=inputs).logits[:, 1:-1].cpu()[are_hidden].float())
    found = torch.cat(logits)
    return found.argmax(-1), F.cross_entropy(found, ids[hidden], reduction="none")


def _rows(tokens: Tensor, size: int) -> Iterator[Tensor]:
    """(N) -> (B, size), as many rows at once as a batch may hold; what is left over is a last, shorter row."""
    whole = len(tokens) // size * size
    if whole:
        yield from tokens[:whole].view(-1, size).split(max(_TOKENS_OF_A_BATCH // size, 1))
    if whole < len(tokens):
        yield tokens[None, whole:]


def _evaluate_answers(plan: EvaluationPlan, model: PreTrainedModel, tokenizer: TokenizersBackend) -> Scores:
    """Exact match and F1 of the answers, those of a document's first sentence, and those of the likest words."""
    records = [record for source in plan.evaluation for record in _read(plan, source)]
    questions, documents = ([record.row[name] for record in records] for name in ("question", "context"))
    truths = [record.row["answers"]["text"] for record in records]
    has_null = any(not texts for texts in truths)
    found = answer_questions(model, tokenizer, questions, documents, null_answer=has_null, **plan.reading)
    windows = {document: baselines.OverlappingWindow(document) for document in set(documents)}
    guesses = {
        "model": [answers[0].text if answers else "" for answers in found],
        "first sentence": [baselines.first_sentence(document) for document in documents],
        "likest window": [
            windows[document].answer(question) for question, document in zip(questions, documents, strict=True)
        ],
    }
    return {name: _score(AnswerMetric(), answers, truths) for name, answers in guesses.items()}


def _evaluate_classes(plan: EvaluationPlan, model: PreTrainedModel, tokenizer: TokenizersBackend) -> Scores:
    """Accuracy and F1 of the classes, and those of logistic regression on TF-IDF."""
    records = [record for source in plan.evaluation for record in _read(plan, source)]
    texts, truths = [record.row["text"] for record in records], [str(record.row["label"]) for record in records]
    found = classify_documents(model, tokenizer, texts, **plan.reading)
    guesses = {"model": [each.label for each in found]}
    if plan.train:
        known = read_records(plan.train, plan.task, plan.columns)
        learned, labels = [record.row["text"] for record in known], [str(record.row["label"]) for record in known]
        guesses["TF-IDF + logistic regression"] = baselines.classify_by_words(learned, labels, texts)
    ids = {label: index for index, label in enumerate(sorted(set(truths).union(*guesses.values())))}
    numbers = [ids[label] for label in truths]
    return {
        name: _score(ClassificationMetric(), [ids[label] for label in labels], numbers)
        for name, labels in guesses.items()
    }


def _evaluate_entities(plan: EvaluationPlan, model: PreTrainedModel, tokenizer: TokenizersBackend) -> Scores:
    """F1 of whole entities, and that of each word's commonest tag."""
    records = [record for source in plan.evaluation for record in _read(plan, source)]
    documents, truths = ([record.row[name] for record in records] for name in ("tokens", "ner_tags"))
    found = tag_documents(model, tokenizer, documents, **plan.reading)
    guesses = {"model": [[tag.label for tag in tags] for tags in found]}
    if plan.train:
        known = read_records(plan.train, plan.task, plan.columns)
        learned, tags = ([record.row[name] for record in known] for name in ("tokens", "ner_tags"))
        guesses["commonest tag of the word"] = baselines.tag_by_word(learned, tags, documents)
    return {name: _score(EntityMetric(), tags, truths) for name, tags in guesses.items()}


def _read(plan: EvaluationPlan, source: str) -> list[Record]:
    records = read_records([source], plan.task, plan.columns)
    return _draw(records if plan.join_by is None else join_paragraphs(records, plan.join_by), plan)


def _draw(rows: list[Any], plan: EvaluationPlan) -> list[Any]:
    if plan.max_rows is None or plan.max_rows >= len(rows):
        return rows
    chosen = np.random.default_rng(plan.seed).choice(len(rows), plan.max_rows, replace=False)
    return [rows[index] for index in sorted(chosen)]


def _score(metric: Any, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    return metric.compute(predictions=predictions, references=references)


_EVALUATIONS = {
    "fill-mask": _evaluate_masked_lm,
    "question-answering": _evaluate_answers,
    "text-classification": _evaluate_classes,
    "token-classification": _evaluate_entities,
}
