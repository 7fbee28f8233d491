"""The work that benchmarks measure, and the models that do it.

Shapes: B batch, N tokens, T valid tokens of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BigBirdConfig,
    BigBirdModel,
    LongformerConfig,
    LongformerModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

from ..model.encoder import LongformerPlusModel
from ..ops import apply_linear
from .onnx_models import Export, exported_by_torch

WORK = ("forward", "training")
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")

# Ids that are ordinary words in every vocabulary measured here.
_WORDS = (10, 50000)
# Tokens at a time in linear layers on a CPU without gradients; glibc maps new pages for larger results, which is slow.
_CHUNK_TOKENS = 1024
# The tokens that an exported model has positions for, at least.
_GRAPH_TOKENS = 4096


def check_names(names: Iterable[str], allowed: Iterable[str], what: str) -> None:
    """Raise a ValueError that lists what is allowed if one of `names` is not."""
    allowed = tuple(allowed)
    for name in names:
        if name not in allowed:
            raise ValueError(f"{what}={name!r} is not allowed: it must be one of {', '.join(map(repr, allowed))}.")


def precisions_of(name: str) -> tuple[str, ...]:
    """The precisions that a model of `MODELS` or `GRAPHS` can be measured in."""
    if name in GRAPHS:
        return ("float32", "int8") if name == "longformer_plus_onnx" else ("float32",)
    return (*DTYPES, "int8") if name == "longformer_plus" else DTYPES


def in_precisions(models: Iterable[str], precisions: Iterable[str]) -> list[str]:
    """The names of models in each of some precisions that they can be in; in float32 it is left out."""
    return [
        name if precision == "float32" else f"{name}:{precision}"
        for name, precision in product(models, precisions)
        if precision in precisions_of(name)
    ]


def check_models(names: Iterable[str]) -> None:
    """Raise a ValueError for the first name, such as "transformers" or "longformer_plus:int8", that is none."""
    for name in names:
        model, separator, precision = name.partition(":")
        check_names([model], [*MODELS, *GRAPHS], "model")
        if separator:
            check_names([precision], precisions_of(model), f"precision of {model}")


@dataclass(frozen=True)
class Workload:
    """What is measured: base-size models with random weights.

    Attributes:
        num_tokens: N, the length of the documents, or the maximum of it.
        work: "forward" (without gradients) or "training" (forward and backward).
        window: the attention window of the Longformers, total width.
        num_layers: layers of every model; None for those of its base checkpoint (12, ModernBERT 22).
        backend: the `attn_implementation` of LongformerPlus.
        batch_size: B.
        mixed: draw the lengths of the documents instead of giving all of them N tokens; see `lengths`.
        num_global: how many tokens at the start of each document attend globally in the Longformers.
        dropout: probability of every dropout in training.
        dtype: "float32", "bfloat16" or "float16", of weights and activations.
        device: "cpu" or "cuda".

    Raises:
        ValueError: a value is not among those allowed.
    """

    num_tokens: int
    work: str
    window: int = 512
    num_layers: int | None = None
    backend: str = "sdpa"
    batch_size: int = 1
    mixed: bool = False
    num_global: int = 1
    dropout: float = 0.0
    dtype: str = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, allowed in {"work": WORK, "dtype": DTYPES, "device": DEVICES}.items():
            check_names([getattr(self, name)], allowed, name)
        for name, least in {"num_tokens": 1, "window": 2, "num_layers": 1, "batch_size": 1, "num_global": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value} is not allowed: it must be at least {least}.")
        if self.window % 2:
            raise ValueError(f"window={self.window} is not allowed: it must be even, half on each side.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} is not allowed: it must be at least 0 and less than 1.")

    def lengths(self) -> list[int]:
        """Valid tokens of each of the B documents.

        Mixed ones are drawn from a normal distribution with a mean of N / 2, as in ModernBERT's paper, and a deviation
        of N / 8, clipped to [1, N]. The same workload always gives the same.
        """
        if not self.mixed:
            return [self.num_tokens] * self.batch_size
        drawn = torch.randn(self.batch_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return (self.num_tokens / 2 + self.num_tokens / 8 * drawn).round().clamp(1, self.num_tokens).int().tolist()

    def model(self, name: str) -> PreTrainedModel:
        """A model with random weights, ready for the work.

        Args:
            name: of `MODELS` or `GRAPHS`, alone or with ":bfloat16", ":int8" or another precision in place of `dtype`.

        Raises:
            ValueError: there is none of this name, or not in this precision.
        """
        check_models([name])
        name, _, precision = name.partition(":")
        if name in GRAPHS:
            return GRAPHS[name](self, precision == "int8")
        model = MODELS[name](self)
        if precision == "int8":
            from ..integrations.quantization import quantize

            return quantize(model)
        model = model.to(getattr(torch, precision or self.dtype)).train(self.work == "training")
        return model.to(self.device)

    def inputs(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """The inputs of `model`: `input_ids` (B, N), for mixed lengths `attention_mask` (B, N), for Longformers
        `global_attention_mask` (B, N)."""
        places = torch.arange(self.num_tokens)
        valid = places < torch.tensor(self.lengths())[:, None]
        ids = torch.randint(*_WORDS, valid.shape, generator=torch.Generator().manual_seed(0))
        inputs = {"input_ids": ids.masked_fill(~valid, model.config.pad_token_id)}
        if self.mixed:
            inputs["attention_mask"] = valid.long()
        if hasattr(model.config, "attention_window"):
            inputs["global_attention_mask"] = (valid & (places < self.num_global)).long()
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    def run(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> None:
        """Do the work once, to its end on the device."""
        with torch.set_grad_enabled(self.work == "training"):
            states = model(**inputs).last_hidden_state
            if self.work == "training":
                states.square().mean().backward()
                model.zero_grad()
        self.synchronize()

    def synchronize(self) -> None:
        """Wait until the device has done all its work."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def floor(self) -> Callable[[], None]:
        """A call that does the linear layers alone: those six of each layer, on the T valid tokens only.

        No implementation of the model can be faster than they are. Training takes them forward and backward.
        """
        config = _longformer_config(self)
        width, wide = config.hidden_size, config.intermediate_size
        options = {"device": self.device, "dtype": getattr(torch, self.dtype)}
        layers = [
            nn.ModuleList(
                [
                    *(nn.Linear(width, width, **options) for _ in range(4)),
                    nn.Linear(width, wide, **options),
                    nn.Linear(wide, width, **options),
                ]
            )
            for _ in range(config.num_hidden_layers)
        ]
        states = torch.randn(sum(self.lengths()), width, **options, requires_grad=self.work == "training")
        return partial(self._run_floor, layers, states)

    def _run_floor(self, layers: Sequence[nn.ModuleList], states: Tensor) -> None:
        chunk = _CHUNK_TOKENS if self.work == "forward" and self.device == "cpu" else len(states)
        with torch.set_grad_enabled(self.work == "training"):
            for layer in layers:
                *square, widen, narrow = layer
                for rows in states.split(chunk):
                    results = [
                        *(apply_linear(project, rows) for project in square),
                        apply_linear(narrow, apply_linear(widen, rows)),
                    ]
                if self.work == "training":
                    torch.autograd.backward(results, [states.detach()] * len(results))
                    layer.zero_grad()
        states.grad = None
        self.synchronize()


def _longformer_config(workload: Workload) -> LongformerConfig:
    return LongformerConfig(
        vocab_size=50265,
        type_vocab_size=1,
        max_position_embeddings=workload.num_tokens + 2,
        attention_window=workload.window,
        num_hidden_layers=workload.num_layers or 12,
        hidden_dropout_prob=workload.dropout,
        attention_probs_dropout_prob=workload.dropout,
    )


def _transformers(workload: Workload) -> PreTrainedModel:
    return LongformerModel(_longformer_config(workload))


def _longformer_plus(workload: Workload) -> PreTrainedModel:
    return LongformerPlusModel._from_config(_longformer_config(workload), attn_implementation=workload.backend)


def _modernbert(workload: Workload) -> PreTrainedModel:
    config = ModernBertConfig(
        max_position_embeddings=max(8192, workload.num_tokens),  # positions are rotary: no table grows with it
        num_hidden_layers=workload.num_layers or 22,
        embedding_dropout=workload.dropout,
        mlp_dropout=workload.dropout,
        attention_dropout=workload.dropout,
    )
    return ModernBertModel._from_config(config, attn_implementation="sdpa")


def _bigbird(workload: Workload) -> PreTrainedModel:
    config = BigBirdConfig(
        num_hidden_layers=workload.num_layers or 12,
        hidden_dropout_prob=workload.dropout,
        attention_probs_dropout_prob=workload.dropout,
    )
    block = config.block_size
    config.max_position_embeddings = max(4096, -(-workload.num_tokens // block) * block)  # it pads to whole blocks
    if workload.num_tokens <= (5 + 2 * config.num_random_blocks) * block:
        config.attention_type = "original_full"  # what it changes to by itself, with a warning
    return BigBirdModel(config)


def _roberta(workload: Workload) -> PreTrainedModel:
    config = RobertaConfig(
        vocab_size=50265,
        type_vocab_size=1,
        max_position_embeddings=workload.num_tokens + 2,
        num_hidden_layers=workload.num_layers or 12,
        hidden_dropout_prob=workload.dropout,
        attention_probs_dropout_prob=workload.dropout,
    )
    return RobertaModel._from_config(config, attn_implementation="sdpa")


MODELS: dict[str, Callable[[Workload], PreTrainedModel]] = {
    "transformers": _transformers,
    "longformer_plus": _longformer_plus,
    "modernbert": _modernbert,
    "bigbird": _bigbird,
    "roberta": _roberta,
}


def _longformer_plus_graph(workload: Workload, int8: bool) -> Any:
    # Export takes minutes, and the graph is for every batch: it is made once for all that its positions reach.
    num_tokens = max(workload.num_tokens, _GRAPH_TOKENS)
    return _export(replace(workload, num_tokens=num_tokens, batch_size=1, mixed=False, num_global=1)).model(int8)


@lru_cache(maxsize=1)
def _export(workload: Workload) -> Export:
    return Export(_longformer_plus(workload))  # type: ignore[arg-type]


def _transformers_graph(workload: Workload, int8: bool) -> Any:
    model = _transformers(workload)
    return exported_by_torch(model, workload.inputs(model))


# Models as ONNX graphs in onnxruntime.
GRAPHS: dict[str, Callable[[Workload, bool], Any]] = {
    "longformer_plus_onnx": _longformer_plus_graph,
    "transformers_onnx": _transformers_graph,
}
