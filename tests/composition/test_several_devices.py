"""Several processes and devices: DistributedDataParallel, FSDP2, and layers on different devices."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch import distributed as dist
from torch import multiprocessing as processes
from torch.nn.parallel import DistributedDataParallel

import longformer_plus
from longformer_plus import LongformerPlusConfig, LongformerPlusForMaskedLM
from longformer_plus.attention import AttentionPattern
from longformer_plus.model.layers import LongformerPlusLayer

from ..cases import BACKENDS, small_config, spread
from ..fine_tuning import model_fields, rows, write_rows

pytest.importorskip("accelerate")

from accelerate.hooks import AlignDevicesHook, add_hook_to_module

CONFIGURATIONS = Path(__file__).parents[2] / "docs" / "examples" / "accelerate"
HEADS = ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")


def make_model(head: str) -> torch.nn.Module:
    fields = small_config(num_labels=2).to_dict()
    del fields["model_type"]
    torch.manual_seed(0)
    return spread(getattr(longformer_plus, f"LongformerPlusFor{head}")(LongformerPlusConfig(**fields)), 0.1).train()


def make_batch(head: str, num_global: int | None) -> dict[str, Tensor]:
    """Four documents; with so many global tokens, or those that the head chooses."""
    generator = torch.Generator().manual_seed(1)
    shape = (4, 2, 20) if head == "MultipleChoice" else (4, 20)
    ids = torch.randint(3, 60, shape, generator=generator)
    ids[..., [7, 8, 19]] = 2
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if num_global is not None:
        batch["global_attention_mask"] = (torch.arange(20) < num_global).long().expand(shape).contiguous()
    if head == "QuestionAnswering":
        batch["start_positions"] = batch["end_positions"] = torch.tensor([10, 11, 12, 13])
    else:
        labels = (4, 20) if head in ("MaskedLM", "TokenClassification") else (4,)
        batch["labels"] = torch.randint(0, 2, labels, generator=generator)
    return batch


def half(batch: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    return {name: values[2 * rank : 2 * rank + 2] for name, values in batch.items()}


def run_in_two_processes(work: Callable[[int], None]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes.start_processes(_process, (work, port), nprocs=2, start_method="spawn")


def _process(rank: int, work: Callable[[int], None], port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        work(rank)
    finally:
        dist.destroy_process_group()


# A head, its number of global tokens, and whether its layers are checkpointed.
Training = tuple[str, int | None, bool]
EVERY: list[Training] = [
    (head, count, is_checkpointed) for head in HEADS for count in (None, 0, 3) for is_checkpointed in (False, True)
]
FEW: list[Training] = [("MaskedLM", 0, False), ("MaskedLM", 3, True), ("QuestionAnswering", None, False)]


def _train_with_ddp(rank: int, trainings: list[Training]) -> None:
    for head, num_global, is_checkpointed in trainings:
        batch = make_batch(head, num_global)
        alone, parallel = make_model(head), make_model(head)
        if is_checkpointed:
            parallel.gradient_checkpointing_enable({"use_reentrant": False})
        wrapped = DistributedDataParallel(parallel)
        # Parameters that a step leaves out are found out in the next one.
        for _ in range(2):
            alone.zero_grad()
            wrapped.zero_grad()
            alone(**batch).loss.backward()
            wrapped(**half(batch, rank)).loss.backward()
        for name, parameter in alone.named_parameters():
            gradient = wrapped.module.get_parameter(name).grad
            torch.testing.assert_close(gradient, parameter.grad, atol=1e-5, rtol=1e-4, msg=f"{head} {name}")


def _train_with_fsdp(rank: int, trainings: list[Training]) -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for head, num_global, is_checkpointed in trainings:
        batch = make_batch(head, num_global)
        alone, sharded = make_model(head), make_model(head)
        if is_checkpointed:
            # As accelerate's `fsdp_activation_checkpointing` does.
            apply_activation_checkpointing(sharded, check_fn=lambda module: isinstance(module, LongformerPlusLayer))
        for layer in sharded.longformer.encoder.layer:
            fully_shard(layer, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        for model, part in ((alone, batch), (sharded, half(batch, rank))):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(2):
                optimizer.zero_grad()
                model(**part).loss.backward()
                optimizer.step()
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=False)
        gathered = get_model_state_dict(sharded, options=options)
        if rank == 0:
            again = make_model(head)
            again.load_state_dict(gathered)
            for name, parameter in alone.named_parameters():
                mine = again.get_parameter(name)
                torch.testing.assert_close(mine, parameter, atol=1e-5, rtol=1e-4, msg=f"{head} {name}")
            torch.testing.assert_close(again.eval()(**batch).loss, alone.eval()(**batch).loss)


def _train_with_both(rank: int, trainings: list[Training]) -> None:
    _train_with_ddp(rank, trainings)
    _train_with_fsdp(rank, trainings)


def test_two_processes_train_as_one() -> None:
    """DistributedDataParallel and FSDP2, of which starting the processes takes the most time."""
    run_in_two_processes(partial(_train_with_both, trainings=FEW))


@pytest.mark.slow
def test_ddp_of_every_head_finds_no_unused_parameters() -> None:
    run_in_two_processes(partial(_train_with_ddp, trainings=EVERY))


@pytest.mark.slow
def test_fsdp_of_every_head_is_gathered_and_loaded_again() -> None:
    run_in_two_processes(partial(_train_with_fsdp, trainings=EVERY))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["fill-mask", "text-generation", "text-classification", "question-answering"])
def test_the_command_in_two_processes_trains_as_in_one(
    task: str, tokenizer: longformer_plus.LongformerPlusTokenizer, tmp_path: Path
) -> None:
    """With ddp.yaml, on CPUs: the same losses and the same weights."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    source = write_rows(tmp_path / "data.jsonl", rows(task, 16))
    options: list[Any] = ["--task", task, "--train", source, "--eval", source, "--config", json.dumps(model_fields())]
    options += ["--tokenizer", tmp_path / "tokenizer", "--max-length", "100", "--overlap", "16", "--max-steps", "4"]
    options += ["--log-every", "1", "--learning-rate", "1e-3", "--max-eval-rows", "8"]
    launch = ["-m", "accelerate.commands.launch", "--config_file", CONFIGURATIONS / "ddp.yaml"]
    for where, start, batch in (("one", [], "4"), ("two", launch, "2")):
        command = [sys.executable, *start, "-m", "longformer_plus.cli", "train", *options, "--batch", batch]
        alone = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            list(map(str, [*command, "--output", tmp_path / where])),
            capture_output=True,
            text=True,
            env=alone,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / where / "trainer_state.json").read_text()) for where in ("one", "two"))
    losses = [[entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    scores = [json.loads((tmp_path / where / "scores.json").read_text())["eval_loss"] for where in ("one", "two")]
    assert scores[1] == pytest.approx(scores[0], rel=1e-4)
    for name, values in load_file(tmp_path / "one" / "model.safetensors").items():
        # Their gradient is zero but for rounding, which AdamW makes steps of full size from.
        if name.endswith((".key.bias", ".key_global.bias", "qa_outputs.bias")):
            continue
        again = load_file(tmp_path / "two" / "model.safetensors")[name]
        torch.testing.assert_close(again, values, atol=1e-4, rtol=0, msg=name)


def test_the_configuration_files_name_what_there_is() -> None:
    yaml = pytest.importorskip("yaml")
    ddp, fsdp = (yaml.safe_load((CONFIGURATIONS / f"{name}.yaml").read_text()) for name in ("ddp", "fsdp2"))
    assert ddp["distributed_type"] == "MULTI_GPU"
    assert fsdp["fsdp_config"]["fsdp_version"] == 2
    wrapped = fsdp["fsdp_config"]["fsdp_transformer_layer_cls_to_wrap"]
    assert wrapped in {type(module).__name__ for module in make_model("MaskedLM").modules()}


def spread_over_devices(model: torch.nn.Module) -> None:
    """Put the second layer and all after it on the "meta" device, as `device_map` puts them on a second accelerator.

    That device has no values, so that whatever reads one raises, and so does what mixes it with the first device.
    """
    names = dict(model.named_children()).keys() - {"longformer"}
    for name in ("longformer.encoder.layer.1", *(["longformer.pooler"] if model.longformer.pooler else []), *names):
        module = model.get_submodule(name)
        if name == "lm_head":  # its matrix is tied to the first device's
            module.decoder.weight = torch.nn.Parameter(module.decoder.weight.clone())
        module.to("meta")
        add_hook_to_module(module, AlignDevicesHook(execution_device="meta", place_submodules=True))


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("num_global", [None, 0, 3, 12])
@pytest.mark.parametrize("padding", ["none", "right", "holes"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_on_two_devices(backend: str, padding: str, num_global: int | None, is_training: bool) -> None:
    model = make_model("MaskedLM").train(is_training)
    model.set_attn_implementation(backend)
    spread_over_devices(model)
    batch = make_batch("MaskedLM", num_global)
    if padding != "none":
        places = torch.arange(20) > 12 if padding == "right" else torch.arange(20) % 5 == 1
        batch["attention_mask"][1] = ~places
        batch["input_ids"][1, places] = 1
    patterns: list[Any] = []
    for layer in model.longformer.encoder.layer:
        # Not a hook before it: with one, no padding is taken out.
        layer.attention.self.register_forward_hook(
            lambda module, args, kwargs, output: patterns.extend([*args, *kwargs.values()]), with_kwargs=True
        )
    with torch.set_grad_enabled(is_training):
        outputs = model(**{name: values for name, values in batch.items() if name != "labels"})
    assert outputs.logits.is_meta
    assert outputs.logits.shape == (4, 20, 60)
    first, second = (each for each in patterns if isinstance(each, AttentionPattern))
    assert first.is_packed == (padding == "right")
    devices = [
        {value.device.type for value in vars(pattern).values() if isinstance(value, torch.Tensor)}
        for pattern in (first, second)
    ]
    assert devices == [{"cpu"}, {"meta"}]


@pytest.mark.parametrize("padding", ["none", "right"])
@pytest.mark.parametrize("head", [*HEADS, "CausalLM"])
def test_losses_on_two_devices(head: str, padding: str) -> None:
    """Labels and masks are on the first device, states and logits on the second."""
    model = make_model(head)
    batch = make_batch("MaskedLM" if head == "CausalLM" else head, None)
    if padding == "right":
        batch["attention_mask"][1, ..., 12:] = 0
        batch["input_ids"][1, ..., 12:] = 1
    spread_over_devices(model)
    assert model(**batch).loss.is_meta


def test_weights_in_memory_and_on_disk(tmp_path: Path) -> None:
    """What is on disk is read where it is used: nothing reads those weights before, or leaves them out."""
    model = make_model("MaskedLM").eval()
    model.save_pretrained(tmp_path)
    batch = make_batch("MaskedLM", 2)
    size = sum(parameter.numel() for parameter in model.parameters()) * 4
    placed = LongformerPlusForMaskedLM.from_pretrained(
        tmp_path, device_map="auto", max_memory={"cpu": int(size * 0.7)}, offload_folder=tmp_path / "offloaded"
    )
    assert "disk" in set(map(str, placed.hf_device_map.values()))
    attention = placed.longformer.encoder.layer[1].attention.self
    assert all(each.is_meta for each in attention.parameters())
    torch.testing.assert_close(placed(**batch).logits, model(**batch).logits)
