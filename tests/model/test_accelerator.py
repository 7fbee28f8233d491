"""The work of a forward on an accelerator, counted without one: reads, operations, and kept activations.

The "meta" device has no values, so reading from it raises. The code for accelerators runs on a CPU as the backends
"sdpa windows" and "sdpa dense" of `cases`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import longformer_plus
from longformer_plus import LongformerPlusForMaskedLM, LongformerPlusModel
from longformer_plus.attention import AttentionPattern
from longformer_plus.attention.documents import GlobalDocuments
from longformer_plus.attention.sdpa import windowed_local_rows
from longformer_plus.global_attention import build_global_attention_mask
from longformer_plus.ops.host_reads import ValueChecks

from ..cases import small_config, spread

HEADS = (
    "Model",
    "ForMaskedLM",
    "ForCausalLM",
    "ForSequenceClassification",
    "ForQuestionAnswering",
    "ForTokenClassification",
    "ForMultipleChoice",
)
READS = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique_consecutive", "_unique2"}


class Operations(TorchDispatchMode):
    """Counts the operations that torch runs, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def reads(self) -> int:
        return sum(self.count[name] for name in READS)


def inputs(rows: int, tokens: int, padded: bool = True, head: str = "Model") -> dict[str, torch.Tensor]:
    shape = (rows, 2, tokens) if head == "ForMultipleChoice" else (rows, tokens)
    ids = torch.randint(3, 60, shape, generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "global_attention_mask": torch.zeros_like(ids)}
    batch["global_attention_mask"][..., 0] = 1
    if padded:
        batch["attention_mask"] = torch.ones_like(ids)
        for row in range(rows):
            batch["attention_mask"][row, ..., tokens - 3 * row - 2 :] = 0
            batch["input_ids"][row, ..., tokens - 3 * row - 2 :] = 1
    return batch


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("attention_dilation", [1, [[1, 2, 1], [1, 1, 3]]], ids=["plain", "dilated"])
def test_nothing_is_read_where_the_global_tokens_are_promised(head: str, padded: bool, attention_dilation: Any) -> None:
    config = small_config(num_labels=2).to_dict() | {"unpad_inputs": False, "attention_dilation": attention_dilation}
    del config["model_type"]
    model = getattr(longformer_plus, f"LongformerPlus{head}")(longformer_plus.LongformerPlusConfig(**config))
    batch = {name: values.to("meta") for name, values in inputs(2, 40, padded, head).items()}
    labels: dict[str, torch.Tensor] = {}
    if head == "ForQuestionAnswering":
        labels = dict.fromkeys(("start_positions", "end_positions"), torch.zeros(2, dtype=torch.long, device="meta"))
    elif head != "Model":
        per_token = head in ("ForMaskedLM", "ForCausalLM", "ForTokenClassification")
        labels = {"labels": torch.zeros((2, 40) if per_token else (2,), dtype=torch.long, device="meta")}
    outputs = model.to("meta").train()(**batch, **labels, max_global_tokens=3)
    assert outputs[0].is_meta
    if labels:
        outputs.loss.backward()


def test_checks_are_read_where_a_device_cannot_stop_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's assertion on the device is not public."""

    def note() -> ValueChecks:
        checks = ValueChecks()
        checks.refuse(lambda: torch.zeros((), dtype=torch.bool, device="meta"), ValueError)
        return checks

    assert note().read({}) == {}
    monkeypatch.delattr(torch, "_assert_async")
    with pytest.raises(NotImplementedError):
        note().read({})


@pytest.mark.parametrize("packed", [False, True])
def test_few_reads_however_many_rows_layers_and_documents(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = []
    to_list = torch.Tensor.tolist
    # On a CPU no operation shows that a tensor is read as a list.
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: lists.append(tensor.shape) or to_list(tensor))

    def count(rows: int, layers: int) -> tuple[int, int]:
        config = small_config(num_hidden_layers=layers, attention_window=8, num_labels=2, unpad_inputs=True)
        model = spread(LongformerPlusModel(config))
        model.config._attn_implementation = "sdpa windows"
        batch = inputs(rows, 200, padded=not packed)
        if packed:
            batch = {name: values.reshape(1, -1) for name, values in batch.items()}
            batch["document_ids"] = torch.arange(rows).repeat_interleave(200)[None]
            batch["input_ids"] = batch["input_ids"].clamp(min=3)
        lists.clear()
        with Operations() as operations:
            model(**batch)
        # On a CPU, values are looked at where it costs nothing; what remains is asked of any device.
        return operations.reads + len(lists), sum(operations.count.values())

    few, many, deep = count(2, 2), count(32, 2), count(2, 6)
    # Blocks that come out even need no filling up.
    assert abs(few[1] - many[1]) <= 10
    assert few[0] == many[0] == deep[0] <= 4


def test_what_windows_keep_for_the_backward_pass() -> None:
    query, key, value = (torch.randn(2, 1024, 3, 16, requires_grad=True) for _ in range(3))
    pattern = AttentionPattern.build(None, None, query, keep_empty=True)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        context = windowed_local_rows(query, key, value, pattern, 256)
    rows = query.numel() * query.element_size()
    assert sum(kept.values()) <= 4 * rows + 8 * query.shape[0] * query.shape[1] * query.shape[2]
    context.sum().backward()
    assert query.grad is not None


@pytest.mark.parametrize("backend", ["sdpa", "sdpa windows"])
@pytest.mark.parametrize("num_global", [0, 1])
def test_what_attention_keeps_under_autocast(num_global: int, backend: str) -> None:
    """Its input once, query, key, value and the context, in half precision."""
    config = small_config(
        hidden_size=96, num_hidden_layers=1, attention_window=64, attn_implementation=backend
    ).to_dict()
    del config["model_type"]
    model = LongformerPlusModel(longformer_plus.LongformerPlusConfig(**config))
    model.config._attn_implementation = backend
    attention = model.encoder.layer[0].attention.self.train()
    states = torch.randn(1, 1024, 96, requires_grad=True) * 1
    is_global = torch.arange(1024)[None] < num_global
    pattern = AttentionPattern.build(None, is_global, states, keep_empty=False)
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autocast("cpu", torch.bfloat16):
        attention(states, pattern)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            context = attention(states, pattern)[0]
    weights = {parameter.untyped_storage().data_ptr() for parameter in attention.parameters()}
    shared = {each.untyped_storage().data_ptr() for each in pattern._shared.values() if isinstance(each, torch.Tensor)}
    num_bytes = sum(each.untyped_storage().nbytes() for key, each in kept.items() if key not in weights | shared)
    rows, weights_in_half_precision = 2 * states.numel(), 6 * 2 * 96 * 96
    assert num_bytes <= 5 * rows + 16 * 1024 * 3 + weights_in_half_precision
    context.float().sum().backward()


@pytest.mark.parametrize("is_causal", [False, True])
def test_many_documents_cost_what_their_tokens_cost(is_causal: bool) -> None:
    fields = small_config(attention_window=8, max_position_embeddings=200).to_dict() | {"is_causal": is_causal}
    del fields["model_type"]
    model = LongformerPlusForMaskedLM(longformer_plus.LongformerPlusConfig(**fields)).eval()

    @torch.no_grad()
    def operations(documents: int, backend: str) -> int:
        model.config._attn_implementation = backend
        ids = torch.arange(documents).repeat_interleave(20)[None]
        is_global = (torch.arange(documents * 20) % 20 == 0).long()[None]
        with Operations() as counted:
            model(torch.full_like(ids, 5), global_attention_mask=is_global, document_ids=ids)
        return sum(counted.count.values())

    assert operations(64, "sdpa windows") == operations(512, "sdpa windows")
    assert operations(512, "sdpa") <= 10 * operations(64, "sdpa")


@pytest.mark.parametrize("length", [1, 5, 9, 20, 80, 130, 4_000])
def test_global_rows_of_short_documents_read_few_keys_that_are_none(length: int) -> None:
    tokens = 8_000
    segments = torch.arange(-(-tokens // length)).repeat_interleave(length)[None, :tokens]
    is_global = torch.arange(tokens)[None] % length == 0
    pattern = AttentionPattern.build(None, is_global, segments, keep_empty=False, segments=segments, is_packed=True)
    documents = GlobalDocuments.of(pattern)
    assert documents.key_tokens.numel() <= 2 * tokens * max(8 / length, 1.25)
    assert documents.allowed.numel() == documents.key_tokens.numel()
    assert documents.allowed.sum() == tokens


def test_one_document_with_many_global_tokens_costs_the_others_nothing() -> None:
    lengths = torch.cat([torch.tensor([4_000]), torch.full((400,), 100)])
    segments = torch.arange(401).repeat_interleave(lengths)[None]
    places = torch.arange(segments.shape[1])[None] - (lengths.cumsum(0) - lengths)[segments]
    is_global = (places < 1) | ((segments == 0) & (places < 400))
    pattern = AttentionPattern.build(None, is_global, segments, keep_empty=False, segments=segments, is_packed=True)
    documents = GlobalDocuments.of(pattern)
    assert documents.most == 400
    assert documents.allowed.sum() >= 400 * 4_000 + 400 * 100
    # A score for each of 16 queries with each token of the short ones, filled up to whole blocks.
    assert documents.allowed.numel() <= 400 * 4_000 + 16 * 400 * 100 * 2


@pytest.mark.parametrize("policy", ["cls", "last", "question", "choice", "separators", [7, 9]])
def test_a_policy_neither_reads_from_the_device_nor_copies_to_it(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensor", "as_tensor"):
        monkeypatch.setattr(torch, name, lambda *_, **__: pytest.fail("something is copied from the host"))
    ids = torch.ones(2, 40, dtype=torch.long, device="meta")
    mask = build_global_attention_mask(policy, ids, ids > 0, 2)
    assert mask is not None
    assert mask.is_meta


@pytest.mark.parametrize("policy", ["cls", "last", "question", "choice", "separators", [7]])
def test_a_policy_is_applied_to_each_of_many_documents(policy: Any) -> None:
    ids = torch.randint(2, 9, (1, 40_000), generator=torch.Generator().manual_seed(0))
    lengths = torch.full((8_000,), 5)
    places = torch.cat([torch.arange(int(length)) for length in lengths])[None]
    mask = build_global_attention_mask(policy, ids, torch.ones_like(ids).bool(), 2, places)
    alone = build_global_attention_mask(policy, ids.view(8_000, 5), torch.ones(8_000, 5).bool(), 2)
    assert mask is not None
    assert alone is not None
    assert torch.equal(mask, alone.view(1, -1))
