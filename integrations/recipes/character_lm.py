"""The paper's first result as a recipe: character-level language modelling with windows that grow with depth.

Section 4.1 of the paper: lower layers have small windows, upper ones wide windows and two dilated heads; training goes
by stages, each with longer documents, wider windows and half the learning rate. Characters are bytes.

Two models of the same size stand beside it: one without dilation, and one with full attention, at the longest
documents that it is given.

Shapes: B batch, N characters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from longformer_plus import LongformerPlusConfig, LongformerPlusForCausalLM

from ..data.checks import check_text
from ..data.sources import iterate_records

VARIANTS = ("dilated", "undilated", "full attention")

# Ids of bytes start behind the special tokens; positions behind that of padding.
_PADDING, _FIRST_BYTE, _FIRST_POSITION = 1, 3, 2
_WARMUP = 0.1


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        length: characters of a document.
        window: total width of the uppermost layer's window; the lowest has an eighth of it.
        steps: updates.
        learning_rate: the highest; it rises linearly in the first tenth of the steps, and falls linearly to zero.
    """

    length: int
    window: int
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class Recipe:
    """A model's size and training.

    Attributes:
        stages: the stages of the training.
        layers, heads, hidden: the model's; its feed-forward is four times as wide as `hidden`.
        characters_per_step: characters of a batch.
        full_length: the longest documents that full attention is given.
        seed: of weights and samples.
    """

    stages: tuple[Stage, ...]
    layers: int = 6
    heads: int = 4
    hidden: int = 128
    characters_per_step: int = 4096
    full_length: int = 1024
    seed: int = 0

    @classmethod
    def growing(cls, first: Stage, count: int, **fields: Any) -> Recipe:
        """`count` stages: each with documents and windows twice those before it, and half the learning rate."""
        stages = [
            Stage(first.length << stage, first.window << stage, first.steps, first.learning_rate / 2**stage)
            for stage in range(count)
        ]
        return cls(tuple(stages), **fields)

    def config(self, variant: str, stage: Stage) -> LongformerPlusConfig:
        """The configuration of a variant in a stage; it has positions for the last stage's documents."""
        if variant not in VARIANTS:
            raise ValueError(f"variant={variant!r} is not allowed: it must be one of {', '.join(map(repr, VARIANTS))}.")
        if variant == "full attention":
            windows = [2 * self.length(variant, stage)] * self.layers
        else:
            windows = [
                max(stage.window >> 3 * (self.layers - 1 - layer) // (self.layers - 1), 2)
                for layer in range(self.layers)
            ]
        return LongformerPlusConfig(
            vocab_size=_FIRST_BYTE + 256,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.hidden,
            max_position_embeddings=self.stages[-1].length + _FIRST_POSITION,
            pad_token_id=_PADDING,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            attention_window=windows,
            attention_dilation=self._dilation() if variant == "dilated" else 1,
            is_causal=True,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )

    def length(self, variant: str, stage: Stage) -> int:
        """Characters of a variant's documents in a stage."""
        return min(stage.length, self.full_length) if variant == "full attention" else stage.length

    def _dilation(self) -> list[list[int]]:
        """Two heads of each layer in the upper half; 2 to 4, rising with depth."""
        lower = self.layers // 2
        steps = [2 + 2 * layer // max(self.layers - lower - 1, 1) for layer in range(self.layers - lower)]
        return [[1] * self.heads] * lower + [[1] * (self.heads - 2) + [step] * 2 for step in steps]


@dataclass
class Result:
    """What became of a variant.

    Attributes:
        variant: one of `VARIANTS`.
        parameters: of the model.
        curve: after how many characters of training, the bits per character of the held-out text at the stage's length.
        by_length: bits per character of the held-out text by length of document.
        seconds: of the training.
    """

    variant: str
    parameters: int
    curve: list[tuple[int, float]] = field(default_factory=list)
    by_length: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0


def read_characters(paths: Sequence[Path], limit: int | None = None) -> Tensor:
    """The ids of the bytes of text files, or of the field "text" of .jsonl(.xz) files; one document after another.

    Args:
        paths: the files.
        limit: at most this many bytes of each file.

    Returns:
        (N,) uint8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file has no text, or one of its rows is not as `records` wants it.
    """
    parts = []
    for path in paths:
        if ".jsonl" in path.suffixes:
            texts = [record.row["text"] for record in iterate_records(str(path), check_text)]
        else:
            texts = [path.read_text(encoding="utf-8")]
        content = "\n\n".join(texts).encode()[:limit]
        if not content:
            raise ValueError(f"{path} has no text.")
        parts.append(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return torch.cat(parts)


def train(
    variant: str,
    recipe: Recipe,
    characters: Tensor,
    held_out: Tensor,
    evaluate_every: int = 100,
    report: Callable[[str], None] = tqdm.write,
) -> tuple[LongformerPlusForCausalLM, Result]:
    """Train a variant through all stages.

    Args:
        variant: one of `VARIANTS`.
        recipe: size and stages.
        characters: (N,) uint8 to train on.
        held_out: (N,) uint8 to evaluate on.
        evaluate_every: steps between two points of the curve.
        report: called with a line for each point.

    Raises:
        ValueError: there are fewer characters than a document has.
    """
    longest = recipe.stages[-1].length
    for name, text in (("training", characters), ("held-out", held_out)):
        if len(text) <= longest:
            raise ValueError(f"The {name} text has {len(text)} characters; documents of {longest} need more.")
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    model = LongformerPlusForCausalLM(recipe.config(variant, recipe.stages[0]))
    result = Result(variant, model.num_parameters())
    seen = 0
    for stage in recipe.stages:
        # The same weights under wider windows.
        weights = model.state_dict()
        model = LongformerPlusForCausalLM(recipe.config(variant, stage)).train()
        model.load_state_dict(weights)
        length = recipe.length(variant, stage)
        batch = max(recipe.characters_per_step // length, 1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rise_and_fall(stage.steps))
        for step in tqdm(range(1, stage.steps + 1), desc=f"{variant}, {length} characters", leave=False):
            start = time.perf_counter()
            _loss(model, *_sample(characters, batch, length, longest, generator)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            result.seconds += time.perf_counter() - start
            seen += batch * length
            if step % evaluate_every == 0 or step == stage.steps:
                result.curve.append((seen, bits_per_character(model, held_out, length)))
                report(f"{variant}: {seen:,} characters, {result.curve[-1][1]:.3f} bits per character")
    for length in sorted({recipe.length(variant, stage) for stage in recipe.stages}):
        result.by_length[length] = bits_per_character(model, held_out, length)
    return model.eval(), result


@torch.no_grad()
def bits_per_character(model: LongformerPlusForCausalLM, text: Tensor, length: int) -> float:
    """Bits per character of a (N,) uint8 text, in documents of `length` that overlap by half.

    Only the second half of each is counted, so that each character counts once and has at least half a document
    before it.
    """
    was_training = model.training
    model.eval()
    total, count, half = 0.0, 0, length // 2
    for start in range(0, len(text) - length + 1, length - half):
        ids = text[start : start + length].long()[None] + _FIRST_BYTE
        labels = ids.clone()
        labels[:, :half] = -100
        scored = length - half
        total += model(ids, labels=labels).loss.item() * scored
        count += scored
    model.train(was_training)
    return total / count / math.log(2)


def _sample(text: Tensor, batch: int, length: int, longest: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(B, N) ids and position ids: documents from anywhere, at positions from anywhere, so that all get trained."""
    starts = torch.randint(0, len(text) - length, (batch, 1), generator=generator)
    first = torch.randint(0, longest - length + 1, (batch, 1), generator=generator)
    places = torch.arange(length)
    return text[starts + places].long() + _FIRST_BYTE, first + places + _FIRST_POSITION


def _loss(model: LongformerPlusForCausalLM, ids: Tensor, position_ids: Tensor) -> Tensor:
    return model(ids, position_ids=position_ids, labels=ids).loss


def _rise_and_fall(steps: int) -> Callable[[int], float]:
    warmup = max(int(_WARMUP * steps), 1)
    return lambda step: min((step + 1) / warmup, (steps - step) / max(steps - warmup, 1))


def run(
    recipe: Recipe,
    variants: Sequence[str],
    train_files: Sequence[Path],
    eval_files: Sequence[Path],
    eval_characters: int,
    record: dict[str, Any],
    save: Callable[[dict[str, Any]], None],
) -> list[Result]:
    """Train variants one after another; `save` is called with `record` and the results so far after each."""
    characters, held_out = read_characters(train_files), read_characters(eval_files, eval_characters // len(eval_files))
    results: list[Result] = []
    for variant in variants:
        results.append(train(variant, recipe, characters, held_out)[1])
        save({**record, "recipe": asdict(recipe), "results": [asdict(result) for result in results]})
    return results


def table(results: Sequence[Result]) -> str:
    """Bits per character by length of document, as Markdown."""
    lengths = sorted({length for result in results for length in result.by_length})
    head = ["", "parameters", *(f"{length:,} characters" for length in lengths), "training"]
    rows = [
        [
            result.variant,
            f"{result.parameters / 1e6:.2f} M",
            *(f"{result.by_length[length]:.3f}" if length in result.by_length else "" for length in lengths),
            f"{result.seconds / 60:.1f} min",
        ]
        for result in results
    ]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def plot(results: Sequence[Result], path: Path) -> None:
    """Draw bits per character against characters of training into an .svg or .png; needs the extra `bench`."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for result in results:
        axes.plot(*zip(*result.curve, strict=True), marker=".", label=result.variant)
    axes.set_xlabel("characters of training")
    axes.set_ylabel("bits per character of held-out text")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)
