"""Every head, with the weights of transformers' Longformer: the same outputs, losses, attentions and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import longformer_plus
from longformer_plus import LongformerPlusConfig, LongformerPlusForMaskedLM

from ..cases import BACKENDS, Case, cases, small_config, spread

HEADS = {
    "Model": {},
    "ForMaskedLM": {"labels": "tokens"},
    "ForSequenceClassification": {"labels": "rows"},
    "ForQuestionAnswering": {"start_positions": "positions", "end_positions": "positions"},
    "ForTokenClassification": {"labels": "tokens_of_classes"},
    "ForMultipleChoice": {"labels": "rows"},
}
# A shift of all keys of a row changes no softmax: the true gradient of these is zero, so both sides hold only rounding.
# So for the biases of logits that share a softmax, and for keys where one token is all there is: hence the floor.
ROUNDING = 1e-6
ZERO_GRADIENT = ("key.bias", "key_global.bias")
PROFILE = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def pair(head: str, backend: str, **changes: Any) -> tuple[nn.Module, nn.Module]:
    """A Longformer of transformers and its LongformerPlus twin, in evaluation mode, with the same weights."""
    config = small_config(num_labels=2 if head == "ForQuestionAnswering" else 3, **changes)
    torch.manual_seed(0)
    theirs = spread(getattr(transformers, f"Longformer{head}")(config)).eval()
    ours = getattr(longformer_plus, f"LongformerPlus{head}")._from_config(
        small_config(num_labels=config.num_labels, **changes), attn_implementation=backend
    )
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours.eval()


def inputs_for(head: str, case: Case) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(case.seed)
    batch, tokens = case.shape
    inputs = {
        "input_ids": torch.randint(3, 60, (batch, tokens), generator=generator).masked_fill(~case.valid, 1),
        "attention_mask": case.valid.long(),
        "global_attention_mask": case.is_global.long(),
        "token_type_ids": torch.randint(0, 2, (batch, tokens), generator=generator),
    }
    if head == "ForMultipleChoice":
        inputs = {name: tensor[:, None].repeat(1, 3, 1) for name, tensor in inputs.items()}
        ids = inputs["input_ids"]
        inputs["input_ids"] = torch.where(ids > 2, 3 + (ids + 5 * torch.arange(3)[:, None]) % 57, ids)
    makers = {
        "tokens": lambda: torch.randint(0, 60, (batch, tokens), generator=generator).masked_fill(~case.valid, -100),
        "tokens_of_classes": lambda: torch.randint(0, 3, (batch, tokens), generator=generator).masked_fill(
            ~case.valid, -100
        ),
        "rows": lambda: torch.randint(0, 3, (batch,), generator=generator),
        "positions": lambda: torch.randint(0, tokens + 2, (batch,), generator=generator),
    }
    inputs.update({name: makers[kind]() for name, kind in HEADS[head].items()})
    return inputs


def comparable(case: Case) -> Case:
    """transformers pools token 0 and gives NaN losses for rows without labels: keep that one valid in every row."""
    case.valid[:, 0] = True
    return case


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("head", HEADS)
@PROFILE
@given(case=cases(windows=(16,)))
def test_outputs_and_gradients_equal_those_of_transformers(head: str, backend: str, case: Case) -> None:
    case = comparable(case)
    theirs, ours = pair(head, backend)
    inputs = inputs_for(head, case)
    expected, outputs = theirs(**inputs, output_hidden_states=True), ours(**inputs, output_hidden_states=True)
    valid = inputs["attention_mask"].bool().flatten(0, -2)
    for name in ("loss", "logits", "start_logits", "end_logits", "last_hidden_state", "pooler_output"):
        want, have = expected.get(name), outputs.get(name)
        assert (want is None) == (have is None), name
        if want is not None and not want.isnan().any():
            if want.shape[:2] == valid.shape:
                want, have = want[valid], have[valid]
            torch.testing.assert_close(have, want, atol=1e-5 * max(1.0, want.abs().max().item()), rtol=0, msg=name)
    for want, have in zip(expected.hidden_states, outputs.hidden_states, strict=True):
        torch.testing.assert_close(have[valid], want[valid], atol=1e-5, rtol=0)

    (expected.loss if "loss" in expected else expected.pooler_output.sum()).backward()
    (outputs.loss if "loss" in outputs else outputs.pooler_output.sum()).backward()
    if "loss" in expected and expected.loss.isnan():
        return
    compare_gradients(theirs, ours)


def compare_gradients(theirs: nn.Module, ours: nn.Module) -> None:
    others = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        want = others[name].grad
        have = parameter.grad
        if want is None or have is None:
            assert want is None or not want.any(), name
            assert have is None or not have.any(), name
            continue
        error = (have - want).square().mean().sqrt().item()
        scale = 1.0 if name.endswith(ZERO_GRADIENT) else want.square().mean().sqrt().item()
        assert error <= 1e-4 * scale + ROUNDING, f"{name}: error {error:.2e} of {scale:.2e}"


@pytest.mark.parametrize("window", [[8, 16], [16, 16], 32])
@PROFILE
@given(case=cases(windows=(16,), most_windows=3))
def test_attentions_equal_those_of_transformers(window: int | list[int], case: Case) -> None:
    theirs, ours = pair("Model", "eager", attention_window=window)
    inputs = inputs_for("Model", case)
    expected, outputs = theirs(**inputs, output_attentions=True), ours(**inputs, output_attentions=True)
    assert len(outputs.attentions) == len(expected.attentions)
    for want, have in zip(expected.attentions, outputs.attentions, strict=True):
        assert have.shape == want.shape
        torch.testing.assert_close(have, want, atol=1e-5, rtol=0)
    if expected.global_attentions is None:
        assert outputs.global_attentions is None
        return
    tokens = case.shape[1]
    count = (case.is_global & case.valid).sum(1)
    for want, have in zip(expected.global_attentions, outputs.global_attentions, strict=True):
        want = want[:, :, :tokens]
        assert have.shape == want.shape
        for row, used in enumerate(count.tolist()):
            torch.testing.assert_close(have[row, :, :, :used], want[row, :, :, :used], atol=1e-5, rtol=0)
            assert not have[row, :, :, used:].any()


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    tokens=st.integers(1, 90),
    widths=st.lists(st.sampled_from([4, 6, 10, 34]), min_size=2, max_size=2),
    seed=st.integers(0, 99),
)
@PROFILE
def test_any_even_width_per_layer_runs(backend: str, tokens: int, widths: list[int], seed: int) -> None:
    """transformers runs only widths that divide the largest: widening all layers' inputs to both is the comparison."""
    ours = longformer_plus.LongformerPlusModel._from_config(
        small_config(attention_window=widths), attn_implementation=backend
    ).eval()
    reference = longformer_plus.LongformerPlusModel._from_config(
        small_config(attention_window=widths), attn_implementation="eager"
    ).eval()
    reference.load_state_dict(ours.state_dict())
    ids = torch.randint(3, 60, (2, tokens), generator=torch.Generator().manual_seed(seed))
    states = ours(ids, output_hidden_states=True).hidden_states
    # Each layer alone, as the only layer of a model with one width, on the states that enter it.
    for index, width in enumerate(widths):
        single = transformers.LongformerModel(small_config(attention_window=width, num_hidden_layers=1)).eval()
        single.encoder.layer[0].load_state_dict(ours.encoder.layer[index].state_dict())
        missing = -tokens % width
        padded = nn.functional.pad(states[index], (0, 0, 0, missing))
        mask = torch.zeros(2, tokens + missing)
        mask[:, tokens:] = torch.finfo(torch.float32).min
        want = single.encoder(padded, attention_mask=mask)[0][:, :tokens]
        torch.testing.assert_close(states[index + 1], want, atol=1e-5, rtol=0)
    torch.testing.assert_close(states[-1], reference(ids).last_hidden_state, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForQuestionAnswering", "ForMultipleChoice"])
def test_default_global_tokens_are_those_of_transformers(head: str) -> None:
    theirs, ours = pair(head, "sdpa")
    ids = torch.randint(3, 60, (2, 50), generator=torch.Generator().manual_seed(0))
    ids[:, [9, 10, 49]] = 2
    inputs = {"input_ids": ids[:, None].repeat(1, 3, 1) if head == "ForMultipleChoice" else ids}
    expected, outputs = theirs(**inputs), ours(**inputs)
    for name in ("logits", "start_logits", "end_logits"):
        if name in expected:
            torch.testing.assert_close(outputs[name], expected[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_tuples_and_embeddings(head: str, backend: str) -> None:
    theirs, ours = pair(head, backend)
    case = Case(torch.ones(2, 40, dtype=torch.bool), torch.zeros(2, 40, dtype=torch.bool), 16, 0)
    case.is_global[:, 3] = True
    inputs = inputs_for(head, case)
    expected = theirs(**inputs, return_dict=False, output_hidden_states=True)
    outputs = ours(**inputs, return_dict=False, output_hidden_states=True)
    assert isinstance(outputs, tuple)
    assert len(outputs) == len(expected)
    torch.testing.assert_close(outputs[0], expected[0], atol=1e-5, rtol=0)

    base = ours if head == "Model" else ours.longformer
    embedded = {**inputs, "inputs_embeds": base.get_input_embeddings()(inputs["input_ids"])}
    del embedded["input_ids"]
    again = ours(**embedded, return_dict=False, output_hidden_states=True)
    torch.testing.assert_close(again[0], outputs[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_old_argument_values(backend: str) -> None:
    """2 in the attention mask is a global token, as in Longformer's first release; masks may be bool or float."""
    _, ours = pair("Model", backend)
    case = Case(torch.ones(2, 40, dtype=torch.bool), torch.zeros(2, 40, dtype=torch.bool), 16, 0)
    case.valid[0, 30:] = False
    case.is_global[:, 3] = True
    inputs = inputs_for("Model", case)
    expected = ours(**inputs).last_hidden_state
    merged = inputs["attention_mask"] * (1 + inputs["global_attention_mask"])
    arguments = {"input_ids": inputs["input_ids"], "token_type_ids": inputs["token_type_ids"]}
    for masks in (
        {"attention_mask": merged},
        {"attention_mask": case.valid, "global_attention_mask": case.is_global},
        {"attention_mask": case.valid.float(), "global_attention_mask": case.is_global.float()},
    ):
        torch.testing.assert_close(ours(**arguments, **masks).last_hidden_state, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_chunked_feed_forward_and_gradient_checkpointing_change_nothing(backend: str) -> None:
    theirs, ours = pair("ForMaskedLM", backend)
    _, chunked = pair("ForMaskedLM", backend, chunk_size_feed_forward=8)
    case = Case(torch.ones(2, 40, dtype=torch.bool), torch.zeros(2, 40, dtype=torch.bool), 16, 0)
    case.is_global[:, 3] = True
    inputs = inputs_for("ForMaskedLM", case)
    theirs(**inputs).loss.backward()
    for model in (ours, chunked):
        model.train()
        model.gradient_checkpointing_enable()
        model(**inputs).loss.backward()
        compare_gradients(theirs, model)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_trains_close_to_full_precision(backend: str) -> None:
    _, ours = pair("ForMaskedLM", backend)
    case = Case(torch.ones(2, 40, dtype=torch.bool), torch.zeros(2, 40, dtype=torch.bool), 16, 0)
    case.valid[0, 35:] = False
    case.is_global[:, 3] = True
    inputs = inputs_for("ForMaskedLM", case)
    expected = ours.train()(**inputs).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ours(**inputs).loss
    loss.backward()
    assert abs(loss.item() - expected.item()) < 0.02 * expected.item()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())


@pytest.mark.parametrize("changes", [{"attention_dilation": [2, [1, 1, 3]]}, {"is_causal": True}])
def test_dilated_and_causal_models_are_alike_on_every_backend_and_saved(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    fields = small_config().to_dict()
    del fields["model_type"]
    model = spread(LongformerPlusForMaskedLM(LongformerPlusConfig(**{**fields, **changes}))).eval()
    ids = torch.arange(3, 53)[None]
    is_global = torch.zeros_like(ids)
    is_global[0, 5] = 1
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(ids, global_attention_mask=is_global).logits
        eager = LongformerPlusForMaskedLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
        torch.testing.assert_close(eager(ids, global_attention_mask=is_global).logits, expected, atol=2e-5, rtol=0)
        start = model(ids[:, :20], global_attention_mask=is_global[:, :20]).logits
    is_alike = (start - expected[:, :20]).abs().max() < 2e-5
    assert is_alike == model.config.is_causal
