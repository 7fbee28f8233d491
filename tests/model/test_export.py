"""One traced graph for every batch size, length and number of global tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo
from torch.export import Dim

import longformer_plus

from ..cases import small_config, spread

HEADS = [
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForQuestionAnswering",
    "ForTokenClassification",
    "ForMultipleChoice",
]
SHAPES = [(2, 40, 1), (1, 1, 0), (1, 1, 1), (3, 7, 2), (2, 8, 0), (2, 17, 17), (1, 33, 5), (1, 100, 100), (2, 333, 7)]


def make(head: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return spread(
        getattr(longformer_plus, f"LongformerPlus{head}")(small_config(attention_window=[8, 12], unpad_inputs=False))
    ).eval()


def batch(head: str, rows: int, tokens: int, num_global: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(3, 60, (rows, tokens), generator=generator)
    mask, is_global = torch.ones_like(ids), torch.zeros_like(ids)
    is_global[0, torch.randperm(tokens, generator=generator)[:num_global]] = 1
    if tokens > 4:
        mask[0, -2:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "global_attention_mask": is_global}
    if head == "ForMultipleChoice":
        return {name: tensor[:, None].repeat(1, 2, 1) for name, tensor in inputs.items()}
    return inputs


def assert_same(have: Any, want: Any) -> None:
    for name in ("last_hidden_state", "logits", "start_logits", "end_logits"):
        if name in want:
            torch.testing.assert_close(have[name], want[name], atol=2e-5, rtol=0)


# Multiple choice has a dimension more than the others, which are alike, and all that they have.
SLOW_HEADS = [pytest.param(head, marks=pytest.mark.slow) for head in HEADS if head != "ForMultipleChoice"]


@pytest.mark.parametrize("head", ["ForMultipleChoice", *SLOW_HEADS])
@torch.no_grad()
def test_torch_export_with_dynamic_shapes(head: str) -> None:
    model = make(head)
    example = batch(head, 2, 40, 1)
    last = example["input_ids"].dim() - 1
    shapes = {name: {0: Dim.DYNAMIC, last: Dim.DYNAMIC} for name in example}
    exported = torch.export.export(model, (), example, dynamic_shapes=shapes, strict=False).module()
    for shape in SHAPES:
        inputs = batch(head, *shape)
        assert_same(exported(**inputs), model(**inputs))


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_torch_export_with_static_shapes(head: str) -> None:
    """In core operations none is a strided view, which some accelerators have not."""
    model = make(head)
    exported = torch.export.export(model, (), batch(head, 2, 140, 1), strict=False).run_decompositions()
    operations = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert any(name.startswith("aten.bmm") for name in operations)
    assert not [name for name in operations if "as_strided" in name or "unfold" in name]
    module = exported.module()
    for num_global in (0, 3, 140):
        inputs = batch(head, 2, 140, num_global)
        assert_same(module(**inputs), model(**inputs))


@torch.no_grad()
def test_with_a_known_number_of_global_tokens_no_size_depends_on_the_inputs() -> None:
    model = make("Model")
    options = {"max_global_tokens": 3}
    exported = torch.export.export(model, (), {**batch("Model", 2, 140, 1), **options}, strict=False)
    exported = exported.run_decompositions()
    operations = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert not [name for name in operations if "local_scalar" in name or "sym_size" in name or "nonzero" in name]
    for num_global in (0, 1, 3):
        inputs = batch("Model", 2, 140, num_global)
        assert_same(exported.module()(**inputs, **options), model(**inputs))

    # Nor does compiling in one piece then need scalars to be captured.
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    inputs = batch("Model", 2, 40, 2)
    assert_same(compiled(**inputs, **options), model(**inputs))

    with pytest.raises(ValueError, match="4 global tokens, but max_global_tokens=3"):
        model(**batch("Model", 2, 140, 4), **options)
    with pytest.raises(ValueError, match="max_global_tokens=-1"):
        model(**batch("Model", 2, 140, 0), max_global_tokens=-1)


@pytest.mark.parametrize("mode", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@torch.no_grad()
@torch._dynamo.config.patch(capture_scalar_outputs=True)
def test_torch_compile_in_one_piece(mode: str) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.compiler.reset()
    model = make("Model")
    counter = CompileCounterWithBackend(mode)
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for shape in SHAPES[::2]:
        inputs = batch("Model", *shape)
        assert_same(compiled(**inputs), model(**inputs))
    assert counter.frame_count <= 6


@pytest.mark.parametrize(
    ("mode", "num_global", "is_checkpointed"),
    [
        pytest.param("aot_eager", 1, False, marks=pytest.mark.slow),
        ("aot_eager", 1, True),
        pytest.param("aot_eager", 0, False, marks=pytest.mark.slow),
        pytest.param("aot_eager", 0, True, marks=pytest.mark.slow),
        pytest.param("inductor", 1, False, marks=pytest.mark.slow),
        pytest.param("inductor", 0, True, marks=pytest.mark.slow),
    ],
)
@torch._dynamo.config.patch(capture_scalar_outputs=True)
def test_training_compiled_in_one_piece(mode: str, num_global: int, is_checkpointed: bool) -> None:
    """Forward and backward, with the loss and the gradients of the model as it is."""
    torch.compiler.reset()
    torch.manual_seed(0)
    # Checkpointed layers share what no layer may change.
    config = small_config(attention_window=8, num_hidden_layers=2 if is_checkpointed else 1, unpad_inputs=False)
    model = spread(longformer_plus.LongformerPlusForMaskedLM(config)).train()
    if is_checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    inputs = batch("ForMaskedLM", 2, 40, num_global)
    inputs["labels"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    results = []
    for each in (model, torch.compile(model, fullgraph=True, backend=mode, dynamic=False)):
        model.zero_grad()
        loss = each(**inputs).loss
        loss.backward()
        results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        results[-1]["loss"] = loss.detach()
    want, have = results
    assert have.keys() == want.keys()
    for name, gradient in want.items():
        assert (have[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-5, name


@pytest.mark.parametrize("dynamic", [pytest.param(False, marks=pytest.mark.slow), True])
@torch.no_grad()
def test_the_exporter_of_transformers(dynamic: bool) -> None:
    exporter = pytest.importorskip("transformers.exporters.exporter_dynamo")
    model = make("ForMaskedLM")
    inputs = batch("ForMaskedLM", 2, 40, 1)
    program = exporter.DynamoExporter().export(model, inputs, exporter.DynamoConfig(dynamic=dynamic))
    program = getattr(program, "program", program)
    assert_same(program.module()(**inputs), model(**inputs))
