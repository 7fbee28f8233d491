"""What is checked in a group of processes, besides random cases."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from longformer_plus import (
    LongformerPlusConfig,
    LongformerPlusForCausalLM,
    LongformerPlusForMaskedLM,
    LongformerPlusForSequenceClassification,
)
from longformer_plus.integrations.context_parallel import average_gradients, exchange, plan, split_sequence

from ...cases import small_config, spread
from .cases import assert_same_step, gradients, random_batch, random_model, step


def small_model(make: type[nn.Module] = LongformerPlusForMaskedLM, **changes: Any) -> Any:
    fields = small_config(**changes).to_dict()
    del fields["model_type"]
    torch.manual_seed(0)
    return spread(make(LongformerPlusConfig(**fields)), 0.1).train()  # type: ignore[call-arg]


def small_batch(rows: int = 2, tokens: int = 64) -> dict[str, Tensor]:
    """Two global tokens in each row, and labels."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 60, (rows, tokens), generator=generator)
    is_global = torch.zeros_like(ids)
    is_global[:, [0, tokens // 2]] = 1
    return {"input_ids": ids, "global_attention_mask": is_global, "labels": ids.clone()}


def any_rank(value: bool, group: ProcessGroup) -> bool:
    total = torch.tensor(int(value))
    dist.all_reduce(total, group=group)
    return int(total) > 0


def same_in_float32(group: ProcessGroup) -> None:
    assert_same_step(small_model(), small_batch(), group, tolerance=1e-5)


def close_in_bfloat16(group: ProcessGroup) -> None:
    """The error against float64 is at most twice that of one process."""
    batch = small_batch()
    exact = step(small_model().double(), batch).loss
    model = small_model().bfloat16()
    alone = step(model, batch).loss
    with split_sequence(model, group):
        split = step(model, batch).loss
    assert abs(split - exact) <= 2 * abs(alone - exact) + 1e-3


def close_under_autocast(group: ProcessGroup) -> None:
    """Of weights in float32: the error against float64 is at most twice that of one process, also of the gradients."""
    batch = small_batch()
    exact_model = small_model().double()
    exact = step(exact_model, batch).loss
    model = small_model()
    with torch.autocast("cpu", torch.bfloat16):
        alone = model(**batch).loss
    alone.backward()
    alone_gradients = gradients(model)
    model.zero_grad()
    with split_sequence(model, group), torch.autocast("cpu", torch.bfloat16):
        split = model(**batch).loss
    split.backward()
    average_gradients(model, group)
    assert abs(split - exact) <= 2 * abs(alone - exact) + 1e-3
    found = gradients(model)
    for name, expected in gradients(exact_model).items():
        # In truth they are zero: what is found is rounding alone.
        if name.endswith((".key.bias", ".key_global.bias")):
            continue
        errors = [(each[name] - expected).norm() for each in (found, alone_gradients)]
        assert errors[0] <= 2 * errors[1] + 1e-3 * expected.norm() + 1e-6, name


def packed_batch() -> dict[str, Tensor]:
    """Four documents in a row, of which one spans several slices and two stand in one; each has a global token."""
    batch = small_batch(1)
    places = torch.arange(64)[None]
    ends = torch.tensor([5, 45, 52])
    batch["document_ids"] = (places[..., None] >= ends).sum(-1)
    batch["global_attention_mask"] = (places[..., None] == torch.tensor([0, 20, 45, 60])).any(-1).long()
    return batch


def padded_batch() -> dict[str, Tensor]:
    """One row is full, of the other all but 19 tokens are padding."""
    batch = small_batch()
    valid = torch.arange(64).expand(2, -1) < torch.tensor([[64], [19]])
    return {
        "input_ids": batch["input_ids"].masked_fill(~valid, 1),
        "labels": batch["labels"].masked_fill(~valid, -100),
        "global_attention_mask": batch["global_attention_mask"],
        "attention_mask": valid.long(),
    }


def same_with(
    group: ProcessGroup,
    batch: dict[str, Tensor],
    backends: tuple[str, ...] = ("eager", "sdpa"),
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
    checkpointing: str | None = None,
    **changes: Any,
) -> None:
    """With fields of a configuration, or another way to run its model."""
    batch = {name: values.to(device) for name, values in batch.items()}
    for backend in backends:
        model = small_model(**changes).to(device, dtype)
        model.set_attn_implementation(backend)
        if checkpointing is not None:
            model.gradient_checkpointing_enable({"use_reentrant": checkpointing == "reentrant"})
        assert_same_step(model, batch, group, tolerance=1e-10 if dtype == torch.float64 else 1e-4)


def dropout_keeps_the_mean(group: ProcessGroup) -> None:
    """Of a layer's attention, local and global rows: over many draws it is what it is without dropout."""
    model = small_model(attention_probs_dropout_prob=0.3, attention_window=8)
    attention = model.longformer.encoder.layer[0].attention.self
    seen: list[Any] = []
    hook = attention.register_forward_pre_hook(lambda _, args: seen.append(args))
    with torch.no_grad(), split_sequence(model, group):
        model(**small_batch(1, 24))
    hook.remove()
    torch.manual_seed(dist.get_rank(group))
    with torch.no_grad():
        draws = torch.stack([attention(*seen[0])[0] for _ in range(150)])
        expected = attention.eval()(*seen[0])[0]
    error = (draws.mean(0) - expected).abs() / (draws.std(0) / len(draws) ** 0.5)
    assert draws.std(0).min() > 0
    assert error.max() < 6


def layers_compile(group: ProcessGroup) -> None:
    """Each layer as one graph, forward and backward, with global tokens and with dilations of heads."""
    batch = small_batch()
    model = small_model(attention_dilation=[1, [1, 2, 1]]).double()
    step(model, batch)
    expected = gradients(model)
    for layer in model.longformer.encoder.layer:
        layer.compile(backend="aot_eager", fullgraph=True)
    model.zero_grad()
    torch._dynamo.utils.counters.clear()
    with split_sequence(model, group):
        step(model, batch)
    average_gradients(model, group)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == len(model.longformer.encoder.layer)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def a_whole_model_compiles_in_parts(group: ProcessGroup) -> None:
    """As one graph it is refused."""
    batch = small_batch()
    model = small_model().double()
    step(model, batch)
    expected = gradients(model)
    graph = torch.compile(model, backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match="split_sequence decides on the host"), split_sequence(graph, group):
        graph(**batch)
    torch._dynamo.reset()
    parts = torch.compile(model, backend="aot_eager")
    with split_sequence(parts, group):
        step(parts, batch)
    average_gradients(model, group)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def same_with_lora(group: ProcessGroup) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["query", "value", "query_global", "value_global"], init_lora_weights=False)
    model = get_peft_model(small_model().double(), config).train()
    spread(model, 0.1)
    assert_same_step(model, small_batch(), group)


def states_and_logits_are_of_the_slice(group: ProcessGroup) -> None:
    model, batch = small_model().double(), small_batch(tokens=61)
    alone = model(**batch, output_hidden_states=True)
    with split_sequence(model, group):
        split = model(**batch, output_hidden_states=True)
    own = plan.Slices.of(61, dist.get_world_size(group), dist.get_rank(group)).own
    here = slice(own.start, own.stop)
    torch.testing.assert_close(split.logits, alone.logits[:, here])
    for one, whole in zip(split.hidden_states, alone.hidden_states, strict=True):
        torch.testing.assert_close(one, whole[:, here])


def embeddings_in_place_of_ids(group: ProcessGroup) -> None:
    model, batch = small_model().double(), small_batch()
    batch["inputs_embeds"] = model.get_input_embeddings()(batch.pop("input_ids")).detach()
    batch["position_ids"] = torch.arange(5, 69)[None]
    assert_same_step(model, batch, group)


@contextmanager
def _halo_one_short() -> Iterator[None]:
    whole = plan._reached

    def short(span: range, reach: int, num_tokens: int, is_causal: bool) -> range:
        return whole(span, reach - 1, num_tokens, is_causal)

    with mock.patch.object(plan, "_reached", short):
        yield


@contextmanager
def _key_dropped_from_global_rows() -> Iterator[None]:
    whole = plan.QuestionPlan.of

    def short(*args: Any) -> plan.QuestionPlan:
        made = whole(*args)
        made.allowed[..., -1:] = False
        return made

    with mock.patch.object(plan.QuestionPlan, "of", short):
        yield


@contextmanager
def _backward_exchange_zeroed() -> Iterator[None]:
    whole = exchange._AllToAll.backward

    def zeroed(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return whole(ctx, torch.zeros_like(grad))

    with mock.patch.object(exchange._AllToAll, "backward", zeroed):
        yield


MUTATIONS: dict[str, Callable[[], Any]] = {
    "halo one short": _halo_one_short,
    "key dropped from global rows": _key_dropped_from_global_rows,
    "backward exchange zeroed": _backward_exchange_zeroed,
}


def mutation_is_caught(group: ProcessGroup, mutation: str) -> None:
    """What the other checks compare does differ."""
    model, batch = small_model().double(), small_batch()
    caught = False
    with MUTATIONS[mutation]():
        try:
            assert_same_step(model, batch, group)
        except AssertionError:
            caught = True
    assert any_rank(caught, group)


def bytes_do_not_grow(group: ProcessGroup) -> None:
    """What a layer sends in a forward is the halo, whatever the length of the document."""
    sent: dict[int, list[int]] = {}
    for tokens in (256, 1024):
        with mock.patch.object(dist, "all_to_all_single", wraps=dist.all_to_all_single) as calls, torch.no_grad():
            model = small_model(max_position_embeddings=1100).eval()
            batch = {"input_ids": small_batch(1, tokens)["input_ids"]}
            with split_sequence(model, group):
                model(**batch)
        sent[tokens] = [bytes_to_others(call.args[1], call.args[3], group) for call in calls.call_args_list]
    assert sent[256] == sent[1024]
    width, reach, rank, size = 24, (4, 8), dist.get_rank(group), dist.get_world_size(group)
    neighbours = (rank > 0) + (rank < size - 1)
    assert sent[256] == [neighbours * tokens * 2 * width * 4 for tokens in reach]


def bytes_to_others(rows: Tensor, sends: list[int], group: ProcessGroup) -> int:
    """Of an exchange, what does not stay in the process."""
    features = rows[0].numel() if len(rows) else 0
    return (sum(sends) - sends[dist.get_rank(group)]) * features * rows.element_size()


def _draw(drawn: list[Tensor], device: str, *_: Any) -> None:
    drawn.append(torch.rand((), device=device))


def streams_differ(group: ProcessGroup, device: str = "cpu") -> None:
    """Processes with one seed drop other states of their slices, draw alike outside, and again when checkpointed."""
    batch = {name: values.to(device) for name, values in small_batch().items()}
    losses = []
    for is_checkpointed in (False, True):
        model = small_model(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3).to(device)
        if is_checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        drawn: list[Tensor] = []
        hook = partial(_draw, drawn, device)
        model.longformer.embeddings.dropout.register_forward_hook(hook)
        torch.manual_seed(3)
        with split_sequence(model, group):
            losses.append(step(model, batch).loss)
        for values, differ in ((drawn[0], True), (torch.rand((), device=device), False), (losses[-1].detach(), False)):
            everyones = exchange.gather_on_all(values, group)
            assert (len(everyones.unique()) == len(everyones)) is differ
    torch.testing.assert_close(losses[0], losses[1])


def other_inputs_are_refused(group: ProcessGroup) -> None:
    model, batch = small_model(), small_batch()
    rank = dist.get_rank(group)
    other = {**batch, "input_ids": batch["input_ids"] + (rank == 1)}
    shorter = {name: values[:, : 64 - rank] for name, values in batch.items()}
    more = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])} if rank else batch
    labels = {**batch, "labels": batch["labels"].flip(rank)}
    with split_sequence(model, group):
        for wrong, message in ((other, "input_ids"), (shorter, "labels"), (more, "arguments"), (labels, "labels")):
            with pytest.raises(ValueError, match=message):
                model(**wrong)
    assert_same_step(small_model().double(), batch, group)


def what_cannot_be_is_refused(group: ProcessGroup) -> None:
    model, batch = small_model(), small_batch()
    padded = {**batch, "attention_mask": torch.arange(64).expand(2, -1).lt(40).long()}
    padded["input_ids"] = batch["input_ids"].masked_fill(padded["attention_mask"] == 0, 1)
    with split_sequence(model, group):
        with pytest.raises(ValueError, match="output_attentions"):
            model(**batch, output_attentions=True)
        with pytest.raises(ValueError, match="cache"):
            model.longformer(batch["input_ids"], use_cache=True)
        causal = small_model(LongformerPlusForCausalLM)
        with split_sequence(causal, group), pytest.raises(ValueError, match="logits_to_keep"):
            causal(batch["input_ids"], logits_to_keep=1)
        with pytest.raises(ValueError, match="Padding has labels"):
            model(**padded)
        with pytest.raises(ValueError, match="split already"), split_sequence(model, group):
            pass
    with pytest.raises(ValueError, match="holds no LongformerPlusModel"), split_sequence(nn.Linear(2, 2), group):
        pass
    with pytest.raises(TypeError, match="NoneType"), split_sequence(model, None):  # type: ignore[arg-type]
        pass
    assert model.longformer.sequence_split is None
    assert not model._forward_pre_hooks
    assert not model._forward_hooks


def the_context_parallelism_of_torch_is_refused(group: ProcessGroup) -> None:
    from torch.distributed.tensor.experimental import context_parallel

    mesh = DeviceMesh.from_group(group, "cpu")
    model, ids = small_model(), small_batch()["input_ids"]
    with (
        context_parallel(mesh, buffers=[ids], buffer_seq_dims=[1]),
        pytest.raises(RuntimeError, match="split_sequence"),
    ):
        model(ids)
    model(ids)


def a_mesh_is_as_good_as_a_group(group: ProcessGroup) -> None:
    """Two documents, each over two processes: with DistributedDataParallel over all four, and with FSDP2."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "cp"))
    batch = small_batch(rows=4)
    batch["labels"] = torch.tensor([0, 1, 1, 0])
    mine = {name: values[2 * mesh.get_local_rank("dp") :][:2] for name, values in batch.items()}
    make = LongformerPlusForSequenceClassification
    alone = small_model(make, num_labels=2).double()
    step(alone, batch)
    expected = gradients(alone)
    with pytest.raises(ValueError, match="2 dimensions"), split_sequence(alone, mesh):
        pass

    parallel = DistributedDataParallel(small_model(make, num_labels=2).double())
    for _ in range(2):
        with split_sequence(parallel, mesh["cp"]):
            step(parallel, mine)
    for name, gradient in gradients(parallel.module).items():
        torch.testing.assert_close(gradient, expected[name], msg=f"DDP: {name}")

    from torch.distributed.fsdp import fully_shard

    sharded = small_model(make, num_labels=2).double()
    for layer in sharded.longformer.encoder.layer:
        fully_shard(layer, mesh=mesh._flatten("all"))
    fully_shard(sharded, mesh=mesh["all"])
    for _ in range(2):
        with split_sequence(sharded, mesh["cp"]):
            step(sharded, mine)
    for name, gradient in gradients(sharded).items():
        torch.testing.assert_close(gradient.full_tensor(), expected[name], msg=f"FSDP2: {name}")


def gradients_without_the_context(group: ProcessGroup) -> None:
    """The backward pass may come after the context."""
    model, batch = small_model().double(), small_batch()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    step(model, batch)
    expected = gradients(model)
    model.zero_grad()
    with split_sequence(model, group):
        loss = model(**batch).loss
    loss.backward()
    average_gradients(model, group)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def random_batches_of_one_model(group: ProcessGroup, seeds: range) -> None:
    """Longer documents, so that halos have several hops and whole slices between them."""
    draw = random.Random(0)
    model = random_model(draw, "MaskedLM")
    for seed in seeds:
        assert_same_step(model, random_batch(random.Random(seed), "MaskedLM", most_tokens=300), group)
