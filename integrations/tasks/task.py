"""What is known of a task, and what several tasks share.

The modules of this room import with the core packages alone: what needs the extra `train` is imported where it is used.

Shapes: B batch, N tokens, V vocabulary, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, TokenizersBackend

from longformer_plus import LongformerPlusPreTrainedModel
from longformer_plus.model.losses import IGNORED_LABEL

from ..data.collators import DataCollatorForLongformer
from ..data.features import Prepared
from ..data.sources import Check, Record, Row
from ..long_documents import judge_stretches

Scores = dict[str, dict[str, float]]
# (what `shrink_logits` leaves of the logits, the labels) -> scores by name.
Scorer = Callable[[Any, np.ndarray], dict[str, float]]

# Of the scores of all tasks, and the loss.
LOWER_IS_BETTER = frozenset({"loss", "mean_squared_error", "perplexity", "token_loss"})


@dataclass(frozen=True)
class Preparation:
    """How rows become features.

    Attributes:
        max_length: the most tokens of a feature, special ones included.
        names: the classes by id, for tasks that have some.
        overlap: tokens that neighbouring stretches of a document share.
        unanswered_share: the share of the stretches without an answer that is kept.
        seed: of what is drawn at random.
    """

    max_length: int
    names: Sequence[str] = ()
    overlap: int = 128
    unanswered_share: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class HeldOut:
    """What a model is evaluated on.

    Attributes:
        by_source: the rows of each source, by the source's name.
        learned: the rows that baselines learn from; without any, those that have to learn are left out.
        reading: how documents are read: options of `stretches.StretchReader`.
        contexts: lengths in tokens, the shortest first, for a task that `compares_contexts`.
        seed: of what is drawn at random.
    """

    by_source: Mapping[str, Sequence[Record]]
    learned: Sequence[Record] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)
    contexts: Sequence[int] = ()
    seed: int = 0

    @property
    def records(self) -> list[Record]:
        """The rows of all sources."""
        return [record for records in self.by_source.values() for record in records]


def first_logits(logits: Any, labels: Any = None) -> Tensor:
    """The logits among what a model gives, as `preprocess_logits_for_metrics`."""
    return logits[0] if isinstance(logits, tuple) else logits


@dataclass(frozen=True)
class Task:
    """What is known of a task. What is None the task does not have.

    Attributes:
        name: that of transformers' pipeline, where there is one.
        model: the head.
        collator: makes batches.
        columns: the columns of a row, each with what it holds, for people.
        check_input: raises a ValueError for a row that cannot be predicted on.
        check: raises a ValueError for a row that cannot be learned from or evaluated on.
        scorer: (the features that are evaluated, the classes by id) -> what scores them while training.
        scores: the names of these scores.
        scores_of_several: the same where a document has any number of classes.
        aliases: other names.
        label_names: the arguments of the model that hold what is learned.
        is_packed: whether it learns from text alone, in rows packed full of documents.
        tokenizer_options: of `AutoTokenizer.from_pretrained`.
        collator_options: the fields of a training plan that the collator takes.
        class_names: the classes of some rows, by id.
        configure: (rows, classes) -> the fields of the model's configuration that depend on the task.
        initialize: sets the first weights of a new model.
        prepare: rows -> features; None where it is packed.
        join: (rows, column) -> rows, of which those with the same value in the column are one document.
        shrink_logits: leaves of the logits what the scorer needs, as `preprocess_logits_for_metrics` of `Trainer`.
        logits_dimensions: the dimensions of whole logits, where `shrink_logits` leaves others.
        evaluate: a model's scores on whole documents, and those of baselines, by name.
        evaluation: what `evaluate` gives, for people.
        compares_contexts: whether `evaluate` reads the same text at several lengths, and not at one.
        predict: (model, tokenizer, rows, options of `stretches.StretchReader`) -> a JSON object for each row.
        peft_type: PEFT's name of the task, which says what of the head is trained and saved beside an adapter.
        modules_to_save: the same, by module, where PEFT has no such task.
        has_onnx: whether its head can be exported to ONNX.
    """

    name: str
    model: type[LongformerPlusPreTrainedModel]
    collator: type[DataCollatorForLongformer]
    columns: Mapping[str, str]
    check_input: Check
    check: Check
    scorer: Callable[[Any, Sequence[str]], Scorer]
    scores: tuple[str, ...]
    scores_of_several: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ("labels",)
    is_packed: bool = False
    tokenizer_options: Mapping[str, Any] = field(default_factory=dict)
    collator_options: tuple[str, ...] = ()
    class_names: Callable[[Sequence[Record]], list[str]] | None = None
    configure: Callable[[Sequence[Record], Sequence[str]], dict[str, Any]] | None = None
    initialize: Callable[[LongformerPlusPreTrainedModel], None] | None = None
    prepare: Callable[[Sequence[Record], PreTrainedTokenizerBase, Preparation], Prepared] | None = None
    join: Callable[[Sequence[Record], str], list[Record]] | None = None
    shrink_logits: Callable[[Any, Any], Any] = first_logits
    logits_dimensions: int | None = None
    evaluate: Callable[[PreTrainedModel, TokenizersBackend, HeldOut], Scores] | None = None
    evaluation: str = ""
    compares_contexts: bool = False
    predict: Callable[..., list[Row]] | None = None
    peft_type: str | None = None
    modules_to_save: tuple[str, ...] = ()
    has_onnx: bool = True

    @property
    def auto_class(self) -> str:
        """The name of transformers' Auto class that loads the head."""
        return self.model.__name__.replace("LongformerPlus", "AutoModel")

    def compute_metrics(self, prepared: Any, names: Sequence[str] = ()) -> Callable[[EvalPrediction], dict[str, float]]:
        """`compute_metrics` of `Trainer`, for whole logits or for what `shrink_logits` leaves of them.

        Args:
            prepared: the features that are evaluated, in their order.
            names: the classes by id, for tagging.

        Raises:
            TypeError, ValueError: the features or the classes are not what the task needs.
        """
        score = self.scorer(prepared, names)

        def compute(evaluated: EvalPrediction) -> dict[str, float]:
            return score(self._shrunk(evaluated), np.asarray(evaluated.label_ids))

        return compute

    def _shrunk(self, evaluated: EvalPrediction) -> Any:
        """What `shrink_logits` leaves, where `Trainer` did not call it."""
        logits = evaluated.predictions
        if self.logits_dimensions is None or np.ndim(first_logits(logits)) != self.logits_dimensions:
            return logits
        whole = tuple(map(torch.as_tensor, logits)) if isinstance(logits, tuple) else torch.as_tensor(logits)
        shrunk = self.shrink_logits(whole, torch.as_tensor(np.asarray(evaluated.label_ids)))
        return tuple(part.numpy() for part in shrunk) if isinstance(shrunk, tuple) else shrunk.numpy()


def likeliest_tokens(logits: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N, V) logits, (B, N) labels -> (B, N) the likeliest tokens, (B, N) losses, 0 where there is no label."""
    scores = first_logits(logits)
    is_labelled = labels != IGNORED_LABEL
    losses = torch.zeros(labels.shape, device=labels.device)
    losses[is_labelled] = F.cross_entropy(scores[is_labelled].float(), labels[is_labelled], reduction="none")
    return scores.argmax(-1), losses


def score_tokens(predictions: tuple[np.ndarray, np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """The scores of a language model, from what `likeliest_tokens` gives; none where no token is labelled."""
    from ..metrics import TokenMetric

    labelled = labels != IGNORED_LABEL
    if not labelled.any():
        return {}
    guesses, losses = map(np.asarray, predictions)
    metric = TokenMetric()
    return metric.compute(predictions=guesses[labelled], references=labels[labelled], losses=losses[labelled]) or {}


def score_classes(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The scores of (B, C) logits against (B,) class ids."""
    from ..metrics import ClassificationMetric

    return ClassificationMetric().compute(predictions=np.asarray(logits).argmax(-1), references=labels) or {}


def judge_documents(
    prepared: Prepared, logits: np.ndarray, labels: np.ndarray, problem_type: str
) -> tuple[np.ndarray, np.ndarray]:
    """What a model says of whole documents, and what is true of them, from those of their stretches.

    Args:
        prepared: the stretches, of `prepare_documents`.
        logits: (B, C).
        labels: (B,) or (B, C).
        problem_type: as in a configuration.

    Returns:
        (D, C) probabilities, or values of a regression, and (D,) or (D, C) labels of the D documents.
    """
    judged: dict[int, list[int]] = {}
    for place, document in enumerate(prepared.document_of):
        judged.setdefault(document, []).append(place)
    tensor, weights = torch.as_tensor(np.asarray(logits)).float(), torch.tensor(prepared.weights)
    means = [judge_stretches(tensor[places], weights[places], problem_type) for places in judged.values()]
    return torch.stack(means).numpy(), labels[[places[0] for places in judged.values()]]
