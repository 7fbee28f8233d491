"""ONNX: one graph for every batch size, length and global attention mask, compared with torch in onnxruntime.

torch's own exporter does the work. That of transformers (`transformers.exporters`) wraps it and gives the same numbers,
but its interface changed between the versions of transformers that this package supports.

Shapes: B batch, C choices, N tokens, G global tokens.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from longformer_plus import (
    LongformerPlusConfig,
    LongformerPlusModel,
    LongformerPlusPreTrainedModel,
)
from longformer_plus.configuration import LONGFORMER_MODEL_TYPE
from longformer_plus.conversion.longformer import class_named
from longformer_plus.conversion.reading import find_checkpoint, load_model, read_config

from . import tasks
from .onnx_comparison import Comparison, compare, compared_shapes, example_shape, random_batch, run
from .quantization import is_quantized

# By the names of the tasks; "feature-extraction" is the bare encoder.
TASKS: dict[str, type[LongformerPlusPreTrainedModel]] = {
    "feature-extraction": LongformerPlusModel,
    **{name: task.model for name, task in tasks.TASKS.items() if task.has_onnx},
}
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class OnnxExport:
    """What was exported.

    Attributes:
        path: the graph. Weights that do not fit in it are in `<path>.data` beside it.
        comparisons: the batches on which it was compared with torch.
    """

    path: Path
    comparisons: tuple[Comparison, ...]

    @property
    def largest_difference(self) -> float:
        """The largest absolute difference from torch on any batch."""
        return max(comparison.difference for comparison in self.comparisons)


def export_onnx(
    model_or_path: LongformerPlusPreTrainedModel | str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    task: str | None = None,
    *,
    static: Sequence[int] | None = None,
    max_global_tokens: int | None = None,
    external_data: bool | None = None,
    overwrite: bool = False,
    int8: bool = False,
    tolerance: float | None = None,
) -> OnnxExport:
    """Export a model to ONNX and compare the graph with torch, on shapes that it was not exported with.

    The graph's inputs are `input_ids`, `attention_mask` and `global_attention_mask`, each (B, N), or (B, C, N) for
    multiple choice, int64; and `token_type_ids` where the model has more than one type. Its outputs have the names that
    they have in torch. The output file appears when all is done and the comparison has passed.

    Args:
        model_or_path: a model in float32, or a checkpoint of LongformerPlus or Longformer.
        output_path: the file to write.
        task: a key of `TASKS`; by default what the checkpoint's `architectures` say. Only for a checkpoint.
        static: the one shape to export for, (B, N) or (B, C, N); by default every shape.
        max_global_tokens: the most global tokens that a row may have, with `static`: the graph then has no size that
            depends on its inputs. By default any number.
        external_data: keep the weights in `<output_path>.data`; by default where they are too large for one file.
        overwrite: replace existing files.
        int8: quantise the layers' products; see `onnx_int8`.
        tolerance: the largest difference allowed, relative to the largest value of an output or to 1, if that is more:
            1e-4 by default, 0.2 in int8.

    Raises:
        FileExistsError: the output exists.
        ModuleNotFoundError: a package of the extra `onnx` is missing.
        RuntimeError: the graph differs from torch.
        TypeError: the model is not of this package.
        ValueError: an argument is not allowed, or the checkpoint is damaged or has no weights for the task.
    """
    check_packages()
    output = _check_output(Path(output_path), overwrite)
    model = _model_of(model_or_path, task)
    if max_global_tokens is not None and (static is None or max_global_tokens < 0):
        raise ValueError(
            f"max_global_tokens={max_global_tokens} is not allowed: it must be at least 0, and goes with static."
        )
    batches = [
        random_batch(model, shape, num_global)
        for shape, num_global in compared_shapes(model, static)
        if max_global_tokens is None or num_global <= max_global_tokens
    ]
    num_global = 1 if max_global_tokens is None else min(1, max_global_tokens)
    example = random_batch(model, example_shape(model) if static is None else tuple(static), num_global)
    # The weights' file is found by its name: the draft has the final one, in a folder of its own.
    with (
        _as_when_exported(model),
        tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.", suffix=".partial") as folder,
    ):
        draft = Path(folder) / output.name
        _convert(model, example, static is None, max_global_tokens).save(draft, external_data=external_data)
        if int8:
            _quantize(draft)
        if tolerance is None:
            tolerance = 0.2 if int8 else 1e-4
        comparisons = compare(draft, model, batches, tolerance)
        _publish(draft, output)
    return OnnxExport(output, comparisons)


def load(checkpoint: str | os.PathLike[str], task: str | None = None) -> LongformerPlusPreTrainedModel:
    """A checkpoint of LongformerPlus or Longformer in float32, with the head of `task`.

    Args:
        checkpoint: its folder, or its name on the hub.
        task: a key of `TASKS`; by default what the checkpoint's `architectures` say.

    Raises:
        CheckpointError: its files are damaged or unsafe, or it has no weights for the head of `task`.
        ValueError: it is another kind of model, or its head is not known.
    """
    folder = find_checkpoint(checkpoint)
    fields = read_config(folder)
    if fields.get("model_type") not in (LONGFORMER_MODEL_TYPE, LongformerPlusConfig.model_type):
        raise ValueError(
            f"{checkpoint} is a model of type {fields.get('model_type')!r}; Longformer's are exported here."
        )
    return load_model(_class_of(checkpoint, fields.get("architectures"), task), folder, dtype=torch.float32)


def _class_of(
    checkpoint: object, architectures: Sequence[str] | None, task: str | None
) -> type[LongformerPlusPreTrainedModel]:
    tasks = ", ".join(TASKS)
    if task is None:
        try:
            return class_named(architectures, checkpoint)
        except ValueError as error:
            raise ValueError(f"{error} Or give a task, one of {tasks}.") from None
    if task not in TASKS:
        raise ValueError(f"task={task!r} is not allowed: choose one of {tasks}.")
    return TASKS[task]


def _model_of(
    model_or_path: LongformerPlusPreTrainedModel | str | os.PathLike[str], task: str | None
) -> LongformerPlusPreTrainedModel:
    if isinstance(model_or_path, (str, os.PathLike)):
        model_or_path = load(model_or_path, task)
    elif task is not None and isinstance(model_or_path, LongformerPlusPreTrainedModel):
        raise ValueError(f"task={task!r} is not allowed with a model, which has its head: leave it out.")
    if not isinstance(model_or_path, LongformerPlusPreTrainedModel):
        raise TypeError(
            f"A {type(model_or_path).__name__} cannot be exported: give a LongformerPlus model, or the path of a "
            "checkpoint. Merge adapters into their model first."
        )
    if model_or_path.dtype != torch.float32:
        raise ValueError(
            f"A model of {model_or_path.dtype} is not exported: onnxruntime's CPU kernels are float32's, "
            "and the graph is checked with them. Call model.float() first."
        )
    if is_quantized(model_or_path):
        raise ValueError("A model in int8 is not exported: export the one that was quantised, with int8=True.")
    return model_or_path


def check_packages() -> None:
    """Raise a ModuleNotFoundError if a package of the extra `onnx` is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"Not installed: {', '.join(missing)}. Run `pip install longformer-plus[onnx]`.")


def _check_output(output: Path, overwrite: bool) -> Path:
    if not output.parent.is_dir():
        raise ValueError(f"{output.parent} is not a folder: make it first.")
    for path in (output, _weights_beside(output)):
        if path.exists() and not overwrite:
            raise FileExistsError(
                f"{path} exists: choose another name, or ask for overwriting (overwrite=True, --overwrite)."
            )
    if output.is_dir():
        raise ValueError(f"{output} is a folder: give the name of a file, such as {output / 'model.onnx'}.")
    return output


def _quantize(draft: Path) -> None:
    """Put the int8 graph in the place of a draft."""
    from .onnx_int8 import quantize_graph

    weights = _weights_beside(draft)
    has_weights_beside = weights.exists()
    with tempfile.TemporaryDirectory(dir=draft.parent) as folder:
        exported = Path(folder) / draft.name
        draft.replace(exported)
        if has_weights_beside:
            weights.replace(_weights_beside(exported))
        quantize_graph(exported, draft, has_weights_beside)


def _weights_beside(graph: Path) -> Path:
    return graph.with_name(f"{graph.name}.data")


def _publish(draft: Path, output: Path) -> None:
    """Put a whole draft in its place. The graph goes last, and never stands beside weights that are not its own."""
    weights, old_weights = _weights_beside(draft), _weights_beside(output)
    if weights.exists() or old_weights.exists():
        output.unlink(missing_ok=True)
        old_weights.unlink(missing_ok=True)
    if weights.exists():
        weights.replace(old_weights)
    draft.replace(output)


class _Graph(nn.Module):
    """A model that returns the outputs of some names, and takes the inputs that a graph has."""

    def __init__(
        self, model: LongformerPlusPreTrainedModel, names: Sequence[str], max_global_tokens: int | None
    ) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.max_global_tokens = max_global_tokens

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        global_attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """(B, N) each, or (B, C, N) for multiple choice -> the outputs, in the order of their names."""
        outputs = run(
            self.model,
            input_ids=input_ids,
            attention_mask=attention_mask,
            global_attention_mask=global_attention_mask,
            token_type_ids=token_type_ids,
            max_global_tokens=self.max_global_tokens,
        )
        return tuple(outputs[name] for name in self.names)


@contextmanager
def _as_when_exported(model: LongformerPlusPreTrainedModel) -> Iterator[None]:
    """Without dropout and gradients, and with padding left where it is: a graph holds for any padding."""
    training, unpad_inputs = model.training, model.config.unpad_inputs
    model.eval()
    model.config.unpad_inputs = False
    try:
        with torch.no_grad():
            yield
    finally:
        model.config.unpad_inputs = unpad_inputs
        model.train(training)


def _convert(
    model: LongformerPlusPreTrainedModel, example: dict[str, Tensor], dynamic: bool, max_global_tokens: int | None
) -> torch.onnx.ONNXProgram:
    device = model.device
    example = {name: tensor.to(device) for name, tensor in example.items()}
    names = list(run(model, **example))
    axes = ("batch", "choices", "tokens") if example["input_ids"].dim() == 3 else ("batch", "tokens")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # torch's, of its own code
        warnings.filterwarnings("ignore", message=".*axis name")  # the inputs share theirs
        program = torch.onnx.export(
            _Graph(model, names, max_global_tokens).eval(),
            (),
            kwargs=example,
            output_names=names,
            dynamic_shapes={name: dict(enumerate(axes)) for name in example} if dynamic else None,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program.")
    for node in program.model.graph.all_nodes():
        if (module := _module_of(node.metadata_props)) and node.name:
            node.name = f"{module}/{node.name}"
        node.metadata_props.clear()  # stack traces, with paths of this machine: half of a small file
    return program


def _module_of(metadata: Mapping[str, str]) -> str:
    """The name of the module whose forward a node is from, such as "model.pooler.dense"; "" if torch does not say."""
    scopes = ast.literal_eval(metadata.get("pkg.torch.onnx.name_scopes", "[]"))
    return str(scopes[-2]) if len(scopes) > 1 else ""
