"""Reading documents that are longer than the position table: in overlapping stretches, each token counted once.

Neighbouring stretches share `overlap` tokens, which tokenizers call `stride`. The first half of these belongs to the
former stretch, the second to the latter: each token of the document is judged where it has most context.

Shapes: N tokens of one stretch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from typing import TYPE_CHECKING, TypeVar

import torch
from tokenizers import Encoding
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, TokenizersBackend
from transformers.utils.logging import tqdm

from longformer_plus import LongformerPlusConfig

if TYPE_CHECKING:
    from peft import PeftModel

TextOrWords = str | Sequence[str]
Result = TypeVar("Result")
_MOST_CUT_TOGETHER = 64


def overlapping_spans(length: int, room: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """Stretches of at most `room` tokens that cover a document of `length`: (start, stop, first, last).

    The parts from `first` up to `last` cover it once: the border between two lies in the middle of what they share. The
    last stretch is moved back to be as long as the others; those that a tokenizer cuts end with a shorter one.

    Raises:
        ValueError: a stretch has no room for more than what it shares.
    """
    _check_overlap(overlap, room)
    starts = [*range(0, max(length - room, 0), room - overlap), max(length - room, 0)]
    stops = [min(start + room, length) for start in starts]
    borders = [0, *((stop + start) // 2 for stop, start in zip(stops, starts[1:], strict=False)), length]
    return list(zip(starts, stops, borders, borders[1:], strict=False))


def _check_overlap(overlap: int, room: int) -> None:
    if not 0 <= overlap < room:
        raise ValueError(
            f"overlap={overlap} is not allowed: a stretch has room for {max(room, 0)} of the document's tokens, beside "
            "the question and special tokens, and overlap must be at least 0 and less than these. Shorten the "
            "question, lower overlap, or raise max_length."
        )


@dataclass(frozen=True)
class Stretch:
    """A part of a document, as the model gets it.

    Attributes:
        encoding: its N tokens: special ones, the question's, the document's.
        tokens: which of the N are the document's.
        own: which of the document's, from the first one here, are counted here and not in a neighbouring stretch.
        is_last: whether the document ends here.
    """

    encoding: Encoding
    tokens: slice
    own: slice
    is_last: bool


# A stretch with the index of its document and its share of it, and its place among all stretches of a call.
_Placed = tuple[int, tuple[int, Stretch, float]]


@dataclass(frozen=True)
class StretchReader:
    """Cuts documents into stretches and runs a model on them, many at a time.

    Args:
        model: a LongformerPlus model, a Longformer of transformers, or either with PEFT's adapters.
        tokenizer: its tokenizer; one of the `tokenizers` library.
        max_length: the most tokens of a stretch, special ones and the question included. By default as many as the
            model has positions for and the tokenizer allows.
        overlap: the tokens that neighbouring stretches share. By default one window of the model, so that every token
            has its own window whole in one of them; half of a stretch where that is less, but 64 at least.
        batch_size: stretches in a batch.
        batch_tokens: the most tokens of a batch, padding included, in place of `batch_size`. Stretches of like lengths
            then share a batch; those of all documents of a call are in memory.
        show_progress: show a progress bar.
        report: called after each batch with the documents, of which a stretch is a share, and the tokens in it.

    Raises:
        TypeError: the model is no Longformer.
        ValueError: an option is out of range.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: TokenizersBackend
    max_length: int | None = None
    overlap: int | None = None
    batch_size: int = 4
    batch_tokens: int | None = None
    show_progress: bool = False
    report: Callable[[float, int], None] | None = None

    def __post_init__(self) -> None:
        limit = self._config.max_tokens
        if self.max_length is not None and not 0 < self.max_length <= limit:
            raise ValueError(f"max_length={self.max_length} is not allowed: the model has positions for 1 to {limit}.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} is not allowed: it must be at least 1.")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ValueError(f"batch_tokens={self.batch_tokens} is not allowed: it must be at least 1.")

    @cached_property
    def _config(self) -> LongformerPlusConfig:
        return LongformerPlusConfig.from_longformer(self.model.config)

    def cut(self, document: TextOrWords, question: str | None = None) -> list[Stretch]:
        """The stretches of a document, in order.

        Args:
            document: a text, or its words.
            question: what stands before each stretch, if anything.

        Raises:
            ValueError: the document is empty, or the question leaves no room for it.
        """
        return self._cut([document], question)[0]

    def _cut(self, documents: Sequence[TextOrWords], question: str | None) -> list[list[Stretch]]:
        """The stretches of documents, all of them texts or all of them words; `tokenizers` encodes them in parallel."""
        if not all(document and any(part.strip() for part in document) for document in documents):
            raise ValueError("The document is empty: give at least one word.")
        max_length = self.max_length or min(self._config.max_tokens, self.tokenizer.model_max_length)
        asked = [] if question is None else self.tokenizer(question, add_special_tokens=False)["input_ids"]
        room = max_length - len(asked) - self.tokenizer.num_special_tokens_to_add(pair=question is not None)
        overlap = self.overlap
        if overlap is None:
            overlap = max(min(max(self._config.windows), room // 2), min(64, room - 1), 0)
        _check_overlap(overlap, room)
        encoded = self.tokenizer(
            *((list(documents),) if question is None else ([question] * len(documents), list(documents))),
            truncation="only_first" if question is None else "only_second",
            max_length=max_length,
            stride=overlap,
            return_overflowing_tokens=True,
            is_split_into_words=not isinstance(documents[0], str),
        )
        encodings: list[list[Encoding]] = [[] for _ in documents]
        for encoding, index in zip(encoded.encodings, encoded["overflow_to_sample_mapping"], strict=True):
            encodings[index].append(encoding)
        if self.tokenizer.truncation_side == "left":  # that of the document's end comes first
            encodings = [each[::-1] for each in encodings]
        return [_stretches_of(each, 0 if question is None else 1, overlap) for each in encodings]

    def read(
        self,
        documents: Sequence[TextOrWords],
        judge: Callable[[Stretch, dict[str, Tensor]], Result],
        questions: Sequence[str] | None = None,
        is_read: Callable[[Stretch], bool] | None = None,
    ) -> list[list[Result]]:
        """Run the model on every stretch of every document, without gradients and dropout.

        Args:
            documents: texts, or lists of words.
            judge: what to keep of a stretch and the model's outputs for it by name, in float32: `logits` (C) or
                (N or more, C), `start_logits` and `end_logits` (N or more), or `last_hidden_state` (N or more, E).
            questions: one for each document, or None.
            is_read: which stretches the model reads; by default all.

        Returns:
            For each document what `judge` gave for its stretches, in order.

        Raises:
            ValueError: see `cut`; or there is not one question for each document.
        """
        if questions is not None and len(questions) != len(documents):
            raise ValueError(f"There are {len(questions)} questions for {len(documents)} documents: give one for each.")
        judged: dict[int, tuple[int, Result]] = {}
        was_training = self.model.training
        self.model.eval()
        progress = tqdm(
            total=len(documents),
            bar_format="{l_bar}{bar}| {elapsed}<{remaining}",
            desc="Reading",
            disable=not self.show_progress,
        )
        try:
            stretches = self._stretches(documents, questions, is_read)
            for batch in self._batches(enumerate(stretches)):
                outputs = self._run([stretch for _, (_, stretch, _) in batch])
                for (place, (index, stretch, _)), output in zip(batch, outputs, strict=True):
                    judged[place] = index, judge(stretch, output)
                share = sum(share for _, (_, _, share) in batch)
                progress.update(share)
                if self.report is not None:
                    self.report(share, sum(len(stretch.encoding) for _, (_, stretch, _) in batch))
        finally:
            progress.close()
            self.model.train(was_training)
        results: list[list[Result]] = [[] for _ in documents]
        for place in range(len(judged)):
            index, result = judged[place]
            results[index].append(result)
        return results

    def _batches(self, stretches: Iterator[_Placed]) -> Iterator[list[_Placed]]:
        """Stretches, each with its place among all, in batches: as they come, or by length where tokens are counted."""
        if self.batch_tokens is None:
            while batch := list(islice(stretches, self.batch_size)):
                yield batch
            return
        batch = []
        # The longest first: what does not fit into memory shows at once.
        for placed in sorted(stretches, key=lambda each: -len(each[1][1].encoding)):
            longest = len((batch or [placed])[0][1][1].encoding)
            if batch and longest * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(placed)
        if batch:
            yield batch

    def _stretches(
        self,
        documents: Sequence[TextOrWords],
        questions: Sequence[str] | None,
        is_read: Callable[[Stretch], bool] | None,
    ) -> Iterator[tuple[int, Stretch, float]]:
        """Each with the index of its document and its share of it."""
        asked = [None] * len(documents) if questions is None else questions
        for (question, _), indices in groupby(
            range(len(documents)), lambda index: (asked[index], isinstance(documents[index], str))
        ):
            # Where all stretches of a call are in memory anyway, those of many documents are cut together.
            while together := list(islice(indices, 1 if self.batch_tokens is None else _MOST_CUT_TOGETHER)):
                for index, stretches in zip(
                    together, self._cut([documents[index] for index in together], question), strict=True
                ):
                    if is_read is not None:
                        stretches = list(filter(is_read, stretches))
                    yield from ((index, stretch, 1 / len(stretches)) for stretch in stretches)

    @torch.no_grad()
    def _run(self, stretches: Sequence[Stretch]) -> list[dict[str, Tensor]]:
        """What the model says of each stretch; padding stands at the end of it."""
        rows = [torch.tensor(stretch.encoding.ids) for stretch in stretches]
        lengths = torch.tensor([len(row) for row in rows])
        input_ids = pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        attention_mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
        device = self.model.device
        outputs = self.model(input_ids=input_ids.to(device), attention_mask=attention_mask.to(device), return_dict=True)
        said = {
            name: tensor.float().cpu()
            for name, tensor in outputs.items()
            if name.endswith("logits") or name == "last_hidden_state"
        }
        return [{name: tensor[index] for name, tensor in said.items()} for index in range(len(stretches))]


def _stretches_of(encodings: Sequence[Encoding], part: int, overlap: int) -> list[Stretch]:
    """The stretches of one document, which is the first (0) or second (1) text of its encodings."""
    stretches = []
    for index, encoding in enumerate(encodings):
        is_last = index == len(encodings) - 1
        tokens = _tokens_of(part, encoding)
        # Of what is shared with a neighbour, half is left to it.
        own = slice((overlap + 1) // 2 if index else 0, tokens.stop - tokens.start - (0 if is_last else overlap // 2))
        stretches.append(Stretch(encoding, tokens, own, is_last))
    return stretches


def _tokens_of(part: int, encoding: Encoding) -> slice:
    """Where the tokens of the first (0) or second (1) text are; they stand side by side."""
    first = encoding.sequence_ids.index(part)
    return slice(first, first + encoding.sequence_ids.count(part))
