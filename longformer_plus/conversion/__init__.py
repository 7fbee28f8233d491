"""Other checkpoints to LongformerPlus, and back.

    convert_to_long          RoBERTa, XLM-RoBERTa, CamemBERT, BERT and ELECTRA models, made long
    convert_to_short         LongformerPlus models as one of those
    extend_positions         a Longformer's positions, for longer documents
    convert_from_longformer  transformers' Longformer to LongformerPlus
    convert_to_longformer    LongformerPlus to transformers' Longformer
    convert_from_allenai     AllenAI's first releases
    convert_from_led         the encoder of LED
    convert_from_tensorflow  tf_model.h5 of TFLongformer..., without TensorFlow
    convert_checkpoint       a checkpoint of any of these kinds, which it detects

No code in a checkpoint is executed; a damaged checkpoint raises a CheckpointError. An output folder appears only when
it is complete, and replaces an existing one only with `overwrite`.
"""

from .allenai import convert_from_allenai
from .dispatch import convert_checkpoint, kind_of
from .led import convert_from_led
from .longformer import convert_from_longformer, convert_to_longformer
from .positions import extend_positions
from .reading import CheckpointError
from .tensorflow_weights import convert_from_tensorflow
from .to_long import convert_to_long
from .to_short import convert_to_short

__all__ = [
    "CheckpointError",
    "convert_checkpoint",
    "convert_from_allenai",
    "convert_from_led",
    "convert_from_longformer",
    "convert_from_tensorflow",
    "convert_to_long",
    "convert_to_longformer",
    "convert_to_short",
    "extend_positions",
    "kind_of",
]
