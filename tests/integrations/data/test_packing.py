"""Rows packed full of documents: which text they hold, and how they are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from longformer_plus import LongformerPlusTokenizer

pytest.importorskip("datasets")
from longformer_plus.integrations.data.packing import PackedDocuments, TextSource

from ...fine_tuning import rows, write_rows


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[TextSource]:
    """Ten short texts of words, and one long one of numbers."""
    folder = tmp_path_factory.mktemp("sources")
    long = [{"text": " ".join(str(number) for number in range(5000))}]
    files = {"short": rows("fill-mask", 10, length=15), "long": long}
    return [TextSource(write_rows(folder / f"{name}.jsonl", lines)) for name, lines in files.items()]


def test_rows_are_full_and_documents_apart(sources: list[TextSource], tokenizer: LongformerPlusTokenizer) -> None:
    packed = PackedDocuments(sources, tokenizer, 150, 40)
    for row in packed:
        ids, numbers = np.array(row["input_ids"]), np.array(row["document_ids"])
        assert len(ids) == len(numbers) == 150
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        assert (np.diff(numbers) >= 0).all()
        assert (ids[starts] == tokenizer.cls_token_id).all()
        assert (ids[starts[1:] - 1] == tokenizer.sep_token_id).all()
        assert tokenizer.pad_token_id not in ids
    with pytest.raises(IndexError):
        packed[40]


def test_a_row_depends_on_seed_and_number_only(sources: list[TextSource], tokenizer: LongformerPlusTokenizer) -> None:
    packed = PackedDocuments(sources, tokenizer, 64, 10)
    again = PackedDocuments(sources, tokenizer, 64, 100)
    assert [again[index] for index in (7, 3)] == [packed[index] for index in (7, 3)]
    assert packed[3]["input_ids"] != packed[4]["input_ids"]
    assert packed[3]["input_ids"] != PackedDocuments(sources, tokenizer, 64, 10, seed=1)[3]["input_ids"]


def test_sources_are_balanced_by_weight(sources: list[TextSource], tokenizer: LongformerPlusTokenizer) -> None:
    def share_of_numbers(weights: list[float] | None) -> float:
        packed = PackedDocuments(sources, tokenizer, 64, 300, weights)
        return float(np.mean([any(map(str.isdigit, tokenizer.decode(row["input_ids"]))) for row in packed]))

    assert share_of_numbers([3, 1]) == pytest.approx(0.25, abs=0.08)
    sizes = [source.num_characters for source in sources]
    assert share_of_numbers(None) == pytest.approx(sizes[1] / sum(sizes), abs=0.05)
    with pytest.raises(ValueError, match=r"weights=\[1\] is not allowed"):
        PackedDocuments(sources, tokenizer, 64, 1, [1])


def test_all_of_a_long_text_is_drawn(sources: list[TextSource]) -> None:
    random = np.random.default_rng(0)
    drawn = np.zeros(5000)
    for _ in range(2000):
        words = sources[1].draw(600, random).split()
        assert len(" ".join(words)) <= 600
        drawn[[int(word) for word in words[:-1]]] += 1
    assert (drawn[:4900] > 0).all()
    middle = drawn[200:4800]
    assert middle.max() < 3 * middle.mean()


def test_wrong_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 2: 'text' is empty"):
        TextSource(write_rows(tmp_path / "bad.jsonl", [{"text": "x"}, {"text": ""}]))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    assert TextSource(write_rows(path, [{"text": "first"}]))[0] == "first"
    assert TextSource(write_rows(path, [{"text": "second"}]))[0] == "second"
