"""Settings and fixtures of all tests. Nothing here needs the network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_DATASETS_CACHE", str(Path(__file__).parents[1] / ".cache" / "datasets"))

import pytest
import torch
import transformers

import longformer_plus

# The tests' tensors are small: more threads only wait for one another.
torch.set_num_threads(1)

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def warnings_of_transformers(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What transformers' loggers print, ours among them; each warning that is given once is given again."""
    logger = transformers.utils.logging.get_logger("transformers")
    ours = transformers.utils.logging.get_logger("longformer_plus")
    transformers.utils.logging.warning_once.cache_clear()
    before = logger.propagate, ours.propagate
    logger.propagate = ours.propagate = True
    with caplog.at_level("WARNING"):
        yield caplog
    logger.propagate, ours.propagate = before


@pytest.fixture(scope="session")
def vocabulary_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with vocab.json and merges.txt: RoBERTa's where the shared data are, else a small one trained here."""
    folder = SHARED_DATA / "roberta_vocabulary"
    if folder.is_dir():
        return folder
    from tokenizers import ByteLevelBPETokenizer

    folder = tmp_path_factory.mktemp("vocabulary")
    tokenizer = ByteLevelBPETokenizer()
    words = Path(longformer_plus.__file__).parent.rglob("*.py")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train([str(path) for path in words], vocab_size=1000, special_tokens=special)
    tokenizer.save_model(str(folder))
    return folder


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> longformer_plus.LongformerPlusTokenizer:
    """A small tokenizer for fine-tuning."""
    pytest.importorskip("datasets")
    from .fine_tuning import small_tokenizer

    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def task_checkpoints(vocabulary_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of small checkpoints with random weights, by the names of transformers' pipelines."""
    from .cases import small_config, spread

    heads = {
        "fill-mask": longformer_plus.LongformerPlusForMaskedLM,
        "question-answering": longformer_plus.LongformerPlusForQuestionAnswering,
        "text-classification": longformer_plus.LongformerPlusForSequenceClassification,
        "token-classification": longformer_plus.LongformerPlusForTokenClassification,
    }
    tokenizer = longformer_plus.LongformerPlusTokenizer.from_pretrained(vocabulary_folder)
    folders = {}
    for task, head in heads.items():
        folders[task] = tmp_path_factory.mktemp(task)
        config = small_config(vocab_size=len(tokenizer), max_position_embeddings=202, attention_window=[8, 16])
        spread(head(config)).save_pretrained(folders[task])
        tokenizer.save_pretrained(folders[task])
    return folders
