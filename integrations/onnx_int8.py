"""int8 for an exported ONNX graph, by onnxruntime: the same layers as `quantization` has, weights by output channel."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from longformer_plus.ops.processor import processor_features

if TYPE_CHECKING:
    from onnx import ModelProto

# `export_onnx` names nodes by their modules. Weights and biases have no names of their own: the exporter numbers those
# that it transposes, and keeps equal ones once.
_PRODUCT = re.compile(
    r"encoder\.layer\.\d+\.(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense)/"
)


def quantize_graph(graph: Path, output: Path, external_data: bool = False) -> None:
    """Quantise the layers' products of an exported graph.

    Processors without VNNI or AMX add pairs of products in 16 bits, which overflow for large weights. Exported on one
    of them, weights have 7 bits: right everywhere, and a little coarser.

    Args:
        graph: what `export_onnx` wrote.
        output: the file to write.
        external_data: put the weights into `<output>.data`.

    Raises:
        RuntimeError: the graph has no such products.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = output.with_name(f"{output.name}.prepared")
    # onnxruntime's symbolic shapes end with "'NoneType' object is not iterable" at a maximum over the rows of the
    # global attention mask, and know no size that depends on it. Weights' shapes, all that is needed, onnx finds.
    quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True, save_as_external_data=external_data)
    try:
        products = layer_products(onnx.load(prepared, load_external_data=False))
        if not products:
            raise RuntimeError(f"{graph} has no products of layers to quantise.")
        features = processor_features()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantize_dynamic(
                str(prepared),
                str(output),
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=products,
                per_channel=True,
                reduce_range=not (features["VNNI"] or features["AMX-INT8"]),
                weight_type=QuantType.QInt8,
                use_external_data_format=external_data,
            )
    finally:
        prepared.unlink(missing_ok=True)
        prepared.with_name(f"{prepared.name}.data").unlink(missing_ok=True)


def layer_products(model: ModelProto) -> list[str]:
    """The names of the nodes that multiply by the weights of the layers' projections and feed-forward."""
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and _PRODUCT.search(node.name)]
