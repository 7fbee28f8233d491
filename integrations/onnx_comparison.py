"""Comparing an ONNX graph in onnxruntime with its model in torch, on shapes that it was not traced with.

Shapes: B batch, C choices, N tokens, G global tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from longformer_plus import LongformerPlusForMultipleChoice, LongformerPlusPreTrainedModel


@dataclass(frozen=True)
class Comparison:
    """A batch that was run by torch and by onnxruntime.

    Attributes:
        shape: (B, N), or (B, C, N) for multiple choice.
        num_global: G, the global tokens of each row.
        difference: the largest absolute difference of any output.
    """

    shape: tuple[int, ...]
    num_global: int
    difference: float


def example_shape(model: LongformerPlusPreTrainedModel) -> tuple[int, ...]:
    """(B, N) or (B, C, N), what a graph for every shape is traced with."""
    return _with_choices(model, 2, 3, 40)


def _with_choices(model: LongformerPlusPreTrainedModel, batch: int, choices: int, length: int) -> tuple[int, ...]:
    length = min(length, model.config.max_tokens)
    return (batch, choices, length) if isinstance(model, LongformerPlusForMultipleChoice) else (batch, length)


def compared_shapes(
    model: LongformerPlusPreTrainedModel, static: Sequence[int] | None
) -> list[tuple[tuple[int, ...], int]]:
    """Shapes and numbers of global tokens, none of them the example's where the graph is for every shape.

    Args:
        model: what is exported.
        static: the one shape that it is exported for, if there is one.

    Raises:
        ValueError: the model does not take this shape.
    """
    if static is not None:
        shape, length = _check_static(model, static), static[-1]
        return [(shape, num_global) for num_global in sorted({0, 1, min(5, length), length})]
    beyond_the_window = max(model.config.windows) + 130
    cases = [(1, 2, 1, 0), (3, 1, 7, 2), (1, 2, 33, 33), (2, 4, 100, 0), (1, 2, 333, 5), (1, 2, beyond_the_window, 3)]
    shapes = [(_with_choices(model, *sizes), num_global) for *sizes, num_global in cases]
    return [(shape, min(num_global, shape[-1])) for shape, num_global in shapes]


def _check_static(model: LongformerPlusPreTrainedModel, static: Sequence[int]) -> tuple[int, ...]:
    names = (
        ("batch", "choices", "length") if isinstance(model, LongformerPlusForMultipleChoice) else ("batch", "length")
    )
    if len(static) != len(names) or min(static, default=0) < 1 or static[-1] > model.config.max_tokens:
        raise ValueError(
            f"static={tuple(static)} is not allowed for {type(model).__name__}: give ({', '.join(names)}), each at "
            f"least 1 and the length at most {model.config.max_tokens}."
        )
    return tuple(static)


def random_batch(model: LongformerPlusPreTrainedModel, shape: tuple[int, ...], num_global: int) -> dict[str, Tensor]:
    """Random inputs by name, each of `shape`, the first row with padding."""
    generator = torch.Generator().manual_seed(sum(shape) + num_global)
    config = model.config
    ids = torch.randint(0, config.vocab_size, shape, generator=generator)
    attention_mask = torch.ones_like(ids)
    attention_mask[0, ..., shape[-1] - shape[-1] // 4 :] = 0
    order = torch.rand(shape, generator=generator).argsort(-1)
    batch = {
        "input_ids": torch.where(attention_mask > 0, ids, config.pad_token_id),  # type: ignore[arg-type]
        "attention_mask": attention_mask,
        "global_attention_mask": (order < num_global).long(),
    }
    if config.type_vocab_size > 1:
        batch["token_type_ids"] = torch.randint(0, config.type_vocab_size, shape, generator=generator)
    return batch


def run(model: LongformerPlusPreTrainedModel, **inputs: Tensor | int | None) -> dict[str, Tensor]:
    """The model's outputs by name, without those that a graph does not have."""
    return model(**inputs, output_attentions=False, output_hidden_states=False, return_dict=True)


def compare(
    graph: Path, model: LongformerPlusPreTrainedModel, batches: Sequence[dict[str, Tensor]], tolerance: float
) -> tuple[Comparison, ...]:
    """Run batches by torch and by onnxruntime; a RuntimeError where they differ."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    comparisons = []
    for batch in batches:
        want = run(model, **{name: tensor.to(model.device) for name, tensor in batch.items()})
        have = session.run(names, {name: tensor.numpy() for name, tensor in batch.items()})
        shape = tuple(batch["input_ids"].shape)
        num_global = int(batch["global_attention_mask"].sum(-1).max())
        differences = [0.0]
        for name, array in zip(names, have, strict=True):
            wanted = want[name].cpu()
            difference = float((torch.from_numpy(array) - wanted).abs().max())
            if not difference <= tolerance * max(1.0, float(wanted.abs().max())):
                raise RuntimeError(
                    f"The ONNX graph's {name} differs from torch's by {difference:.1e} on inputs of shape {shape} with "
                    f"{num_global} global tokens; tolerance={tolerance} was allowed. Nothing was written."
                )
            differences.append(difference)
        comparisons.append(Comparison(shape, num_global, max(differences)))
    return tuple(comparisons)
