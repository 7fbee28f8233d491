"""int8 for inference on CPUs: smaller files, less memory, and where the processor has VNNI or AMX more speed.

`quantize` turns a model into one; `from_pretrained` reads what it saves, and quantises while it loads if it is given
`quantization_config=Int8Config()`. The projections and the feed-forward of every layer multiply in int8. The word and
position embeddings, the vocabulary of a language model and the projections of global rows are kept in int8, and
multiplied in float: few rows pass through them, or a rounded input would cost the most. Pooler and heads stay as they
are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import (
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from longformer_plus.model.embeddings import LongformerPlusEmbeddings
from longformer_plus.model.heads import LongformerPlusLMHead
from longformer_plus.model.layers import LongformerPlusLayer
from longformer_plus.model.pretrained import LongformerPlusPreTrainedModel
from longformer_plus.ops.int8 import CENTRED, ONE_SIDED, Int8Linear
from longformer_plus.ops.int8_weights import Int8Embedding, Int8WeightLinear

# What `quantization_config` in config.json says.
METHOD = "longformer_plus_int8"
# What is in int8 in a saved model: 1, the products alone; 2, what is kept in int8 too.
LAYOUT = 2
# Activations that give nothing, or next to nothing, below zero.
_ONE_SIDED_ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python", "relu", "silu", "swish")

_Model = TypeVar("_Model", bound=LongformerPlusPreTrainedModel)


class Int8Config(QuantizationConfigMixin):
    """What config.json says of a model in int8. It has no options.

    Args:
        quant_method: always `METHOD`.
        layout: of a saved model, 1 or 2; what is saved now has 2.

    Raises:
        ValueError: there is no such layout.
    """

    def __init__(self, quant_method: str = METHOD, layout: int = LAYOUT) -> None:
        if layout not in range(1, LAYOUT + 1):
            raise ValueError(
                f"layout={layout!r} of a model in int8 is not known: this version reads 1 to {LAYOUT}. Install a newer "
                "longformer-plus, or quantise the model again."
            )
        self.quant_method = quant_method  # type: ignore[assignment]
        self.layout = layout

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Read what config.json says; before there were two layouts it named none."""
        return super().from_dict({"layout": 1, **config_dict}, *args, **kwargs)


class Int8Quantizer(HfQuantizer):
    """transformers' hook: it makes the layers before weights are loaded into them, or quantises what was loaded."""

    quantization_config: Int8Config

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """Whether `save_pretrained` may write the model."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether `Trainer` may train the model."""
        return False

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        if self.pre_quantized:
            check_quantizable(model)
            replace_products(model, keep_weights=False)
            if self.quantization_config.layout > 1:
                replace_weights(model, keep_weights=False)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        if not self.pre_quantized:
            check_quantizable(model)
            replace_products(model, keep_weights=True)
        if not self.pre_quantized or self.quantization_config.layout == 1:
            replace_weights(model, keep_weights=True)
            self.quantization_config.layout = LAYOUT
        return model.requires_grad_(False)


def register_int8() -> None:
    """Let `from_pretrained` read checkpoints in int8. Importing `longformer_plus` does."""
    if METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(METHOD)(Int8Config)
        register_quantizer(METHOD)(Int8Quantizer)


def quantize(model: _Model) -> _Model:
    """Turn a model into one for inference in int8.

    Args:
        model: with any head, in float32 or bfloat16. It is changed: its layers' linear layers become `Int8Linear`,
            its embeddings `Int8Embedding`, and its parameters need no gradients any more.

    Returns:
        The model.

    Raises:
        TypeError: it is no model of this package.
        ValueError: it is in int8 already, or a layer is not a plain linear one, because an adapter is around it.
    """
    check_quantizable(model)
    if is_quantized(model):
        raise ValueError("The model is in int8 already: quantise it only once.")
    _own_config(model)
    quantizer = Int8Quantizer(Int8Config(), pre_quantized=False)
    # What `from_pretrained` sets.
    fields: dict[str, Any] = {"is_quantized": True, "quantization_method": METHOD, "hf_quantizer": quantizer}
    for name, value in fields.items():
        setattr(model, name, value)
    quantizer.postprocess_model(model)
    return model.eval()


def is_quantized(model: nn.Module) -> bool:
    """Whether layers of a model are in int8."""
    return any(type(module) is Int8Linear for module in model.modules())


def check_quantizable(model: nn.Module) -> None:
    """Raise the errors of `quantize` for a model that cannot be in int8."""
    if not isinstance(model, LongformerPlusPreTrainedModel):
        raise TypeError(
            f"A {type(model).__name__} cannot be quantised: give a LongformerPlus model. Merge adapters first, by "
            "merge_and_unload() or `longformer-plus merge`."
        )
    for name, module, attribute in chain(_products(model), _weights(model)):
        layer = getattr(module, attribute)
        if type(layer) not in (nn.Linear, nn.Embedding, Int8Linear, Int8WeightLinear, Int8Embedding):
            raise ValueError(
                f"{name}.{attribute} is a {type(layer).__module__}.{type(layer).__name__}, no plain layer of torch. "
                "Merge adapters first, by merge_and_unload() or `longformer-plus merge`."
            )


def replace_products(model: PreTrainedModel, keep_weights: bool) -> None:
    """Put layers that multiply in int8 in the place of the linear ones of each layer.

    Args:
        model: for which `check_quantizable` raises nothing.
        keep_weights: quantise the weights; otherwise the new layers have none yet.
    """
    one_sided = model.config.hidden_act in _ONE_SIDED_ACTIVATIONS
    for name, module, attribute in list(_products(model)):
        layer = getattr(module, attribute)
        reads_activation = not name.endswith((".attention.self", ".attention.output", ".intermediate"))
        options: dict[str, Any] = {
            "zero_point": ONE_SIDED if reads_activation and one_sided else CENTRED,
            "feeds_attention": attribute != "dense",
        }
        if keep_weights:
            new = Int8Linear.of(layer, **options)
        else:
            new = Int8Linear(layer.in_features, layer.out_features, device=layer.weight.device, **options)
        setattr(module, attribute, new.train(layer.training))


def replace_weights(model: PreTrainedModel, keep_weights: bool) -> None:
    """Keep embeddings, the vocabulary and the projections of global rows in int8.

    Args:
        model, keep_weights: as of `replace_products`.
    """
    made: dict[nn.Parameter, nn.Parameter] = {}  # so that the vocabulary stays tied to the embeddings
    for _, module, attribute in list(_weights(model)):
        layer = getattr(module, attribute)
        kind: Any = Int8Embedding if isinstance(layer, nn.Embedding) else Int8WeightLinear
        if keep_weights:
            new = kind.of(layer)
            new.weight = made.setdefault(layer.weight, new.weight)
        else:
            sizes = layer.weight.shape if kind is Int8Embedding else layer.weight.shape[::-1]
            new = kind(*sizes, layer.weight.dtype, layer.weight.device)
        setattr(module, attribute, new.train(layer.training))


def _weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """The layers whose weights are kept in int8, as `_products` gives them."""
    for name, module in model.named_modules():
        if isinstance(module, LongformerPlusEmbeddings):
            yield name, module, "word_embeddings"
            yield name, module, "position_embeddings"
        elif isinstance(module, LongformerPlusLMHead):
            yield name, module, "decoder"
        elif isinstance(module, LongformerPlusLayer):
            for attribute in ("query_global", "key_global", "value_global"):
                yield f"{name}.attention.self", module.attention.self, attribute


def _products(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """The linear layers that multiply in int8: the name of their module, the module, and what it calls them."""
    for name, layer in model.named_modules():
        if isinstance(layer, LongformerPlusLayer):
            for attribute in ("query", "key", "value"):
                yield f"{name}.attention.self", layer.attention.self, attribute
            yield f"{name}.attention.output", layer.attention.output, "dense"
            yield f"{name}.intermediate", layer.intermediate, "dense"
            yield f"{name}.output", layer.output, "dense"


def _own_config(model: PreTrainedModel) -> None:
    """Give a model a configuration of its own: another model may have been made from the same object."""
    shared, own = model.config, copy.deepcopy(model.config)
    for module in model.modules():
        if getattr(module, "config", None) is shared:
            setattr(module, "config", own)  # noqa: B010
