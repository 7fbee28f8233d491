"""Causal language modelling: the rolling cache gives what a forward over the whole document gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, DynamicCache, GenerationMixin, LongformerForMaskedLM, pipeline

import longformer_plus
from longformer_plus import (
    LongformerPlusCache,
    LongformerPlusConfig,
    LongformerPlusForCausalLM,
    LongformerPlusForMaskedLM,
    LongformerPlusModel,
    LongformerPlusTokenizer,
)

from ..cases import BACKENDS, small_config, spread

PAD = 1


def causal_model(**changes: Any) -> LongformerPlusForCausalLM:
    config = LongformerPlusConfig(**{**small_config().to_dict(), "model_type": "longformer_plus", **changes})
    torch.manual_seed(0)
    # Far from initialisation, so that guesses differ from token to token; yet not so far that one token wins always.
    return spread(LongformerPlusForCausalLM(config).eval(), scale=0.05)


def prompt(batch: int, tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 60, (batch, tokens), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    window=st.sampled_from([2, 6, 16]),
    dilation=st.sampled_from([1, 2, [1, 3, 2]]),
    pieces=st.lists(st.integers(1, 80), min_size=2, max_size=4),
    num_global=st.integers(0, 5),
    padding=st.integers(0, 20),
    on_the_left=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_pieces_with_a_cache_give_what_the_whole_document_gives(
    window: int,
    dilation: int | list[int],
    pieces: list[int],
    num_global: int,
    padding: int,
    on_the_left: bool,
    seed: int,
) -> None:
    model = causal_model(attention_window=[window, 2 * window], attention_dilation=[dilation, 1]).longformer
    tokens = sum(pieces)
    ids = prompt(2, tokens, seed)
    valid = torch.ones_like(ids)
    # In front of the first piece, or in the midst of one.
    start = 0 if on_the_left else min(pieces[0] // 2, tokens - 1)
    valid[1, start : min(start + padding, tokens - 1)] = 0
    ids[valid == 0] = PAD
    is_global = torch.zeros_like(ids)
    is_global[0, torch.randperm(pieces[0], generator=torch.Generator().manual_seed(seed))[:num_global]] = 1
    masks = {"attention_mask": valid, "global_attention_mask": is_global}
    with torch.no_grad():
        whole = model(ids, **masks, output_attentions=True)
        cache, stop = None, 0
        for piece in pieces:
            start, stop = stop, stop + piece
            # Masks of all tokens so far, and of the new ones only, mean the same.
            first = start if seed % 2 else 0
            part = model(
                ids[:, start:stop],
                **{name: mask[:, first:stop] for name, mask in masks.items()},
                past_key_values=cache,
                use_cache=True,
                output_attentions=True,
            )
            cache = part.past_key_values
            assert cache.get_seq_length() == stop
            is_token = valid[:, start:stop] > 0
            expected = whole.last_hidden_state[:, start:stop]
            torch.testing.assert_close(part.last_hidden_state[is_token], expected[is_token], atol=2e-5, rtol=1e-4)
            for ours, theirs in zip(part.attentions, whole.attentions, strict=True):
                rows = theirs[:, :, start:stop].transpose(1, 2)[is_token]
                torch.testing.assert_close(ours.transpose(1, 2)[is_token], rows, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "how",
    [{"do_sample": False}, {"do_sample": True, "top_k": 10}, {"num_beams": 3}, {"num_beams": 2, "do_sample": True}],
    ids=lambda how: "-".join(how),
)
@pytest.mark.parametrize("policy", ["none", pytest.param("cls", marks=pytest.mark.slow), [7, 9]])
def test_generation_with_and_without_cache_is_the_same(backend: str, how: dict, policy: str | list[int]) -> None:
    model = causal_model(attention_dilation=[1, [1, 2, 3]], global_attention=policy)
    model.set_attn_implementation(backend)
    ids = prompt(3, 40)
    ids[:, 3] = 7
    valid = torch.ones_like(ids)
    valid[0, :11] = valid[2, :30] = 0
    ids[valid == 0] = PAD
    generated = {}
    for use_cache in (True, False):
        torch.manual_seed(0)
        generated[use_cache] = model.generate(
            ids,
            attention_mask=valid,
            max_new_tokens=30,
            eos_token_id=None,
            pad_token_id=PAD,
            use_cache=use_cache,
            **how,
        )
    assert generated[True].shape == (3, 70)
    assert torch.equal(generated[True], generated[False])
    assert len(generated[True][:, 40:].unique()) > 4


def test_each_row_of_a_left_padded_batch_is_as_if_alone() -> None:
    model = causal_model(global_attention="cls")
    ids = prompt(2, 30)
    alone = model.generate(ids[1:, 12:], max_new_tokens=20, eos_token_id=None)
    valid = torch.ones_like(ids)
    valid[1, :12] = 0
    ids[valid == 0] = PAD
    together = model.generate(ids, attention_mask=valid, max_new_tokens=20, eos_token_id=None)
    assert torch.equal(together[1, 12:], alone[0])


def test_the_cache_does_not_grow() -> None:
    model = causal_model(attention_window=[8, 12], attention_dilation=[1, [1, 3, 1]])
    mask = torch.zeros(1, 50, dtype=torch.long)
    mask[0, :4] = 1
    out = model(prompt(1, 50), global_attention_mask=mask, use_cache=True)
    cache = out.past_key_values

    def sizes() -> list[int]:
        return [tensor.untyped_storage().nbytes() for layer in cache.layers for tensor in (layer.keys, layer.values)]

    assert [layer.keys.shape[1] for layer in cache.layers] == [4, 6 * 3]
    model(prompt(1, 1), past_key_values=cache, use_cache=True)
    before = sizes()
    for token in range(100):
        model(prompt(1, 1, seed=token), past_key_values=cache, use_cache=True)
    assert cache.get_seq_length() == 151
    assert sizes() == before
    # A long forward leaves nothing of itself behind either.
    model(prompt(1, 400), past_key_values=cache, use_cache=True)
    assert max(sizes()) <= max(before)


def test_a_prompt_in_chunks_and_a_second_turn() -> None:
    model = causal_model(global_attention="cls")
    ids = prompt(2, 70)
    expected = model.generate(ids, max_new_tokens=15, eos_token_id=None)
    chunked = model.generate(ids, max_new_tokens=15, eos_token_id=None, prefill_chunk_size=16)
    assert torch.equal(chunked, expected)
    first = model.generate(
        ids,
        max_new_tokens=5,
        eos_token_id=None,
        return_dict_in_generate=True,
        past_key_values=LongformerPlusCache(model.config),
    )
    again = model.generate(first.sequences, past_key_values=first.past_key_values, max_new_tokens=10, eos_token_id=None)
    assert torch.equal(again, expected)


def test_embeddings_as_a_prompt() -> None:
    model = causal_model()
    ids = prompt(2, 20)
    expected = model.generate(ids, max_new_tokens=10, eos_token_id=None)[:, 20:]
    embeds = model.get_input_embeddings()(ids)
    assert torch.equal(model.generate(inputs_embeds=embeds, max_new_tokens=10, eos_token_id=None), expected)


def test_the_loss_predicts_each_token_from_the_one_before() -> None:
    model = causal_model()
    ids = prompt(2, 25)
    logits = model(ids).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 60), ids[:, 1:].reshape(-1))
    torch.testing.assert_close(model(ids, labels=ids).loss, expected)
    # Later tokens change nothing before them.
    changed = ids.clone()
    changed[:, 15:] = 5
    torch.testing.assert_close(model(changed).logits[:, :15], logits[:, :15])
    kept = model(ids, logits_to_keep=3).logits
    torch.testing.assert_close(kept, logits[:, -3:])


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_loss_of_padded_and_of_packed_documents_is_that_of_each_alone(side: str) -> None:
    model = causal_model()
    ids = prompt(2, 25)
    lengths = [25, 14]
    alone = [
        model(ids[row : row + 1, :n], labels=ids[row : row + 1, :n]).loss * (n - 1) for row, n in enumerate(lengths)
    ]
    expected = sum(alone) / (24 + 13)

    padded = torch.full((2, 25), PAD)
    valid = torch.zeros_like(padded)
    for row, length in enumerate(lengths):
        place = slice(25 - length, 25) if side == "left" else slice(0, length)
        padded[row, place], valid[row, place] = ids[row, :length], 1
    labels = padded.masked_fill(valid == 0, -100)
    torch.testing.assert_close(model(padded, attention_mask=valid, labels=labels).loss, expected)

    packed = torch.cat([ids[0], ids[1, :14]])[None]
    documents = torch.tensor([[0] * 25 + [1] * 14])
    torch.testing.assert_close(model(packed, document_ids=documents, labels=packed).loss, expected)
    flattened = model(packed, cu_seq_lens_q=torch.tensor([0, 25, 39]), labels=packed)
    torch.testing.assert_close(flattened.loss, expected)


def test_a_masked_checkpoint_starts_a_causal_model(tmp_path: Any) -> None:
    theirs = LongformerForMaskedLM(small_config())
    theirs.save_pretrained(tmp_path / "theirs")
    longformer_plus.register_for_longformer()
    try:
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    finally:
        longformer_plus.unregister_for_longformer()
    assert isinstance(model, LongformerPlusForCausalLM)
    assert model.config.is_causal
    assert torch.equal(model.lm_head.dense.weight, theirs.lm_head.dense.weight)
    model.save_pretrained(tmp_path / "ours")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    ids = prompt(1, 20)
    torch.testing.assert_close(loaded(ids).logits, model.eval()(ids).logits)
    # The configuration that was given is left alone.
    config = LongformerPlusConfig(**{**small_config().to_dict(), "model_type": "longformer_plus"})
    LongformerPlusForCausalLM(config)
    assert not config.is_causal


def test_the_text_generation_pipeline(tmp_path: Any, vocabulary_folder: Any) -> None:
    tokenizer = LongformerPlusTokenizer(str(vocabulary_folder / "vocab.json"), str(vocabulary_folder / "merges.txt"))
    causal_model(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    generate = pipeline("text-generation", model=str(tmp_path))
    texts = ["A long document", "Another document, which is longer than the first"]
    results = generate(texts, max_new_tokens=8, do_sample=False, batch_size=2)
    for text, result in zip(texts, results, strict=True):
        assert result[0]["generated_text"].startswith(text)
        assert len(result[0]["generated_text"]) > len(text)
        alone = generate(text, max_new_tokens=8, do_sample=False)
        assert alone[0]["generated_text"] == result[0]["generated_text"]


def test_gradients_reach_every_parameter() -> None:
    model = causal_model(global_attention="cls").train()
    ids = prompt(2, 30)
    model(ids, labels=ids).loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_gradient_checkpointing_goes_without_a_cache(warnings_of_transformers: pytest.LogCaptureFixture) -> None:
    model = causal_model().train()
    model.gradient_checkpointing_enable()
    ids = prompt(1, 20)
    out = model(ids, labels=ids, use_cache=True)
    out.loss.backward()
    assert out.past_key_values is None
    assert "goes with no cache" in warnings_of_transformers.text


def test_generation_overrides_nothing_private_of_transformers() -> None:
    own = [name for name in vars(LongformerPlusForCausalLM) if name.startswith("_") and not name.startswith("__")]
    assert not [name for name in own if hasattr(GenerationMixin, name)]


def test_positions_of_a_prompt_can_be_given() -> None:
    model = causal_model()
    ids = prompt(1, 12)
    positions = torch.arange(5, 5 + 12)[None]
    expected = ids
    for step in range(6):
        logits = model(expected, position_ids=torch.arange(5, 5 + 12 + step)[None]).logits
        expected = torch.cat([expected, logits[:, -1:].argmax(-1)], dim=1)
    for use_cache in (True, False):
        generated = model.generate(
            ids, position_ids=positions, max_new_tokens=6, eos_token_id=None, use_cache=use_cache
        )
        assert torch.equal(generated, expected)


class TestErrors:
    def test_another_models_cache(self) -> None:
        with pytest.raises(TypeError, match="DynamicCache is not allowed: pass a LongformerPlusCache"):
            causal_model()(prompt(1, 5), past_key_values=DynamicCache())

    def test_a_model_that_is_not_causal(self) -> None:
        model = LongformerPlusForMaskedLM(small_config())
        with pytest.raises(ValueError, match="is_causal=False goes with no cache"):
            model(prompt(1, 5), use_cache=True)
        with pytest.raises(ValueError, match="causal model only"):
            model(prompt(1, 5), past_key_values=LongformerPlusCache(causal_model().config))

    def test_global_tokens_after_the_first_forward(self) -> None:
        model: LongformerPlusModel = causal_model().longformer
        cache = model(prompt(1, 5), use_cache=True).past_key_values
        with pytest.raises(ValueError, match="only those of its first forward can"):
            model(prompt(1, 1), global_attention_mask=torch.ones(1, 1), past_key_values=cache)

    def test_other_rows(self) -> None:
        model: LongformerPlusModel = causal_model().longformer
        cache = model(prompt(2, 5), use_cache=True).past_key_values
        with pytest.raises(ValueError, match="3 rows, but past_key_values has 2"):
            model(prompt(3, 1), past_key_values=cache)

    def test_several_documents_in_a_row(self) -> None:
        with pytest.raises(ValueError, match="a row with a cache is one document"):
            causal_model()(prompt(1, 4), document_ids=torch.tensor([[0, 0, 1, 1]]), use_cache=True)

    def test_more_tokens_than_positions(self) -> None:
        model = causal_model(max_position_embeddings=30)
        with pytest.raises(ValueError, match="ask for fewer tokens"):
            model.generate(prompt(1, 20), max_new_tokens=20, eos_token_id=None)

    def test_a_static_cache(self) -> None:
        with pytest.raises(ValueError, match="cache_implementation='static' is not allowed"):
            causal_model().generate(prompt(1, 5), max_new_tokens=3, cache_implementation="static")

    def test_global_tokens_that_generation_cannot_see(self) -> None:
        model = causal_model()
        ids, mask = prompt(1, 20), torch.zeros(1, 20)
        mask[0, 17] = 1
        with pytest.raises(ValueError, match=r"after the first 16, prefill_chunk_size.*raise it"):
            model.generate(ids, global_attention_mask=mask, prefill_chunk_size=16, max_new_tokens=3)
        cache = model(ids[:, :10], use_cache=True).past_key_values
        with pytest.raises(ValueError, match=r"after those of past_key_values.*Leave them out"):
            model.generate(ids, global_attention_mask=mask, past_key_values=cache, max_new_tokens=3)

    def test_taking_back_more_than_was_recorded(self) -> None:
        model = causal_model()
        cache = model(prompt(1, 9), use_cache=True).past_key_values
        cache.crop(0)
        with pytest.raises(ValueError, match="The last 1 tokens cannot be taken back, only 0"):
            cache.crop(-1)
        with pytest.raises(ValueError, match=r"crop\(4\) is not allowed: give minus the number"):
            cache.crop(4)
        cache = LongformerPlusCache(model.config, max_crop=5)
        cache.activate_past_recording()
        model(prompt(1, 9), past_key_values=cache)
        with pytest.raises(ValueError, match=r"The last 6 tokens cannot be taken back, only 5.*max_crop=5"):
            cache.crop(-6)
        cache.crop(-5)
        assert cache.get_seq_length() == 4

    def test_labels_with_few_logits(self) -> None:
        with pytest.raises(ValueError, match="labels need the logits of all tokens"):
            causal_model()(prompt(1, 5), labels=prompt(1, 5), logits_to_keep=1)
