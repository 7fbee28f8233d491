"""What a split forward and backward ask of an accelerator, without one.

The "meta" device has no values, so reading from it raises, and so does a mixture of its tensors with the host's. The
"fake" process group exchanges nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

import longformer_plus
from longformer_plus import LongformerPlusConfig
from longformer_plus.attention import AttentionPattern, segments_of
from longformer_plus.integrations.context_parallel import attention, average_gradients, plan, split, split_sequence

from ...cases import small_config, spread

SIZE, RANK, TOKENS = 4, 1, 80


@pytest.fixture
def four_processes() -> Iterator[None]:
    """A group of which this process is the second."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=SIZE)
    yield
    dist.destroy_process_group()


def whole_pattern(is_packed: bool, is_padded: bool, is_causal: bool) -> AttentionPattern:
    """Of one row, with global tokens in two slices."""
    places = torch.arange(TOKENS)[None]
    segments = segments_of(places // 30) if is_packed else None
    is_global = (places == 0) | (places == 55)
    valid = places < TOKENS - 7 if is_padded else None
    return AttentionPattern.build(
        valid, is_global, places, True, segments, is_packed, is_causal=is_causal, dilations=(1, 2)
    )


@pytest.mark.parametrize(
    ("documents", "head", "backend"),
    [
        ("one", "MaskedLM", "eager"),
        ("one", "TokenClassification", "sdpa"),
        ("padded", "MaskedLM", "sdpa"),
        ("packed", "MaskedLM", "sdpa"),
        ("packed", "CausalLM", "sdpa"),
    ],
)
def test_nothing_but_the_masks_is_read(
    documents: str, head: str, backend: str, four_processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one copy of the masks is put in by hand, as is what the processes agree on."""
    whole = whole_pattern(documents == "packed", documents == "padded", head == "CausalLM")
    copies, exchanges = [], []
    exchange = dist.all_to_all_single

    def copied(pattern: AttentionPattern) -> AttentionPattern:
        assert pattern.segments.is_meta
        copies.append(pattern)
        return whole

    def watched(received: Tensor, rows: Tensor, receives: list[int], sends: list[int], group: Any) -> Any:
        exchanges.append(rows)
        assert {type(count) for count in (*receives, *sends)} == {int}
        assert rows.is_meta
        assert received.is_meta
        assert rows.is_contiguous()
        assert received.is_contiguous()
        assert (len(rows), len(received)) == (sum(sends), sum(receives))
        return exchange(received, rows, receives, sends, group=group)

    monkeypatch.setattr(attention, "on_host", copied)
    monkeypatch.setattr(split, "check_agreement", lambda *_: None)
    monkeypatch.setattr(split._RandomStreams, "enter", lambda *_: None)
    monkeypatch.setattr(dist, "all_to_all_single", watched)
    layers = 4
    fields = small_config(num_labels=2, num_hidden_layers=layers).to_dict() | {
        "unpad_inputs": False,
        "attention_dilation": [1, 2, 1, [1, 2, 1]],
        "attention_window": [4, 8, 16, 8],
        "attn_implementation": backend,
    }
    model = spread(getattr(longformer_plus, f"LongformerPlusFor{head}")(LongformerPlusConfig(**fields))).train()
    places = torch.arange(TOKENS, device="meta")[None]
    batch = {"input_ids": places, "global_attention_mask": places, "labels": places, "max_global_tokens": 2}
    batch |= {"attention_mask": places} if documents == "padded" else {}
    batch |= {"document_ids": places} if documents == "packed" else {}
    with split_sequence(model.to("meta"), dist.group.WORLD):  # type: ignore[arg-type]
        loss = model(**batch).loss
    loss.backward()
    average_gradients(model, dist.group.WORLD)  # type: ignore[arg-type]
    assert len(copies) == 1
    # Halos by layer and dilation, questions and answers by layer; and their ways back.
    forwards = (layers + 1) + 2 * layers
    assert len(exchanges) == 2 * forwards


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("is_padded", [False, True])
def test_the_masks_are_copied_at_once(is_packed: bool, is_padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = whole_pattern(is_packed, is_padded, is_causal=False)
    assert plan.on_host(whole) is whole
    copies = []
    copy = Tensor.cpu

    def counted(tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            copies.append(tensor)
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        return copy(tensor)

    monkeypatch.setattr(Tensor, "cpu", counted)
    found = plan.on_host(whole.to("meta"))
    assert len(copies) == 1
    assert found.is_global is not None
    assert {tensor.device.type for tensor in (found.segments, found.is_global)} == {"cpu"}
    assert (found.is_packed, found.is_uniform, found.dilations) == (is_packed, whole.is_uniform, whole.dilations)
    unmarked = AttentionPattern.build(None, None, torch.zeros(2, 5, device="meta"), keep_empty=False)
    segments = plan.on_host(unmarked).segments
    assert len(copies) == 1
    assert segments.equal(torch.tensor([[0] * 5, [1] * 5]))
