"""The classes of this checkpoint, from the installed package longformer_plus."""

try:
    from longformer_plus import (  # noqa: F401
        LongformerPlusConfig,
        LongformerPlusForCausalLM,
        LongformerPlusForMaskedLM,
        LongformerPlusForMultipleChoice,
        LongformerPlusForQuestionAnswering,
        LongformerPlusForSequenceClassification,
        LongformerPlusForTokenClassification,
        LongformerPlusModel,
        LongformerPlusTokenizer,
    )
except ImportError as error:
    raise ImportError(
        "This checkpoint is of longformer_plus, which is not installed. Run `pip install longformer-plus`, or install "
        "it from its repository."
    ) from error
