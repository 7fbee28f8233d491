"""Continuing a rolling cache: the local rows of new tokens, the reads from the device, and removing tokens again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from longformer_plus import LongformerPlusCache, LongformerPlusForCausalLM
from longformer_plus.attention import AttentionPattern, continued_local_rows
from longformer_plus.model.layers import LongformerPlusEncoder

from ..model.test_generation import causal_model, prompt


class Operations(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def num_reads(self) -> int:
        """How often a value, or a number of values, was read."""
        return sum(self.count[name] for name in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique_dim"))


def dense_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    is_key: torch.Tensor,
    num_global: int,
    window: int,
    dilation: int,
) -> torch.Tensor:
    """The context of `continued_local_rows` from scores of every query with every key, in float64."""
    num_new, num_keys = query.shape[1], key.shape[1]
    distance = (torch.arange(num_new) + num_keys - num_new)[:, None] - torch.arange(num_keys)
    near = (distance >= 0) & (distance <= window // 2 * dilation) & (distance % dilation == 0)
    near[:, :num_global] = True
    scores = torch.einsum("bqhd,bkhd->bhqk", query.double(), key.double()) * query.shape[-1] ** -0.5
    scores = scores.masked_fill(~(near & is_key[:, None, :])[:, None], -torch.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value.double()).float()


@pytest.mark.parametrize("num_global", [0, 3])
@pytest.mark.parametrize("kept", [0, 5])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("num_new", [1, 2, 40, 700])
def test_local_rows_are_those_of_dense_attention(num_new: int, dilation: int, kept: int, num_global: int) -> None:
    torch.manual_seed(num_new)
    window, num_keys = 8, num_global + 4 * dilation + kept + num_new
    query = torch.randn(2, num_new, 2, 4)
    key, value = torch.randn(2, 2, num_keys, 2, 4)
    is_key = torch.rand(2, num_keys) < 0.7
    is_key[:, -num_new:] = True
    expected = dense_rows(query, key, value, is_key, num_global, window, dilation)
    alone, nothing = continued_local_rows(query, key, value, is_key, num_global, window, dilation)
    assert nothing is None
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-4)
    context, probabilities = continued_local_rows(
        query, key, value, is_key, num_global, window, dilation, need_probabilities=True
    )
    torch.testing.assert_close(context, expected, atol=1e-5, rtol=1e-4)
    assert probabilities.shape == (2, 2, num_new, num_global + window + 1)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 2, num_new))


def test_a_query_without_keys_has_gradients_that_are_numbers() -> None:
    query, key, value = (torch.randn(1, size, 2, 4, requires_grad=True) for size in (3, 7, 7))
    context, _ = continued_local_rows(query, key, value, torch.zeros(1, 7, dtype=torch.bool), 0, 8)
    context.sum().backward()
    assert all(rows.grad.isfinite().all() for rows in (query, key, value))


@pytest.mark.parametrize("num_new", [1, 300])
def test_layers_that_continue_read_nothing(num_new: int) -> None:
    """A read raises on the "meta" device."""
    model = causal_model(attention_window=[8, 12], attention_dilation=[1, 3])
    encoder = LongformerPlusEncoder(model.config).eval().to("meta")
    cache = LongformerPlusCache(model.config)
    cache.activate_past_recording()
    for num_tokens in (50, num_new, 1):
        batch = torch.empty(2, num_tokens, model.config.hidden_size, device="meta")
        valid = torch.ones(2, num_tokens, dtype=torch.bool, device="meta")
        is_global = valid if num_tokens == 50 else None
        pattern = AttentionPattern.build(valid, is_global, batch, False, is_causal=True, max_global_tokens=4)
        cache.advance(torch.zeros(1, num_tokens, dtype=torch.long, device="meta"))
        if num_tokens == 50:
            rows = batch.unflatten(2, (model.config.num_attention_heads, -1))
            for layer in cache.layers:
                layer.update(rows, rows, pattern)
        else:
            encoder(batch, pattern, [None, None], False, cache)
        cache.crop(-min(num_tokens, 2))
    assert cache.get_seq_length() == 50 - 2 + max(num_new - 2, 0)


def step_operations(num_layers: int, **masks: torch.Tensor) -> Operations:
    """Those of the second step of decoding after a prompt of 30 tokens."""
    model = causal_model(num_hidden_layers=num_layers, attention_window=8, attention_dilation=[1] * num_layers)
    with torch.no_grad():
        cache = model(prompt(2, 30), use_cache=True, **masks).past_key_values
        model(prompt(2, 1), past_key_values=cache)
        with Operations() as operations:
            model(prompt(2, 1), past_key_values=cache)
    return operations


def test_a_step_reads_nothing_in_its_layers() -> None:
    is_global = torch.zeros(2, 30, dtype=torch.long)
    is_global[:, :3] = 1
    for masks in ({}, {"global_attention_mask": is_global}):
        two, six = (step_operations(num_layers, **masks) for num_layers in (2, 6))
        assert six.num_reads == two.num_reads
        # Counts copies and views as well; most are of the linear layers.
        assert (six.count.total() - two.count.total()) / 4 < 130


@pytest.mark.parametrize("recording", [True, False])
@pytest.mark.parametrize("padding", [0, 3])
def test_what_is_taken_back_leaves_no_trace(recording: bool, padding: int) -> None:
    model = causal_model(attention_window=[4, 12], attention_dilation=[1, [1, 3, 2]])
    ids, other = prompt(2, 60), prompt(2, 60, seed=1)
    valid = torch.ones_like(ids)
    valid[1, :padding] = 0
    ids[valid == 0] = 1
    is_global = torch.zeros_like(ids)
    is_global[:, 5:8] = 1
    with torch.no_grad():
        expected = model(ids, attention_mask=valid, global_attention_mask=is_global).logits
        cache = LongformerPlusCache(model.config)
        if recording:
            cache.activate_past_recording()
        stop = 0
        # More tokens than the windows reach, fewer, none; a prompt, one token, many.
        for num_right, num_wrong in ((20, 25), (1, 0), (1, 3), (30, 9), (0, 1), (8, 0)):
            right = slice(stop, stop + num_right)
            pieces = [(ids[:, right], valid[:, right], is_global[:, right])]
            if recording:
                wrong = other[:, :num_wrong]
                pieces.append((wrong, torch.ones_like(wrong), torch.zeros_like(wrong)))
            piece = [torch.cat(rows, dim=1) for rows in zip(*pieces, strict=True)]
            if piece[0].shape[1]:
                out = model(
                    piece[0], attention_mask=piece[1], global_attention_mask=piece[2], past_key_values=cache
                ).logits
            if recording:
                cache.crop(torch.tensor(-num_wrong))  # a tensor, as transformers 5.17 gives
            is_token = valid[:, right] > 0
            torch.testing.assert_close(out[:, :num_right][is_token], expected[:, right][is_token], atol=1e-4, rtol=1e-4)
            stop += num_right
            assert cache.get_seq_length() == stop
    assert all(layer.keys.shape[1] == layer.reach for layer in cache.layers)


def test_tokens_of_several_forwards_and_of_the_prompt_can_be_taken_back() -> None:
    model = causal_model(attention_window=4)
    ids = prompt(1, 40)
    is_global = torch.zeros(1, 12, dtype=torch.long)
    is_global[0, [1, 9]] = 1
    cache = LongformerPlusCache(model.config)
    cache.activate_past_recording()
    with torch.no_grad():
        model(ids[:, :12], global_attention_mask=is_global, past_key_values=cache)
        for token in range(5):
            model(prompt(1, 1, seed=token), past_key_values=cache)
        cache.crop(-(5 + 4))  # Place 9 is gone with the last four of the prompt.
        continued = model(ids[:, 8:], past_key_values=cache).logits
        expected = model(ids, global_attention_mask=torch.eye(40, dtype=torch.long)[1:2]).logits[:, 8:]
        torch.testing.assert_close(continued, expected, atol=1e-4, rtol=1e-4)
        cache.reset()
        model(ids[:, :12], past_key_values=cache)
        cache.crop(-12)
        assert cache.get_seq_length() == 0
        torch.testing.assert_close(model(ids, past_key_values=cache).logits, model(ids).logits)


def test_what_is_recorded_is_bounded() -> None:
    model = causal_model(attention_window=4)
    cache = LongformerPlusCache(model.config, max_crop=10)
    cache.activate_past_recording()
    with torch.no_grad():
        model(prompt(1, 300), past_key_values=cache)
        for token in range(40):
            model(prompt(1, 1, seed=token), past_key_values=cache)
    assert all(layer.keys.shape[1] == 2 + 10 for layer in cache.layers)
    assert all(layer.keys.untyped_storage().nbytes() <= 4 * 16 * 16 * 4 for layer in cache.layers)


PROMPTS = {
    "plain": {},
    "global": {"global_attention": [7, 9]},
    "dilated": {"attention_dilation": [1, [1, 2, 3]], "global_attention": "cls"},
    "narrow": {"attention_window": [2, 4]},
}


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("how", ["another model", "the model itself", "prompt lookup"])
def test_assisted_generation_gives_what_greedy_decoding_gives(kind: str, how: str) -> None:
    model = causal_model(**PROMPTS[kind])
    ids = prompt(1, 40)
    ids[0, [2, 5]] = torch.tensor([7, 9])
    valid = torch.ones_like(ids)
    valid[0, :2] = 0
    ids[valid == 0] = 1
    options: dict[str, Any] = {"max_new_tokens": 25, "eos_token_id": None, "attention_mask": valid, "pad_token_id": 1}
    expected = model.generate(ids, **options)
    assisted = assisting(model, how)
    assert torch.equal(model.generate(ids, **options, **assisted), expected)
    # The cache can be gone on from, with an assistant and without.
    first = model.generate(ids, **{**options, "max_new_tokens": 10}, **assisted, return_dict_in_generate=True)
    assert torch.equal(first.sequences, expected[:, :50])
    options |= {"max_new_tokens": 15, "attention_mask": torch.nn.functional.pad(valid, (0, 10), value=1)}
    again = model.generate(first.sequences, past_key_values=first.past_key_values, **options)
    assert torch.equal(again, expected)


def test_guesses_do_not_continue_a_cached_document() -> None:
    model = causal_model()
    ids = prompt(1, 12)
    cache = model(ids, use_cache=True).past_key_values
    for guesses in (assisting(model, "another model"), {"prompt_lookup_num_tokens": 2}):
        with pytest.raises(ValueError, match=r"starts with all of the text.*Leave past_key_values out"):
            model.generate(ids, past_key_values=cache, max_new_tokens=4, **guesses)


def assisting(model: LongformerPlusForCausalLM, how: str) -> dict[str, Any]:
    """The arguments of `generate` that make it guess ahead."""
    if how == "prompt lookup":
        return {"prompt_lookup_num_tokens": 6}
    assistant = model if how == "the model itself" else causal_model(num_hidden_layers=1, attention_window=4)
    assistant.generation_config.num_assistant_tokens = 7
    assistant.generation_config.assistant_confidence_threshold = 0.0
    return {"assistant_model": assistant}


def test_too_many_guesses() -> None:
    model = causal_model()
    cache = LongformerPlusCache(model.config, max_crop=2)
    with pytest.raises(ValueError, match="let the assistant guess fewer tokens"):
        model.generate(
            prompt(1, 10),
            past_key_values=cache,
            max_new_tokens=30,
            eos_token_id=None,
            **assisting(model, "another model"),
        )
