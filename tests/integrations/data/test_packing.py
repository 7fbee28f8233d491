"""Rows packed full of documents: which text they hold, and how they are drawn."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, normalizers, processors

from longformer_plus import LongformerPlusTokenizer

pytest.importorskip("datasets")
from longformer_plus.integrations.data.packing import PackedDocuments, TextSource, TokenizedSource

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
    sizes = [TokenizedSource(source, tokenizer).num_tokens for source in sources]
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


def test_all_tokens_of_a_long_text_are_drawn(sources: list[TextSource], tokenizer: LongformerPlusTokenizer) -> None:
    random = np.random.default_rng(0)
    whole = tokenizer(sources[1][0], add_special_tokens=False)["input_ids"]
    source = TokenizedSource(sources[1], tokenizer)
    assert source.num_tokens == len(whole)
    stretches = {tuple(whole[start : start + 200]): start for start in range(len(whole))}
    starts = [stretches[tuple(source.draw(200, random))] for _ in range(1000)]
    drawn = np.zeros(len(whole))
    for start in starts:
        drawn[start : start + 200] += 1
    assert (drawn > 0).all()
    middle = drawn[200:-200]
    assert middle.max() < 3 * middle.mean()


def test_a_short_text_is_drawn_whole(sources: list[TextSource], tokenizer: LongformerPlusTokenizer) -> None:
    random = np.random.default_rng(0)
    texts = {sources[0][index].strip() for index in range(len(sources[0]))}
    source = TokenizedSource(sources[0], tokenizer)
    assert {tokenizer.decode(source.draw(200, random)).strip() for _ in range(200)} == texts


def test_texts_are_tokenized_once_by_each_tokenizer(
    sources: list[TextSource], tokenizer: LongformerPlusTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = TokenizedSource(sources[0], tokenizer)
    again = copy.deepcopy(tokenizer)
    again("other text", truncation=True, max_length=7, padding="max_length")
    again.backend_tokenizer.post_processor = processors.ByteLevel()
    monkeypatch.setattr(type(tokenizer), "__call__", lambda *_, **__: pytest.fail("The texts are tokenized again"))
    assert TokenizedSource(sources[0], again).num_tokens == first.num_tokens
    monkeypatch.undo()
    again.add_tokens([sources[0][0]])
    assert TokenizedSource(sources[0], again).num_tokens < first.num_tokens


def test_texts_without_a_token_are_refused(tmp_path: Path, tokenizer: LongformerPlusTokenizer) -> None:
    source = TextSource(write_rows(tmp_path / "text.jsonl", [{"text": "first"}]))
    wordless = copy.deepcopy(tokenizer)
    wordless.backend_tokenizer.normalizer = normalizers.Replace(Regex(r"[\s\S]+"), "")
    with pytest.raises(ValueError, match=r"makes no token of the texts in .*text\.jsonl"):
        TokenizedSource(source, wordless)


def test_wrong_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 2: 'text' is empty"):
        TextSource(write_rows(tmp_path / "bad.jsonl", [{"text": "x"}, {"text": ""}]))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    assert TextSource(write_rows(path, [{"text": "first"}]))[0] == "first"
    assert TextSource(write_rows(path, [{"text": "second"}]))[0] == "second"
