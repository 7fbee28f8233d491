"""Models as ONNX graphs in onnxruntime, to be measured as those of torch are.

Shapes: B batch, N tokens, E hidden size.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from ..model.pretrained import LongformerPlusPreTrainedModel


class OnnxModel(nn.Module):
    """A graph that gives `last_hidden_state`, with the configuration of the model that it was made from."""

    def __init__(self, graph: Path, config: Any) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.names = [each.name for each in self.session.get_inputs()]
        self.config = config

    def forward(self, **inputs: Tensor) -> SimpleNamespace:
        """(B, N) each -> `last_hidden_state` (B, N, E). Without an attention mask all tokens are valid."""
        inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
        feed = {name: inputs[name].numpy() for name in self.names}
        (states,) = self.session.run(["last_hidden_state"], feed)
        return SimpleNamespace(last_hidden_state=torch.from_numpy(states))


class Export:
    """A LongformerPlus model by this package's export, for every length, in a folder that lasts as long as this."""

    def __init__(self, model: LongformerPlusPreTrainedModel) -> None:
        from ..integrations.onnx_export import export_onnx

        self._folder = tempfile.TemporaryDirectory()
        self._config = model.config
        with _without_output():
            self._graph = export_onnx(model, Path(self._folder.name) / "model.onnx").path

    def model(self, int8: bool) -> OnnxModel:
        """The graph, quantised if `int8`."""
        from ..integrations.onnx_int8 import quantize_graph

        if not int8:
            return OnnxModel(self._graph, self._config)
        with tempfile.TemporaryDirectory() as folder:
            quantized = Path(folder) / "model.onnx"
            quantize_graph(self._graph, quantized, self._graph.with_name(f"{self._graph.name}.data").exists())
            return OnnxModel(quantized, self._config)


def exported_by_torch(model: PreTrainedModel, inputs: dict[str, Tensor]) -> OnnxModel:
    """A model of transformers by torch's own export, for the shape of the inputs alone."""
    from ..integrations.onnx_export import check_packages

    check_packages()
    inputs = {"attention_mask": torch.ones_like(inputs["input_ids"]), **inputs}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), _without_output():
        graph = Path(folder) / "model.onnx"
        torch.onnx.export(
            model.eval(),
            (),
            str(graph),
            kwargs=inputs,
            output_names=["last_hidden_state"],
            dynamo=True,
            verbose=False,
        )
        return OnnxModel(graph, model.config)


@contextmanager
def _without_output() -> Iterator[None]:
    """Hide what torch's exporter logs and prints, between the rows of a table: whole graphs, if it fails."""
    before, nowhere = logging.root.manager.disable, StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    finally:
        logging.disable(before)
