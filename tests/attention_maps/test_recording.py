"""Recording a model's attention layer by layer, words and characters, gradient x input, exports."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from longformer_plus import (
    LongformerPlusConfig,
    LongformerPlusForMaskedLM,
    LongformerPlusForSequenceClassification,
    LongformerPlusModel,
    LongformerPlusTokenizer,
)
from longformer_plus.attention_maps import (
    AttentionMaps,
    DocumentMaps,
    Units,
    Words,
    attention_maps,
    by_character,
    for_bertviz,
    gradient_times_input,
    record,
    show,
    to_html,
    to_numpy,
    to_pandas,
    unit_attention,
)

from ..cases import small_config, spread

TEXT = "The captain's ship, at sea: “weathered” a storm. </script><script>alert(1)</script> 船長 said so."


@pytest.fixture(scope="module")
def tokenizer(vocabulary_folder: Path) -> LongformerPlusTokenizer:
    return LongformerPlusTokenizer.from_pretrained(vocabulary_folder)


@pytest.fixture(scope="module")
def model(tokenizer: LongformerPlusTokenizer) -> nn.Module:
    config = small_config(vocab_size=len(tokenizer), attention_window=[4, 8])
    return spread(LongformerPlusForMaskedLM(config)).eval()


@pytest.fixture(scope="module")
def document(model: nn.Module, tokenizer: LongformerPlusTokenizer) -> DocumentMaps:
    return attention_maps(model, tokenizer, TEXT, global_positions=[0, 5], bits=32)


def test_recording_gives_what_the_model_returns(model: nn.Module, document: DocumentMaps) -> None:
    ids = torch.tensor([document.maps.num_tokens * [7]])
    inputs = {"input_ids": ids, "global_attention_mask": torch.zeros_like(ids)}
    inputs["global_attention_mask"][0, 3] = 1
    outputs, maps = record(model, inputs, bits=32)
    with torch.no_grad():
        expected = model(**inputs, output_attentions=True)
    torch.testing.assert_close(outputs.logits, expected.logits)
    assert outputs.attentions is None
    theirs = AttentionMaps.from_outputs(
        expected, model.config, global_attention_mask=inputs["global_attention_mask"], bits=32
    )
    torch.testing.assert_close(maps.dense(), theirs.dense())


def test_recording_leaves_the_model_as_it_was(model: nn.Module) -> None:
    def hooks() -> list[int]:
        attentions = [layer.attention.self for layer in model.longformer.encoder.layer]
        return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in attentions]

    ids = torch.full((1, 9), 7)
    model(ids)  # transformers puts hooks of its own there at the first call
    before = hooks()
    model.train()
    record(model, {"input_ids": ids})
    assert model.training
    model.eval()
    assert hooks() == before
    assert model(ids).attentions is None


def test_no_layer_is_held_in_full(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a layer is packed, the weights of those before it are gone."""
    import weakref

    from longformer_plus.attention_maps import recording

    alive: list[int] = []
    seen: list[weakref.ref] = []
    build = recording.LayerMaps.build

    def watch(local: torch.Tensor, *rest: object) -> object:
        base = local if local._base is None else local._base
        alive.append(sum(reference() is not None for reference in seen))
        seen.append(weakref.ref(base))
        return build(local, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(recording.LayerMaps, "build", watch)
    record(model, {"input_ids": torch.full((1, 9), 7)})
    assert alive == [0, 0]


def test_the_policy_of_a_head_chooses(tokenizer: LongformerPlusTokenizer) -> None:
    classifier = LongformerPlusForSequenceClassification(small_config(vocab_size=len(tokenizer)))
    assert attention_maps(classifier, tokenizer, TEXT).maps.layout.global_positions.tolist() == [0]
    assert attention_maps(classifier, tokenizer, TEXT, "none").maps.layout.global_positions.tolist() == []
    last = attention_maps(classifier, tokenizer, TEXT, "separators").maps
    assert last.layout.global_positions.tolist() == [last.num_tokens - 1]


def test_long_documents_are_cut(tokenizer: LongformerPlusTokenizer) -> None:
    model = LongformerPlusModel(small_config(vocab_size=len(tokenizer), max_position_embeddings=30))
    assert attention_maps(model, tokenizer, TEXT * 20).maps.num_tokens == 28


def test_wrong_input_is_refused(model: nn.Module, tokenizer: LongformerPlusTokenizer) -> None:
    with pytest.raises(ValueError, match="text is empty"):
        attention_maps(model, tokenizer, " \n")
    with pytest.raises(ValueError, match=r"positions \[900\]"):
        attention_maps(model, tokenizer, TEXT, global_positions=[900])
    with pytest.raises(ValueError, match="Leave one of them out"):
        attention_maps(model, tokenizer, TEXT, "cls", [0])
    with pytest.raises(ValueError, match=r"shape \(2, 9\)"):
        record(model, {"input_ids": torch.full((2, 9), 7)})
    with pytest.raises(ValueError, match="no LongformerPlus model"):
        record(nn.Linear(2, 2), {"input_ids": torch.full((1, 9), 7)})


def test_tokens_say_what_they_stand_for(document: DocumentMaps) -> None:
    assert document.tokens[0] == "<s>"
    assert document.tokens[-1] == "</s>"
    assert document.tokens[1] == "The"
    assert len(document.tokens) == document.maps.num_tokens == len(document.offsets)


def test_tokens_become_words(document: DocumentMaps) -> None:
    words = document.words
    texts = [TEXT[start:stop] for start, stop in words.spans]
    assert texts[:5] == ["", "The", "captain's", "ship", ","]
    assert "船長" in texts
    assert texts[-1] == ""
    dense = document.maps.mean()
    merged = words.merge(dense)
    torch.testing.assert_close(merged.sum(-1), torch.ones(words.num_words))
    captain = (words.word_of_token == 2).nonzero()[:, 0]
    torch.testing.assert_close(merged[1, 2], dense[1, captain].sum())
    torch.testing.assert_close(merged[2, 1], dense[captain, 1].mean())


def test_words_of_given_offsets() -> None:
    words = Words.find("it's  a well-known “x”!", [(0, 0), (0, 2), (2, 4), (5, 6), (6, 7), (8, 12), (12, 18), (19, 23)])
    assert words.word_of_token.tolist() == [0, 1, 1, 2, 3, 4, 4, 5]
    assert words.spans == [(0, 0), (0, 4), (5, 6), (6, 7), (8, 18), (19, 20)]


def test_weights_are_spread_over_characters() -> None:
    weights = by_character(torch.tensor([5.0, 1.0, 3.0, 2.0]), [(0, 0), (0, 2), (3, 6), (5, 6)], 7)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5, 0, 1, 1, 3, 0]))


def test_gradient_times_input_is_the_change_along_the_embedding() -> None:
    config = LongformerPlusConfig(
        vocab_size=50,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=16,
        max_position_embeddings=80,
        attention_window=4,
    )
    model = spread(LongformerPlusForSequenceClassification(config)).double().eval()
    ids = torch.randint(3, 50, (1, 20))
    inputs = {"input_ids": ids, "global_attention_mask": torch.zeros_like(ids)}
    importance = gradient_times_input(model, inputs, lambda outputs: outputs.logits[0, 1])
    embeddings = model.get_input_embeddings()(ids).detach()
    step = torch.zeros_like(embeddings)
    step[0, 6] = embeddings[0, 6] * 1e-5
    with torch.no_grad():
        up, down = (
            model(inputs_embeds=embeddings + sign * step, global_attention_mask=inputs["global_attention_mask"]).logits[
                0, 1
            ]
            for sign in (1, -1)
        )
    assert float(importance[6]) == pytest.approx(float((up - down) / 2e-5), rel=1e-4)
    with pytest.raises(ValueError, match="one number"):
        gradient_times_input(model, inputs, lambda outputs: outputs.logits)
    with pytest.raises(ValueError, match="one document"):
        gradient_times_input(model, {"input_ids": ids.expand(2, -1)}, lambda outputs: outputs.logits[0, 1])


def test_export_to_numpy_and_bertviz(document: DocumentMaps) -> None:
    maps = document.maps
    assert (to_numpy(maps, 1, 2, [3]) == maps.dense(1, 2, 3).numpy()).all()
    stretch = for_bertviz(document, 2, 12)
    assert len(stretch["attention"]) == maps.num_layers
    assert stretch["attention"][0].shape == (1, maps.num_heads, 10, 10)
    assert stretch["tokens"] == document.tokens[2:12]
    torch.testing.assert_close(stretch["attention"][1][0], maps.dense(1, None, slice(2, 12), slice(2, 12))[0])


def test_export_to_pandas(document: DocumentMaps) -> None:
    pytest.importorskip("pandas")
    table = to_pandas(document, layers=1, rows=[4, 5], minimum=0.05)
    dense = document.maps.dense(1, None, [4, 5])[0]
    assert len(table) == int((dense >= 0.05).sum())
    for line in table.itertuples():
        assert line.weight == pytest.approx(float(dense[line.head, line.query - 4, line.key]))
        assert line.offset == line.key - line.query
        assert line.is_global == (line.query == 5 or line.key in (0, 5))
        assert line.key_token == document.tokens[line.key]
    assert to_pandas(document, minimum=2.0).empty


def test_export_to_html_holds_everything_and_runs_nothing_of_the_text(document: DocumentMaps) -> None:
    page = to_html(document, layers=0, title="<b>A & B</b>")
    assert "<title>&lt;b&gt;A &amp; B&lt;/b&gt;</title>" in page
    assert "alert(1)</script>" not in page
    assert not re.search(r"{{ \w+ }}", page)
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert data["text"] == TEXT
    assert data["global"] == [0, 5]
    row = document.maps.mean(0, None, 9)[0]
    assert data["weights"][9] == pytest.approx(row.sort(descending=True).values[:12].tolist(), abs=1e-5)
    assert row[data["links"][9][0]] == pytest.approx(data["weights"][9][0], abs=1e-5)


def test_a_question_and_a_passage_are_two_parts_of_one_document(
    model: nn.Module, tokenizer: LongformerPlusTokenizer
) -> None:
    pair = attention_maps(model, tokenizer, "Whose ship?", second_text=TEXT, global_attention="cls", bits=32)
    assert pair.text == f"Whose ship?\n\n{TEXT}"
    encoding = tokenizer("Whose ship?", TEXT, return_tensors="pt")
    assert pair.parts == [-1 if part is None else part for part in encoding.sequence_ids(0)]
    question = [token for token, part in zip(pair.tokens, pair.parts, strict=True) if part == 0]
    assert "".join(question).replace(" ", "") == "Whoseship?"
    # From the question to the passage, and back.
    flow = unit_attention(pair.maps, Units.of(pair.parts))
    dense, parts = pair.maps.mean(), torch.tensor(pair.parts)
    units = [pair.parts[start] for start, _ in Units.of(pair.parts).spans]
    for one, other in ((0, 1), (1, 0)):
        expected = dense[parts == one][:, parts == other].sum(1).mean()
        assert float(flow[units.index(one), units.index(other)]) == pytest.approx(float(expected), abs=1e-6)
    with pytest.raises(ValueError, match="text is empty"):
        attention_maps(model, tokenizer, "Whose?", second_text=" ")


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(document: DocumentMaps) -> None:
    shown = show(document, layers=0, height=500)._repr_html_()
    assert shown.count("<iframe") == shown.count("</iframe>") == 1
    assert "500px" in shown
    frame = re.search(r'srcdoc="([^"]*)"', shown)
    assert frame is not None
    assert html.unescape(frame[1]) == to_html(document, layers=0)
    with pytest.raises(ValueError, match="height=0"):
        show(document, height=0)
