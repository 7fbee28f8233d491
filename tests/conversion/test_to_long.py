"""Short models of every architecture made long: the same outputs, saved, trained, and converted back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, RobertaTokenizer

from longformer_plus import LongformerPlusModel, LongformerPlusTokenizer
from longformer_plus.conversion import convert_to_long, convert_to_short, extend_positions

from ..cases import small_config, spread

SHORT = 40  # tokens
TYPES = {
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "bert": "Bert",
    "electra": "Electra",
}
HEADS = {
    "Model": "AutoModel",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForMultipleChoice": "AutoModelForMultipleChoice",
}
PAIRS = [(kind, head) for kind in TYPES for head in HEADS if (kind, head) != ("electra", "ForSequenceClassification")]


def short_model(kind: str, head: str, **changes: Any) -> PreTrainedModel:
    """A small model of transformers with random weights far from their initialisation."""
    fields: dict[str, Any] = {
        "vocab_size": 60,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": SHORT if kind in ("bert", "electra") else SHORT + 2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-6,
        "sep_token_id": 2,
        "num_labels": 2 if head == "ForQuestionAnswering" else 3,
        "type_vocab_size": 2,
    }
    if kind == "electra":
        fields |= {"embedding_size": 24, "summary_activation": "tanh"}
    torch.manual_seed(0)
    model_class = getattr(transformers, TYPES[kind] + head)
    return spread(model_class(AutoConfig.for_model(kind, **{**fields, **changes}))).eval()


def inputs_for(head: str, tokens: int = SHORT) -> dict[str, torch.Tensor]:
    """Two rows, the second padded on the right, with the separators that the policies look for."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (2, tokens), generator=generator)
    ids[:, 0] = 4
    ids[:, [6, 7, -9]] = 2
    mask = torch.ones_like(ids)
    mask[1, -8:] = 0
    types = torch.zeros_like(ids)
    types[:, 8:] = 1
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    if head == "ForMultipleChoice":
        inputs = {name: tensor[:, None].repeat(1, 2, 1) for name, tensor in inputs.items()}
        inputs["input_ids"][:, 1, 10:12] = 9
    return inputs


def pad_with(inputs: dict[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    ids = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, model.config.pad_token_id)
    return {**inputs, "input_ids": ids}


def compare(have: Any, want: Any, inputs: dict[str, torch.Tensor]) -> None:
    """Every output that both have, where tokens are valid."""
    valid = inputs["attention_mask"].bool()
    compared = 0
    for name in ("logits", "start_logits", "end_logits", "last_hidden_state", "pooler_output"):
        if have.get(name) is not None and want.get(name) is not None:
            ours, theirs = have[name], want[name]
            if ours.shape[:2] == valid.shape:
                ours, theirs = ours[valid], theirs[valid]
            torch.testing.assert_close(ours, theirs, atol=1e-5 * max(1.0, theirs.abs().max().item()), rtol=0)
            compared += 1
    assert compared


@pytest.mark.parametrize(
    ("kind", "head"),
    # Kinds have other embeddings, and heads other names of weights: all kinds with one head, all heads with one kind.
    [
        pytest.param(*pair, marks=[] if pair[0] == "roberta" or pair[1] == "ForMaskedLM" else pytest.mark.slow)
        for pair in PAIRS
    ],
)
def test_long_equals_short_and_goes_back(kind: str, head: str, tmp_path: Path) -> None:
    short = short_model(kind, head)
    inputs = pad_with(inputs_for(head), short)
    expected = short(**inputs)
    short.save_pretrained(tmp_path / "short")

    long = convert_to_long(tmp_path / "short", attention_window=2 * SHORT, max_length=100, save_to=tmp_path / "long")
    again = getattr(transformers, HEADS[head]).from_pretrained(tmp_path / "long")
    assert type(again) is type(long)
    assert type(long).__name__ == f"LongformerPlus{head}"
    for model in (convert_to_long(short, 2 * SHORT, 100), long, again):
        assert model.config.max_tokens == 100
        compare(model(**inputs), expected, inputs)

    # Gradients reach every parameter, and a step of training changes the outputs.
    outputs = again.train()(**inputs, output_hidden_states=False)
    sum(value.square().sum() for value in outputs.values() if isinstance(value, torch.Tensor)).backward()
    assert all(parameter.grad is not None for parameter in again.parameters())
    torch.optim.SGD(again.parameters(), lr=1e-3).step()
    assert not torch.allclose(again(**inputs)[0], outputs[0])

    back = convert_to_short(tmp_path / "long", kind, SHORT, save_to=tmp_path / "back")
    reloaded = type(short).from_pretrained(tmp_path / "back")
    for model in (back, reloaded):
        weights = model.state_dict()
        assert weights.keys() == short.state_dict().keys()
        for name, tensor in short.state_dict().items():
            if name.endswith("position_embeddings.weight") or "padding" in name:
                assert torch.equal(weights[name][-SHORT:], tensor[-SHORT:]), name
            else:
                assert torch.equal(weights[name], tensor), name
        compare(model(**inputs), expected, inputs)


@pytest.mark.parametrize("kind", TYPES)
def test_positions_are_tiled(kind: str) -> None:
    short = short_model(kind, "Model")
    long = convert_to_long(short, 8, 3 * SHORT + 7)
    first = 0 if kind in ("bert", "electra") else 2
    old = short.get_input_embeddings() and short.embeddings.position_embeddings.weight[first:]
    new = long.get_position_embeddings().weight[long.config.pad_token_id + 1 :]
    assert len(new) == 3 * SHORT + 7
    for start in range(0, len(new), SHORT):
        assert torch.equal(new[start : start + SHORT], old[: len(new) - start])
    # Nothing is shared with the short model, nor between local and global projections.
    storages = [parameter.data_ptr() for parameter in (*short.parameters(), *long.parameters())]
    assert len(storages) == len(set(storages))


def test_window_counts_both_sides() -> None:
    long = convert_to_long(short_model("roberta", "Model"), attention_window=[4, 6], max_length=200)
    ids = torch.randint(5, 60, (1, 100), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 50] = 3
    reached = (long(ids).last_hidden_state != long(changed).last_hidden_state).any(-1)[0].nonzero()
    assert (reached.min().item(), reached.max().item()) == (45, 55)


@pytest.mark.parametrize("kind", ["roberta", "bert"])
@pytest.mark.parametrize(
    ("window", "max_length", "warned"),
    [(SHORT, 200, False), (SHORT + 2, 200, True), ([4, SHORT + 2], 200, True), (2 * SHORT, SHORT, False)],
)
def test_a_window_that_holds_positions_twice_is_warned_of(
    kind: str,
    window: int | list[int],
    max_length: int,
    warned: bool,
    warnings_of_transformers: pytest.LogCaptureFixture,
) -> None:
    convert_to_long(short_model(kind, "Model"), window, max_length)
    assert (f"wider than the {SHORT} positions" in warnings_of_transformers.text) == warned


def test_half_precision_is_kept(tmp_path: Path) -> None:
    short_model("bert", "ForMaskedLM").to(torch.bfloat16).save_pretrained(tmp_path / "short")
    convert_to_long(tmp_path / "short", 8, 100, tmp_path / "long")
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "long")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("kind", "head", "target", "left"),
    [
        ("bert", "ForPreTraining", "LongformerPlusForMaskedLM", "cls.seq_relationship.weight"),
        ("electra", "ForPreTraining", "LongformerPlusModel", "discriminator_predictions.dense.weight"),
    ],
)
def test_what_has_no_place_is_named(
    kind: str, head: str, target: str, left: str, warnings_of_transformers: pytest.LogCaptureFixture
) -> None:
    short = short_model(kind, head)
    inputs = pad_with(inputs_for(head), short)
    long = convert_to_long(short, 2 * SHORT, 100)
    assert type(long).__name__ == target
    assert left in warnings_of_transformers.text
    expected = short(**inputs, output_hidden_states=True)
    have = long(**inputs, output_hidden_states=True)
    valid = inputs["attention_mask"].bool()
    torch.testing.assert_close(have.hidden_states[-1][valid], expected.hidden_states[-1][valid], atol=1e-5, rtol=0)
    if kind == "bert":
        torch.testing.assert_close(have.logits[valid], expected.prediction_logits[valid], atol=2e-5, rtol=1e-5)


def test_untied_embeddings_stay_untied() -> None:
    for kind in TYPES:
        short = short_model(kind, "ForMaskedLM", tie_word_embeddings=False)
        long = convert_to_long(short, 2 * SHORT, 100)
        assert not torch.equal(long.get_input_embeddings().weight, long.get_output_embeddings().weight)
        inputs = pad_with(inputs_for("ForMaskedLM"), short)
        compare(long(**inputs), short(**inputs), inputs)


@pytest.mark.parametrize(
    ("kind", "head", "changes", "message"),
    [
        ("electra", "ForSequenceClassification", {}, "GELU where Longformer's has tanh.*encoder alone"),
        ("electra", "ForMultipleChoice", {"summary_activation": "gelu"}, "summary_activation='gelu'.*encoder alone"),
        ("electra", "ForMultipleChoice", {"summary_type": "mean"}, "summary_type='mean'.*encoder alone"),
        ("bert", "ForMaskedLM", {"hidden_act": "relu"}, "hidden_act='relu'.*encoder alone"),
        ("electra", "Model", {"embedding_size": 12}, "embedding_size=12.*base and large discriminators"),
        ("roberta", "Model", {"is_decoder": True}, "is_decoder=True.*is_decoder=False"),
        ("bert", "Model", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
    ],
)
def test_what_longformer_cannot_compute_is_refused(
    kind: str, head: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = short_model(kind, head, **changes)
    with pytest.raises(ValueError, match=message):
        convert_to_long(model)
    model.save_pretrained(tmp_path / "short")
    with pytest.raises(ValueError, match=message):
        convert_to_long(tmp_path / "short", save_to=tmp_path / "long")
    assert not (tmp_path / "long").exists()


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForMultipleChoice"])
def test_the_encoder_of_a_head_that_is_refused(head: str, tmp_path: Path) -> None:
    refused = short_model("electra", head, summary_activation="gelu")
    refused.save_pretrained(tmp_path)
    short = transformers.ElectraModel.from_pretrained(tmp_path)
    inputs = pad_with(inputs_for("Model"), short)
    compare(convert_to_long(short, 2 * SHORT, 100)(**inputs), refused.electra(**inputs), inputs)


def test_arguments_and_models_that_are_not_allowed(tmp_path: Path) -> None:
    short = short_model("roberta", "Model")
    with pytest.raises(ValueError, match="at least 40"):
        convert_to_long(short, 8, 39)
    with pytest.raises(ValueError, match="attention_window=7"):
        convert_to_long(short, 7, 100)
    with pytest.raises(TypeError, match="Merge adapters"):
        convert_to_long(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="LongformerModel"):
        convert_to_long(transformers.LongformerModel(small_config()))
    long = convert_to_long(short, 8, 100)
    with pytest.raises(ValueError, match="model_type='gpt2'"):
        convert_to_short(long, "gpt2")
    with pytest.raises(ValueError, match="from 1 to 100"):
        convert_to_short(long, "roberta", 101)
    long.config.is_causal = True
    with pytest.raises(ValueError, match="is_causal=True"):
        convert_to_short(long, "roberta", 40)
    classifier = convert_to_long(short_model("bert", "ForSequenceClassification"), 8, 100)
    with pytest.raises(ValueError, match="no head"):
        convert_to_short(classifier, "electra", 40)


def test_the_tokenizer_comes_along(tmp_path: Path, vocabulary_folder: Path) -> None:
    tokenizer = RobertaTokenizer.from_pretrained(vocabulary_folder, model_max_length=SHORT)
    tokenizer.save_pretrained(tmp_path / "short")
    short_model("roberta", "ForMaskedLM", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "short")
    convert_to_long(tmp_path / "short", 8, 100, tmp_path / "long")
    ours = AutoTokenizer.from_pretrained(tmp_path / "long")
    assert type(ours) is LongformerPlusTokenizer
    assert ours.model_max_length == 100
    text = "A long document, Ünïcödé and <mask>.\n And more " * 3
    assert ours(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert ours(text, global_attention="cls")["global_attention_mask"][:2] == [1, 0]

    convert_to_short(tmp_path / "long", "roberta", SHORT, tmp_path / "back")
    back = AutoTokenizer.from_pretrained(tmp_path / "back")
    assert type(back) is RobertaTokenizer
    assert back.model_max_length == SHORT
    assert back(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert not (tmp_path / "back" / "modeling_longformer_plus.py").exists()
    assert "auto_map" not in (tmp_path / "back" / "tokenizer_config.json").read_text()


def test_a_wordpiece_tokenizer_keeps_its_class_and_gives_the_separator(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "she"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path)
    short = short_model("bert", "ForQuestionAnswering", sep_token_id=None)
    short.save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    long = convert_to_long(tmp_path / "short", 2 * SHORT, 100, tmp_path / "long")
    assert long.config.sep_token_id == tokenizer.sep_token_id == 3
    loaded = AutoTokenizer.from_pretrained(tmp_path / "long")
    assert type(loaded) is type(tokenizer)
    assert loaded.model_max_length == 100
    inputs = dict(loaded("who", "she who she", return_tensors="pt"))
    compare(long(**inputs), short(**inputs), inputs)


@pytest.mark.parametrize("max_length", [16_384, 131_072])
def test_extended_positions(max_length: int, tmp_path: Path) -> None:
    model = spread(LongformerPlusModel(small_config(max_position_embeddings=66, attention_window=8))).eval()
    ids = torch.randint(5, 60, (1, 64), generator=torch.Generator().manual_seed(0))
    expected = model(ids).last_hidden_state
    extended = extend_positions(model, max_length, save_to=tmp_path / "extended")
    assert extended is model
    assert torch.equal(model(ids).last_hidden_state, expected)
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "extended")
    table = loaded.get_position_embeddings().weight
    assert table.shape == (max_length + 2, 24)
    assert torch.equal(table[2:66], table[66:130])
    assert loaded(ids.repeat(1, 40)).last_hidden_state.isfinite().all()
    with pytest.raises(ValueError, match=f"above {max_length}"):
        extend_positions(model, max_length)


def test_resize_position_embeddings() -> None:
    model = spread(LongformerPlusModel(small_config(max_position_embeddings=66))).eval()
    ids = torch.randint(5, 60, (1, 30), generator=torch.Generator().manual_seed(0))
    expected = model(ids).last_hidden_state
    model.get_position_embeddings().weight.requires_grad_(False)
    for rows in (200, 32):
        model.resize_position_embeddings(rows)
        assert model.config.max_position_embeddings == rows == len(model.get_position_embeddings().weight)
        assert not model.get_position_embeddings().weight.requires_grad
        assert torch.equal(model(ids).last_hidden_state, expected)
    with pytest.raises(ValueError, match="31 tokens"):
        model(torch.full((1, 31), 5))
    with pytest.raises(ValueError, match="one of 2"):
        model.resize_position_embeddings(2)


@pytest.mark.parametrize("kind", ["xlm-roberta", "camembert"])
def test_tokenizers_of_other_languages_keep_their_class(kind: str, tmp_path: Path) -> None:
    words = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁elle", "▁lit", "s", "e"]
    tokenizer_class = getattr(transformers, f"{TYPES[kind]}Tokenizer")
    tokenizer = tokenizer_class(vocab=[(word, -float(place)) for place, word in enumerate(words)])
    tokenizer.save_pretrained(tmp_path / "short")
    short_model(kind, "ForMaskedLM", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "short")
    convert_to_long(tmp_path / "short", 8, 100, tmp_path / "long")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "long")
    assert type(loaded) is tokenizer_class
    assert loaded.model_max_length == 100
    assert loaded("elle lit <mask>")["input_ids"] == tokenizer("elle lit <mask>")["input_ids"]
    assert transformers.pipeline("fill-mask", model=str(tmp_path / "long"))("elle <mask>")
