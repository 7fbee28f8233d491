"""Every command line of the README and the guides runs on small files and models that have the pages' names."""

from __future__ import annotations

import json
import lzma
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from longformer_plus import (
    LongformerPlusForMaskedLM,
    LongformerPlusForQuestionAnswering,
    LongformerPlusForSequenceClassification,
    LongformerPlusTokenizer,
    cli,
)

from ..cases import small_config, spread
from ..conversion.test_to_long import short_model
from ..fine_tuning import rows, write_rows
from ..integrations.data.test_formats import as_pdf
from .test_commands import COMMAND, PAGES

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
# What makes a command short: the last of two equal options counts.
SHORTER = {
    "train": ["--max-steps", "2", "--batch", "2", "--max-length", "64"],
    "evaluate": ["--batch", "2"],
    "tokenizer": ["--size", "300"],
    "bench": ["--lengths", "64", "--layers", "1", "--repeats", "1"],
    "export": ["--overwrite"],
    "convert": ["--overwrite"],
}
# What a page leaves to the reader, and its place here.
NAMES = {"SOURCE": "my-longformer", "OUTPUT": "output", "$BASE": "my-longformer"}
PAGES_WITH_COMMANDS = [page for page in PAGES if COMMAND.search(page.read_text())]


def prepare(folder: Path, tokenizer: LongformerPlusTokenizer) -> None:
    """The models and files that the pages name."""
    config = small_config(vocab_size=len(tokenizer), max_position_embeddings=4098, attention_window=[8, 8])
    models: dict[str, Any] = {
        "my-longformer": LongformerPlusForMaskedLM,
        "my-answers": LongformerPlusForQuestionAnswering,
        "classifier": LongformerPlusForSequenceClassification,
    }
    for name, head in models.items():
        spread(head(config)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    roberta = folder / "FacebookAI" / "xlm-roberta-base"
    short_model("xlm-roberta", "ForMaskedLM", vocab_size=len(tokenizer)).save_pretrained(roberta)
    fields = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40}
    positions = {"attention_window": [8], "max_position_embeddings": 130}
    (folder / "config.json").write_text(json.dumps({**fields, **positions, "model_type": "longformer_plus"}))
    for name, task in {
        "movie_reviews.train": "text-classification",
        "movie_reviews.test": "text-classification",
        "train": "text-classification",
        "test": "text-classification",
        "novels": "fill-mask",
        "textbooks": "fill-mask",
    }.items():
        path = Path(write_rows(folder / f"{name}.jsonl", rows(task)))
        (folder / f"{name}.jsonl.xz").write_bytes(lzma.compress(path.read_bytes()))
    for place in (
        "letters/1.txt",
        "documents/train/a/1.txt",
        "documents/train/b/2.txt",
        "documents/test/a/3.txt",
        "new/4.txt",
        "novels/5.txt",
    ):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(f"The old king walked to {place}.")
    (folder / "contracts").mkdir()
    (folder / "contracts" / "1.pdf").write_bytes(as_pdf("The contract ends in May."))
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"body": ["The river.", "An old stone."]}), folder / "articles.parquet")


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=[page.name for page in PAGES_WITH_COMMANDS])
def test_the_commands_of_a_page_run_one_after_another(
    page: Path, tokenizer: LongformerPlusTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradio = pytest.importorskip("gradio")
    pytest.importorskip("pyarrow")
    prepare(tmp_path, tokenizer)
    monkeypatch.chdir(tmp_path)
    served: list[Any] = []
    monkeypatch.setattr(gradio.Blocks, "launch", lambda *_, **__: served.append(True))
    for command in COMMAND.findall(page.read_text()):
        arguments = shlex.split(command.replace("\\\n", " "), comments=True)
        if "..." in arguments or not arguments:
            continue
        # The page's cluster is the reader's.
        if "--ray-address" in arguments or ("ray" in arguments and find_spec("ray") is None):
            continue
        arguments = [NAMES.get(argument, argument) for argument in arguments]
        if "--output" in arguments and "--resume" not in arguments:
            shutil.rmtree(arguments[arguments.index("--output") + 1], ignore_errors=True)
        status = cli.main(arguments + SHORTER.get(arguments[0], []))
        assert status == 0, command
    assert len(served) == len(re.findall(r"longformer-plus demo", page.read_text()))
