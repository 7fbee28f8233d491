"""PEFT's own tests of encoders, with LongformerPlus as the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from longformer_plus import (
    LongformerPlusConfig,
    LongformerPlusForSequenceClassification,
    LongformerPlusModel,
    LongformerPlusTokenizer,
)

pytest.importorskip("peft")
from ..tools.peft_suite import SUITE

if not SUITE.is_available():
    pytest.skip("run `python -m tests.tools.peft_suite` to fetch the suite", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

_features = SUITE.load("test_feature_extraction_models")
_classifiers = SUITE.load("test_seq_classifier")
_taggers = SUITE.load("test_token_classification_qa")

# Names of folders in the working directory, as PEFT's are of models on the hub.
_MODEL, _CLASSIFIER = "tiny-random-LongformerPlusModel", "tiny-random-LongformerPlusForSequenceClassification"
# The lists that PEFT's tests are parametrized with.
_features.PEFT_FEATURE_EXTRACTION_MODELS_TO_TEST[:] = [_MODEL]
_classifiers.PEFT_SEQ_CLS_MODELS_TO_TEST[:] = [_CLASSIFIER]
_taggers.PEFT_TOKEN_CLS_MODELS_TO_TEST[:] = [_CLASSIFIER]


@pytest.fixture(scope="module")
def checkpoints(vocabulary_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    tokenizer = LongformerPlusTokenizer.from_pretrained(vocabulary_folder)
    # As large as the models that PEFT tests with.
    config = LongformerPlusConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=5,
        num_attention_heads=4,
        intermediate_size=37,
        attention_window=8,
        max_position_embeddings=512,
    )
    for kind, name in ((LongformerPlusModel, _MODEL), (LongformerPlusForSequenceClassification, _CLASSIFIER)):
        kind(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(autouse=True)
def _in_their_folder(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoints)


# What PEFT's tests skip by the names of the encoders that they know.
_FOR_DECODERS = {
    "PrefixTuningConfig": (
        TypeError,
        "a prefix is keys and values of transformers' own cache, which encoders have not",
    ),
    "ShadowConfig": (AttributeError, "it is put around the layers of decoders"),
}


@pytest.fixture(autouse=True)
def _not_of_decoders(request: pytest.FixtureRequest) -> None:
    for method, (error, reason) in _FOR_DECODERS.items():
        if method in request.node.name:
            request.applymarker(pytest.mark.xfail(raises=error, reason=reason))


class TestFeatureExtraction(_features.TestPeftFeatureExtractionModel):
    pass


class TestSequenceClassification(_classifiers.TestSequenceClassificationModels):
    pass


class TestTokenClassification(_taggers.TestTokenClassificationModels):
    pass


class TestQuestionAnswering(_taggers.TestQuestionAnsweringModels):
    pass
