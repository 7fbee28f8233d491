"""Other checkpoints to LongformerPlus, and back.

    convert_to_long          RoBERTa, XLM-RoBERTa, CamemBERT, BERT and ELECTRA models, made long
    convert_to_short         LongformerPlus models as one of those
    extend_positions         a Longformer's positions, for longer documents
    convert_from_longformer  transformers' Longformer to LongformerPlus
    convert_to_longformer    LongformerPlus to transformers' Longformer
    convert_from_allenai     AllenAI's first releases
    convert_from_led         the encoder of LED
    convert_from_tensorflow  tf_model.h5 of TFLongformer..., without TensorFlow
    convert_checkpoint       a folder of any of these kinds, found out by looking at it

Nothing that a checkpoint holds is executed; what is damaged is refused with a CheckpointError. What is written appears
when all of it is there, and replaces nothing unless that is asked for.
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
