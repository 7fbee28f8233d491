"""Taking padding out changes no result, and one token of padding is computed for all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import longformer_plus
from longformer_plus import LongformerPlusConfig
from longformer_plus.model.layers import LongformerPlusSelfAttention
from longformer_plus.model.padding import Padding

from ..cases import BACKENDS, LOCAL_ROWS, small_config, spread
from ..oracle import self_attention

HEADS = ["Model", "ForMaskedLM", "ForSequenceClassification", "ForQuestionAnswering", "ForTokenClassification"]
PAD = 1


def find_padding(valid: torch.Tensor, **options: Any) -> Padding | None:
    sizes = {name: int(size) for name, size in Padding.measure(valid, []).items()}
    return Padding.find(valid, **sizes, **options)


def make(head: str, unpad: bool | None, backend: str = "sdpa", **changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    config = LongformerPlusConfig.from_longformer(small_config(num_labels=2, **changes))
    config.unpad_inputs = unpad
    model = getattr(longformer_plus, f"LongformerPlus{head}")._from_config(config, attn_implementation=backend)
    return spread(model)


def batch(lengths: list[int], num_global: int = 1, left: bool = False, tokens: int = 40) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    ids = torch.randint(3, 60, (len(lengths), tokens), generator=generator)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        mask[row, tokens - length :] = 1
        if not left:
            mask[row] = mask[row].flip(0)
    is_global = torch.zeros_like(ids)
    for row in range(0, len(lengths), 2):
        places = mask[row].nonzero().flatten()
        is_global[row, places[torch.randperm(len(places), generator=generator)[:num_global]]] = 1
    return {
        "input_ids": torch.where(mask > 0, ids, PAD),
        "attention_mask": mask,
        "global_attention_mask": is_global,
    }


def labels_of(head: str, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ids = inputs["input_ids"]
    places = inputs["attention_mask"].argmax(1)
    return {
        "Model": {},
        "ForMaskedLM": {"labels": ids},  # padding is labelled too: transformers counts that
        "ForSequenceClassification": {"labels": ids[:, 0] % 2},
        "ForQuestionAnswering": {"start_positions": places, "end_positions": places + 1},
        "ForTokenClassification": {"labels": ids % 2},
    }[head]


def gradients(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    outputs = model.train()(**inputs)
    loss = outputs["loss"] if "loss" in outputs else outputs["pooler_output"].sum() + outputs[0][:, 0].sum()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("num_global", [0, 1, 6])
def test_a_batch_without_its_padding_gives_the_same(head: str, backend: str, num_global: int) -> None:
    """With 6 global tokens and heads of 8 features the global rows are projected; with one they are folded."""
    inputs = batch([40, 3, 17, 1], num_global)
    padded, unpadded = (make(head, unpad, backend).eval() for unpad in (False, True))
    with torch.no_grad():
        want, have = (model(**inputs, output_hidden_states=True) for model in (padded, unpadded))
    for name in ("last_hidden_state", "logits", "start_logits", "end_logits", "pooler_output"):
        if name not in want:
            continue
        torch.testing.assert_close(have[name], want[name], atol=2e-5, rtol=0)
    assert len(have.hidden_states) == len(want.hidden_states)
    for one, other in zip(want.hidden_states, have.hidden_states, strict=True):
        torch.testing.assert_close(other, one, atol=2e-5, rtol=0)

    labels = labels_of(head, inputs)
    one, other = (gradients(model, {**inputs, **labels}) for model in (padded, unpadded))
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        scale = max(gradient.abs().max().item(), 1.0)
        torch.testing.assert_close(other[name], gradient, atol=3e-5 * scale, rtol=0, msg=name)
    if labels:
        with torch.no_grad():
            torch.testing.assert_close(unpadded(**inputs, **labels).loss, padded(**inputs, **labels).loss)


@pytest.mark.parametrize("head", HEADS[1:])
def test_losses_of_padded_batches_are_those_of_transformers(head: str) -> None:
    inputs = batch([40, 3, 17], num_global=2)
    ours = make(head, True).eval()
    theirs = getattr(transformers, f"Longformer{head}")(small_config(num_labels=2)).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    labels = labels_of(head, inputs)
    with torch.no_grad():
        torch.testing.assert_close(ours(**inputs, **labels).loss, theirs(**inputs, **labels).loss, atol=1e-5, rtol=0)


def test_layers_and_the_vocabulary_see_valid_tokens_only() -> None:
    model = make("ForMaskedLM", None).eval()
    inputs = batch([40, 3, 17, 1])
    seen = {}
    for name in ("longformer.encoder.layer.1.attention.self.key", "longformer.encoder.layer.1.output.dense", "lm_head"):
        model.get_submodule(name).register_forward_hook(lambda _, args, out, n=name: seen.update({n: args[0].shape}))
    logits = model(**inputs).logits
    assert {shape[:2].numel() for shape in seen.values()} == {40 + 3 + 17 + 1 + 1}
    assert logits.shape[:2] == (4, 40)


@pytest.mark.parametrize("left", [False, True])
def test_padding_on_either_side(left: bool) -> None:
    inputs = batch([40, 3, 17], left=left)
    valid = inputs["attention_mask"].bool()
    want, have = (make("Model", unpad).eval()(**inputs) for unpad in (False, True))
    torch.testing.assert_close(have[0][valid], want[0][valid], atol=2e-5, rtol=0)
    torch.testing.assert_close(have.pooler_output, want.pooler_output, atol=2e-5, rtol=0)


def test_when_padding_is_taken_out() -> None:
    def find(rows: list[list[int]], **options: bool) -> bool:
        return find_padding(torch.tensor(rows).bool(), **options) is not None

    assert find([[1, 1, 1], [1, 0, 0]])
    assert find([[1, 1, 1], [0, 1, 0]])
    assert not find([[1, 1, 1], [1, 1, 1]])  # nothing to take out
    assert not find([[1, 1, 1], [1, 0, 1]])  # the neighbours would change
    assert not find([[1, 1, 1], [0, 0, 0]])  # nothing left of a row
    almost_full = [[1] * 100, [1] * 99 + [0]]
    assert not find(almost_full)
    assert find(almost_full, force=True)


def test_attentions_come_from_a_padded_run() -> None:
    inputs = batch([40, 3])
    want, have = (make("Model", unpad, "eager").eval()(**inputs, output_attentions=True) for unpad in (False, True))
    for one, other in zip(
        want.attentions + want.global_attentions, have.attentions + have.global_attentions, strict=True
    ):
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize("unlike", ["input_ids", "position_ids", "inputs_embeds"])
def test_padding_that_is_not_alike_is_kept(unlike: str) -> None:
    """One token of padding cannot stand for the others: a loss over all tokens would be another."""
    inputs = batch([40, 3])
    if unlike == "input_ids":
        inputs["input_ids"][1, -1] = 7
    elif unlike == "position_ids":
        inputs["position_ids"] = torch.arange(2, 42)[None]
    else:
        inputs["inputs_embeds"] = torch.randn(2, 40, 24, generator=torch.Generator().manual_seed(0))
        del inputs["input_ids"]
    want, have = (make("ForTokenClassification", unpad).eval() for unpad in (False, True))
    labels = {"labels": torch.ones(2, 40, dtype=torch.long)}
    one, other = (model(**inputs, **labels) for model in (want, have))
    torch.testing.assert_close(other.loss, one.loss)
    torch.testing.assert_close(other.logits, one.logits, atol=2e-5, rtol=0)


def test_token_types_of_padding_are_alike() -> None:
    inputs = batch([40, 3])
    inputs["token_type_ids"] = 1 - inputs["attention_mask"]
    want, have = (make("Model", unpad).eval() for unpad in (False, True))
    seen = []
    have.encoder.register_forward_hook(lambda _, args, out: seen.append(args[0].shape[:2]))
    torch.testing.assert_close(have(**inputs)[0], want(**inputs)[0], atol=2e-5, rtol=0)
    assert seen == [(1, 40 + 3 + 1)]


def test_unpadding_under_gradient_checkpointing() -> None:
    inputs = batch([40, 3, 17])
    model = make("ForQuestionAnswering", True)
    labels = labels_of("ForQuestionAnswering", inputs)
    plain = {name: grad.clone() for name, grad in gradients(model, {**inputs, **labels}).items()}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    for name, gradient in gradients(model, {**inputs, **labels}).items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-6, rtol=1e-5)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lengths=st.lists(st.one_of(st.integers(1, 12), st.integers(120, 300)), min_size=1, max_size=6),
    share=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    backend=st.sampled_from(LOCAL_ROWS),
    window=st.sampled_from([4, 34, 260]),
    dilation=st.sampled_from([1, 2]),
    is_causal=st.booleans(),
    seed=st.integers(0, 100),
)
def test_documents_side_by_side_do_not_see_one_another(
    lengths: list[int], share: float, backend: str, window: int, dilation: int, is_causal: bool, seed: int
) -> None:
    """Each document, cut out of a padded batch, against the oracle of itself alone."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.zeros(len(lengths) + 1, max(lengths) + 1, dtype=torch.bool)
    valid[-1, 0] = True  # one row more, so that there is padding
    for row, length in enumerate(lengths):
        valid[row, :length] = True
    is_global = (torch.rand(valid.shape, generator=generator) < share) & valid
    config = LongformerPlusConfig(
        hidden_size=24,
        num_attention_heads=3,
        num_hidden_layers=1,
        attention_window=window,
        attention_dilation=dilation,
        attn_implementation=backend,
    )
    layer = spread(LongformerPlusSelfAttention(config, 0), seed=seed).eval()
    hidden = torch.randn(*valid.shape, 24, generator=generator)
    padding = find_padding(valid)
    assert padding is not None
    with torch.no_grad():
        pattern = padding.pattern(is_global, False, is_causal=is_causal, dilations=(dilation,))
        context = padding.restore(layer(padding.remove(hidden), pattern)[0])
        weights = {name: p.double() for name, p in layer.named_parameters()}
        for row, length in enumerate(lengths):
            document = hidden[row : row + 1, :length].double()
            everything, chosen = torch.ones(1, length, dtype=torch.bool), is_global[row : row + 1, :length]
            expected = self_attention(
                document, weights, 3, everything, chosen, window, dilation=dilation, causal=is_causal
            ).context
            torch.testing.assert_close(context[row : row + 1, :length].double(), expected, atol=2e-5, rtol=0)
