"""The tokenizer is RoBERTa's, and can make the global attention mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, RobertaTokenizer

from longformer_plus import LongformerPlusConfig, LongformerPlusTokenizer

TEXT = st.text(max_size=60)
PROFILE = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def pairs(vocabulary_folder: Path) -> dict[tuple[bool, bool], tuple[Any, Any]]:
    """Ours and transformers' for each `add_prefix_space` and `trim_offsets`."""
    return {
        (prefix, trim): tuple(
            cls.from_pretrained(vocabulary_folder, add_prefix_space=prefix, trim_offsets=trim)
            for cls in (LongformerPlusTokenizer, RobertaTokenizer)
        )
        for prefix in (False, True)
        for trim in (False, True)
    }


@pytest.fixture
def tokenizer(pairs: dict) -> LongformerPlusTokenizer:
    return pairs[False, True][0]


@PROFILE
@given(text=TEXT, second=st.one_of(st.none(), TEXT), prefix=st.booleans(), trim=st.booleans(), special=st.booleans())
def test_ids_and_offsets_are_those_of_roberta(
    pairs: dict, text: str, second: str | None, prefix: bool, trim: bool, special: bool
) -> None:
    ours, theirs = pairs[prefix, trim]
    options = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "add_special_tokens": special}
    want, have = theirs(text, second, **options), ours(text, second, **options)
    assert dict(have) == dict(want)
    assert have.word_ids() == want.word_ids()
    assert ours.decode(have["input_ids"]) == theirs.decode(want["input_ids"])


@PROFILE
@given(words=st.lists(TEXT.filter(bool), min_size=1, max_size=8))
def test_pre_split_words(pairs: dict, words: list[str]) -> None:
    ours, theirs = pairs[True, True]
    options = {"is_split_into_words": True, "return_offsets_mapping": True}
    assert dict(ours(words, **options)) == dict(theirs(words, **options))
    assert ours(words, **options).word_ids() == theirs(words, **options).word_ids()


def test_formats(tokenizer: LongformerPlusTokenizer) -> None:
    single = tokenizer.convert_ids_to_tokens(tokenizer("a")["input_ids"])
    assert (single[0], single[-1]) == ("<s>", "</s>")
    pair = tokenizer.convert_ids_to_tokens(tokenizer("a", "b")["input_ids"])
    assert pair == ["<s>", "a", "</s>", "</s>", "b", "</s>"]


@pytest.mark.parametrize("path", ["files", "table"])
def test_from_files_and_tables(vocabulary_folder: Path, tokenizer: LongformerPlusTokenizer, path: str) -> None:
    files = str(vocabulary_folder / "vocab.json"), str(vocabulary_folder / "merges.txt")
    if path == "files":
        other = LongformerPlusTokenizer(vocab=files[0], merges=files[1])
    else:
        from tokenizers.models import BPE

        vocab, merges = BPE.read_file(*files)
        other = LongformerPlusTokenizer(vocab=vocab, merges=merges)
    text = "It's a long, long document. Ünïcödé 日本"
    assert other(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("with_model", [False, True])
def test_auto_tokenizer_gives_it_for_what_was_saved(
    tokenizer: LongformerPlusTokenizer, tmp_path: Path, with_model: bool
) -> None:
    if with_model:
        LongformerPlusConfig().save_pretrained(tmp_path)
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is LongformerPlusTokenizer
    assert loaded.model_max_length == 77
    text = "Hello <mask> world </s>  é"
    assert dict(loaded(text, return_offsets_mapping=True)) == dict(tokenizer(text, return_offsets_mapping=True))


def test_global_attention_mask_is_cut_and_padded_with_the_rest(tokenizer: LongformerPlusTokenizer) -> None:
    questions, documents = ["who? who?", "a"], ["she " * 30, "b"]
    plain = tokenizer(questions, documents, truncation=True, max_length=16)
    assert "global_attention_mask" not in plain
    rows = tokenizer(questions, documents, truncation=True, max_length=16, global_attention="question")
    for ids, mask in zip(rows["input_ids"], rows["global_attention_mask"], strict=True):
        first = ids.index(tokenizer.sep_token_id)
        assert mask == [1] * first + [0] * (len(ids) - first)
    for side in ("left", "right"):
        batch = tokenizer(
            questions,
            documents,
            truncation=True,
            max_length=16,
            padding="max_length",
            padding_side=side,
            return_tensors="pt",
            global_attention="question",
        )
        padded = tokenizer.pad(rows, padding="max_length", max_length=16, padding_side=side, return_tensors="pt")
        assert batch.keys() == padded.keys()
        for name, tensor in batch.items():
            torch.testing.assert_close(padded[name], tensor)
        assert not (batch["global_attention_mask"] * (1 - batch["attention_mask"])).any()


def test_pad_of_a_ragged_list_of_examples(tokenizer: LongformerPlusTokenizer) -> None:
    examples = [tokenizer(text, global_attention="cls") for text in ("one", "one two three four")]
    batch = tokenizer.pad(examples, return_tensors="pt", pad_to_multiple_of=8)
    assert batch["global_attention_mask"].shape == batch["input_ids"].shape
    assert batch["global_attention_mask"].sum(1).tolist() == [1, 1]


def test_kinds_of_return_values(tokenizer: LongformerPlusTokenizer) -> None:
    for kind in ("pt", "np"):
        encoding = tokenizer(["a b"], return_tensors=kind, global_attention="separators")
        assert type(encoding["global_attention_mask"]) is type(encoding["input_ids"])
    without_mask = tokenizer(["a b", "a"], padding=True, return_attention_mask=False, global_attention="separators")
    assert sum(map(sum, without_mask["global_attention_mask"])) == 2
    with pytest.raises(ValueError, match="auto"):
        tokenizer("a", global_attention="auto")
    with pytest.raises(ValueError, match="sometimes"):
        tokenizer("a", global_attention="sometimes")


def test_overflowing_parts_each_have_their_mask(tokenizer: LongformerPlusTokenizer) -> None:
    parts = tokenizer(
        "who is",
        "she and he " * 20,
        truncation="only_second",
        max_length=16,
        stride=2,
        return_overflowing_tokens=True,
        global_attention="question",
    )
    assert len(parts["input_ids"]) > 2
    for ids, mask in zip(parts["input_ids"], parts["global_attention_mask"], strict=True):
        assert sum(mask) == ids.index(tokenizer.sep_token_id)


def test_a_prompt_can_be_left_open(tokenizer: LongformerPlusTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    prompts = AutoTokenizer.from_pretrained(tmp_path, close_documents=False)
    prompts.save_pretrained(tmp_path / "open")
    for each in (prompts, AutoTokenizer.from_pretrained(tmp_path / "open")):
        closed, open_ = (
            found("A long document", return_offsets_mapping=True, return_tensors=None) for found in (tokenizer, each)
        )
        assert open_["input_ids"] == closed["input_ids"][:-1]
        assert open_["offset_mapping"] == closed["offset_mapping"][:-1]
        pair = each("A long", "document")["input_ids"]
        assert pair == tokenizer("A long", "document")["input_ids"][:-1]


def test_a_mask_takes_the_space_before_it(vocabulary_folder: Path, tmp_path: Path) -> None:
    """It stands for a word with its space; as a token of its own the space would stand between word and mask."""
    tokenizer = LongformerPlusTokenizer.from_pretrained(vocabulary_folder)
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = each("she fell <mask>.")["input_ids"]
        place = ids.index(each.mask_token_id)
        assert ids[:place] == each("she fell")["input_ids"][:-1]
