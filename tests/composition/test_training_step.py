"""Hooks, checkpointing and other wrappers change neither the loss nor the gradients of a model.

Every variant of a training step is compared with the plain step of the same seed, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_full_backward_hook,
)
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from longformer_plus import LongformerPlusForMaskedLM
from longformer_plus.model.layers import LongformerPlusLayer

from ..cases import small_config, spread

TOLERANCE = 1e-5
Batch = Mapping[str, Tensor]
Gradients = dict[str, Tensor]
Result = tuple[Tensor, Gradients]


@dataclass(frozen=True)
class Setting:
    """A model and a batch.

    Attributes:
        backend: of the local rows.
        dropout: everywhere in the model.
        is_padded: whether one of the two documents is shorter.
        num_global: global tokens of each document. Of one the global projections' weights are read directly; of 12 not.
        is_wide: whether documents and feed-forward are so large that a CPU computes them in pieces without gradients.
    """

    backend: str
    dropout: float
    is_padded: bool
    num_global: int
    is_wide: bool = False

    def __str__(self) -> str:
        padding = "padded" if self.is_padded else "full"
        size = "-wide" if self.is_wide else ""
        return f"{self.backend}-{self.dropout}-{padding}-{self.num_global}{size}"


def settings(**chosen: Any) -> list[Setting]:
    factors: dict[str, tuple[Any, ...]] = {
        "backend": ("eager", "sdpa", "flex_attention"),
        "dropout": (0.0, 0.1),
        "is_padded": (False, True),
        "num_global": (0, 1, 12),
    }
    factors.update(chosen)
    return [Setting(**dict(zip(factors, values, strict=True))) for values in product(*factors.values())]


def make(setting: Setting) -> LongformerPlusForMaskedLM:
    """A model in float64 and in training mode."""
    torch.manual_seed(0)
    config = small_config(
        hidden_dropout_prob=setting.dropout,
        attention_probs_dropout_prob=setting.dropout,
        intermediate_size=4096 if setting.is_wide else 40,
    )
    model = LongformerPlusForMaskedLM._from_config(config, attn_implementation=setting.backend)
    return spread(model, 0.02 if setting.is_wide else 0.3).double().train()  # type: ignore[return-value]


def batch_of(setting: Setting, seed: int = 0) -> Batch:
    """Two documents for masked language modelling, of several blocks of queries."""
    num_tokens = 500 if setting.is_wide else 90
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 60, (2, num_tokens), generator=generator)
    lengths = torch.tensor([[num_tokens], [num_tokens * 2 // 3 if setting.is_padded else num_tokens]])
    attention_mask = (torch.arange(num_tokens) < lengths).long()
    places = torch.stack([torch.randperm(num_tokens // 2, generator=generator)[: setting.num_global] for _ in range(2)])
    is_labelled = (torch.rand(ids.shape, generator=generator) < 0.3) & (attention_mask > 0)
    return {
        "input_ids": ids.masked_fill(attention_mask == 0, 1),
        "attention_mask": attention_mask,
        "global_attention_mask": torch.zeros_like(ids).scatter(1, places, 1),
        "labels": torch.where(is_labelled, ids, -100),
    }


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """The loss of a step whose dropout is always drawn alike."""
    torch.manual_seed(1)
    loss: Tensor = model(**batch).loss
    return loss


def step(model: nn.Module, batch: Batch, run: Callable[[nn.Module, Batch], Tensor] = loss_of) -> Result:
    """The loss that `run` gives, and the gradients of the parameters that have one, by name."""
    parameters = dict(model.named_parameters())
    loss = run(model, batch)
    loss.backward()
    return loss.detach(), {name: each.grad for name, each in parameters.items() if each.grad is not None}


@cache
def plain(setting: Setting) -> Result:
    """A step with nothing around it. Where nothing is dropped, all backends are held against one."""
    if not setting.dropout:
        setting = replace(setting, backend="eager")
    elif setting.backend == "flex_attention":
        setting = replace(setting, backend="sdpa")
    return step(make(setting), batch_of(setting))


def assert_same(have: Result, want: Result, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(have[0], want[0], rtol=tolerance, atol=0)
    assert have[1].keys() == want[1].keys()
    # The true gradient of a bias of keys is zero: there both sides hold rounding alone.
    rounding = 1e-7 * tolerance * torch.stack([gradient.norm() for gradient in want[1].values()]).norm().item()
    for name, gradient in want[1].items():
        error = (have[1][name] - gradient).norm().item()
        assert error <= tolerance * gradient.norm().item() + rounding, f"{name}: {error:.1e} of {gradient.norm():.1e}"


def as_it_is(model: nn.Module, batch: Batch) -> Result:
    return step(model, batch)


def checkpointed_layers(model: nn.Module, batch: Batch, use_reentrant: bool) -> Result:
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    return step(model, batch)


def checkpointed_model(model: nn.Module, batch: Batch, use_reentrant: bool, **options: Any) -> Result:
    # Reentrant checkpoints want an argument that has a gradient.
    start = torch.zeros((), requires_grad=True)

    def loss_after(start: Tensor, batch: Batch) -> Tensor:
        return start + model(**batch).loss

    def run(model: nn.Module, batch: Batch) -> Tensor:
        torch.manual_seed(1)
        return checkpoint(loss_after, start, batch, use_reentrant=use_reentrant, **options)

    return step(model, batch, run)


def checkpointed_but_for_products(model: nn.Module, batch: Batch) -> Result:
    """Torch's selective checkpoint, as large models are trained with it."""
    products = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}

    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operation in products else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = partial(create_selective_checkpoint_contexts, policy)
    return checkpointed_model(model, batch, use_reentrant=False, context_fn=contexts)


def wrapped_layers(model: nn.Module, batch: Batch, kind: CheckpointImpl) -> Result:
    """What accelerate's `fsdp_activation_checkpointing` puts around layers."""
    parameters = dict(model.named_parameters())
    apply_activation_checkpointing(
        model,
        checkpoint_wrapper_fn=partial(checkpoint_wrapper, checkpoint_impl=kind),
        check_fn=lambda module: isinstance(module, LongformerPlusLayer),
    )
    loss, _ = step(model, batch)
    return loss, {name: each.grad for name, each in parameters.items() if each.grad is not None}


def saved_elsewhere(model: nn.Module, batch: Batch) -> Result:
    def run(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autograd.graph.save_on_cpu():
            return loss_of(model, batch)

    return step(model, batch, run)


def tensors_in(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from tensors_in(tuple(values.values()))
    elif isinstance(values, (tuple, list)):
        for each in values:
            yield from tensors_in(each)


@contextmanager
def kept_by_hooks(model: nn.Module, is_global: bool) -> Iterator[None]:
    """Forward hooks that keep what goes into and comes out of every module; none of it may be overwritten."""
    kept: list[tuple[str, Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: Any, outputs: Any) -> None:
        kept.extend((type(module).__name__, each, each.detach().clone()) for each in tensors_in([inputs, outputs]))

    if is_global:
        handles = [register_module_forward_hook(keep)]
    else:
        handles = [module.register_forward_hook(keep) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    assert len(kept) > 50
    assert not [name for name, each, copy in kept if not torch.equal(each.detach(), copy)]


@contextmanager
def seen_by_backward_hooks(model: nn.Module, is_global: bool) -> Iterator[None]:
    seen: list[nn.Module] = []

    def see(module: nn.Module, grad_inputs: Any, grad_outputs: Any) -> None:
        if all(each is not None for each in grad_outputs):
            seen.append(module)

    if is_global:
        handles = [register_module_full_backward_hook(see)]
    else:
        handles = [module.register_full_backward_hook(see) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    for layer in model.base_model.encoder.layer:
        assert seen.count(layer) == seen.count(layer.output) == 1


def hooked(
    model: nn.Module, batch: Batch, hooks: Callable[..., AbstractContextManager[None]], **options: bool
) -> Result:
    with hooks(model, **options):
        return step(model, batch)


def as_a_function(model: nn.Module, batch: Batch) -> Result:
    def run(parameters: Gradients) -> Tensor:
        torch.manual_seed(1)
        return torch.func.functional_call(model, parameters, kwargs=batch).loss

    parameters = {name: each.detach() for name, each in model.named_parameters()}
    gradients, loss = torch.func.grad_and_value(run)(parameters)
    return loss, gradients


STYLES: dict[str, Callable[[nn.Module, Batch], Result]] = {
    "plain": as_it_is,
    "checkpointed layers": partial(checkpointed_layers, use_reentrant=False),
    "checkpointed layers, reentrant": partial(checkpointed_layers, use_reentrant=True),
    "checkpointed model": partial(checkpointed_model, use_reentrant=False),
    "checkpointed model, reentrant": partial(checkpointed_model, use_reentrant=True),
    "checkpointed but for products": checkpointed_but_for_products,
    "wrapped layers": partial(wrapped_layers, kind=CheckpointImpl.NO_REENTRANT),
    "wrapped layers, reentrant": partial(wrapped_layers, kind=CheckpointImpl.REENTRANT),
    "saved elsewhere": saved_elsewhere,
    "forward hooks": partial(hooked, hooks=kept_by_hooks, is_global=False),
    "global forward hooks": partial(hooked, hooks=kept_by_hooks, is_global=True),
    "backward hooks": partial(hooked, hooks=seen_by_backward_hooks, is_global=False),
    "global backward hooks": partial(hooked, hooks=seen_by_backward_hooks, is_global=True),
    "function": as_a_function,
}


def covering(settings: list[Setting], shift: int = 0) -> list[Any]:
    """All settings, of which the default run takes a third that has each pair of values of any two factors."""
    backends = ("eager", "sdpa", "flex_attention")
    cases = []
    for each in settings:
        levels = backends.index(each.backend) + (each.dropout > 0) + each.is_padded + (0, 1, 12).index(each.num_global)
        marks = [] if (levels + shift) % 3 == 0 else [pytest.mark.slow]
        cases.append(pytest.param(each, marks=marks, id=str(each)))
    return cases


def styles_and_settings() -> list[Any]:
    cases = []
    for shift, style in enumerate(STYLES):
        for case in covering(settings(), shift):
            cases.append(pytest.param(style, *case.values, marks=case.marks, id=f"{style}-{case.id}"))
    for style in ("checkpointed layers, reentrant", "checkpointed model, reentrant", "forward hooks"):
        for setting in settings(backend=("eager", "sdpa"), num_global=(1,), is_wide=(True,)):
            cases.append(pytest.param(style, setting, id=f"{style}-{setting}"))
    return cases


@pytest.mark.parametrize(("style", "setting"), styles_and_settings())
def test_a_step_is_the_plain_step(style: str, setting: Setting) -> None:
    assert_same(STYLES[style](make(setting), batch_of(setting)), plain(setting))


def assert_slope(model: nn.Module, batch: Batch, gradients: Gradients) -> None:
    """Along the gradient a loss rises by the gradient's length."""
    parameters = {name: each for name, each in model.named_parameters() if name in gradients}
    length = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    losses = []
    for distance in (1e-4, -1e-4):
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.add_(gradients[name], alpha=distance / length.item())
            with torch.enable_grad():  # without, a fast path may draw dropout otherwise
                losses.append(loss_of(model, batch).detach())
            for name, parameter in parameters.items():
                parameter.sub_(gradients[name], alpha=distance / length.item())
    torch.testing.assert_close((losses[0] - losses[1]) / 2e-4, length, rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize("setting", settings(backend=("eager", "sdpa"), dropout=(0.1,)), ids=str)
def test_the_plain_step_with_dropout_has_the_right_gradient(setting: Setting) -> None:
    model = make(setting)
    _, gradients = step(model, batch_of(setting))
    assert_slope(model, batch_of(setting), gradients)


ADAPTED = ("query", "key", "value", "query_global", "key_global", "value_global", "dense")


@pytest.mark.parametrize("setting", covering(settings()))
def test_lora_learns_as_the_merged_weights_do(setting: Setting) -> None:
    """The gradients of A and B follow from that of the merged weight W + s B A."""
    peft = pytest.importorskip("peft")
    batch = batch_of(setting)
    config = peft.LoraConfig(target_modules=list(ADAPTED), r=2, lora_alpha=1, init_lora_weights=False)
    torch.manual_seed(2)
    model = peft.get_peft_model(make(setting), config).double().train()
    loss, gradients = step(model, batch)
    assert all(".lora_" in name for name in gradients)
    if setting.dropout:
        assert_slope(model, batch, gradients)
        return
    want = {}
    layers = {name: each for name, each in model.named_modules() if isinstance(each, peft.tuners.lora.Linear)}
    factors = {
        name: (each.lora_A["default"].weight.detach().clone(), each.lora_B["default"].weight.detach().clone())
        for name, each in layers.items()
    }
    merged_loss, merged = step(model.merge_and_unload().requires_grad_(True), batch)
    for name, (a, b) in factors.items():
        gradient = merged[name.removeprefix("base_model.model.") + ".weight"] * layers[name].scaling["default"]
        want[f"{name}.lora_A.default.weight"] = b.T @ gradient
        want[f"{name}.lora_B.default.weight"] = gradient @ a.T
    assert_same((loss, gradients), (merged_loss, want))


def all_gradients(result: Result) -> Tensor:
    return torch.cat([result[1][name].flatten().double() for name in sorted(result[1])])


@pytest.mark.parametrize("use_reentrant", [None, False, True])
@pytest.mark.parametrize("setting", settings(backend=("sdpa",), dropout=(0.0,)), ids=str)
def test_autocast_errs_no_more_than_eager_does(setting: Setting, use_reentrant: bool | None) -> None:
    """Gradients in bfloat16, also of layers that are computed again, against those in float64."""

    def under_autocast(backend: str, use_reentrant: bool | None) -> Tensor:
        model = make(replace(setting, backend=backend)).float()
        if use_reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})

        def run(model: nn.Module, batch: Batch) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return loss_of(model, batch)

        result = step(model, batch_of(setting), run)
        assert {gradient.dtype for gradient in result[1].values()} == {torch.float32}
        return all_gradients(result)

    want = all_gradients(plain(setting))
    error = (under_autocast(setting.backend, use_reentrant) - want).norm()
    assert error <= 2 * (under_autocast("eager", None) - want).norm()


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("setting", covering(settings(dropout=(0.0,))))
def test_two_threads_at_once(setting: Setting, is_checkpointed: bool) -> None:
    """Forward and backward of two batches of different lengths of padding and numbers of global tokens."""
    model = make(setting)
    if is_checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    other = replace(setting, is_padded=not setting.is_padded, num_global=(setting.num_global + 1) % 5)
    batches = [batch_of(setting, seed=0), batch_of(other, seed=1)]
    names, parameters = zip(*model.named_parameters(), strict=True)
    barrier = Barrier(2, timeout=60)

    def work(batch: Batch, waits: bool = True) -> list[Result]:
        results = []
        for _ in range(2):
            if waits:
                barrier.wait()
            loss = model(**batch).loss
            # Not `backward`: two of them would add to the same gradients.
            gradients = torch.autograd.grad(loss, parameters)
            results.append((loss.detach(), dict(zip(names, gradients, strict=True))))
        return results

    expected = [work(batch, waits=False) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        for have, want in zip(pool.map(work, batches), expected, strict=True):
            for one, other_one in zip(have, want, strict=True):
                assert_same(one, other_one)


@pytest.mark.parametrize("is_global", [False, True], ids=["module hooks", "global hooks"])
@pytest.mark.parametrize(
    "setting", settings(backend=("eager", "sdpa"), dropout=(0.0,), num_global=(1,), is_wide=(True,)), ids=str
)
def test_hooks_keep_what_they_are_given_without_gradients(setting: Setting, is_global: bool) -> None:
    """Long documents in inference, where memory is most worth using again."""
    model = make(setting).eval()
    batch = batch_of(setting)
    with torch.no_grad():
        want = model(**batch).logits
        with kept_by_hooks(model, is_global):
            have = model(**batch).logits
    torch.testing.assert_close(have, want, rtol=0, atol=1e-9)
