"""`longformer-plus info`: what a checkpoint is, and what it needs."""

from __future__ import annotations

import argparse
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_DESCRIPTION = """\
Print what a checkpoint is, without loading it: its window (TOTAL width in tokens, half on each side), dilation,
positions and parameters. With --length the memory that it needs for one document of that length is measured here, with
one and two of its layers and random weights.
"""

_EXAMPLES = """\
examples:
  longformer-plus info allenai/longformer-base-4096
  longformer-plus info my-longformer --length 4096 16384
      the memory of a forward and of a training step too
"""


def add(commands: Any) -> None:
    """Add the subcommand `info`."""
    parser = commands.add_parser(
        "info",
        help="print what a checkpoint is: window, positions, parameters, memory at a length",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", help="its folder, its name on the hub, shipped or shipped:TASK")
    parser.add_argument(
        "--length", type=int, nargs="+", default=[], metavar="N", help="measure memory at these lengths, in tokens"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from ..configuration import LongformerPlusConfig
    from ..conversion.dispatch import kind_of
    from ..conversion.longformer import class_named
    from ..conversion.reading import check_layers, find_checkpoint, guarded, read_config, tensor_types
    from ..shipped.names import resolve_checkpoint

    folder = find_checkpoint(resolve_checkpoint(options.checkpoint))
    fields, kind = read_config(folder), kind_of(folder)
    architectures = fields.get("architectures")
    print(f"checkpoint      {', '.join(architectures or ['unknown'])} ({fields.get('model_type', kind)})")
    if kind != "tensorflow":
        print(f"parameters      {_stored(folder)}")
    if kind != "longformer":
        print(f"to use it       longformer-plus convert {options.checkpoint} OUTPUT")
        if options.length:
            raise ValueError("Memory is measured of Longformers: convert this one first.")
        return
    check_layers(fields.get("num_hidden_layers"), tensor_types(folder))
    config = guarded(folder / "config.json", lambda: LongformerPlusConfig.from_pretrained(folder))
    for name, value in attention_of(config).items():
        print(f"{name:<16}{value}")
    for length in options.length:
        _print_memory(class_named(architectures, folder), config, length)


def attention_of(config: PreTrainedConfig) -> dict[str, str]:
    """The attention and the size of a Longformer's configuration, in words."""
    windows, dilations = config.windows, config.dilations
    return {
        "window": f"{_shortly(windows)} tokens, half on each side",
        "dilation": "none" if all(step == 1 for layer in dilations for step in layer) else _shortly(dilations),
        "direction": "causal" if config.is_causal else "both",
        "global tokens": f"{config.global_attention!r} where no mask is given",
        "positions": f"{config.max_tokens:,} tokens",
        "layers": f"{config.num_hidden_layers} of {config.hidden_size}, {config.num_attention_heads} heads",
        "vocabulary": f"{config.vocab_size:,}",
    }


def summary(model: PreTrainedModel) -> str:
    """A model in one line."""
    config = model.config
    line = f"{type(model).__name__}, {model.num_parameters() / 1e6:.1f}M parameters, {_type_of(model)}"
    if hasattr(config, "max_tokens"):
        line += f", window {_shortly(config.windows)}, {config.max_tokens:,} positions"
    return line


def _type_of(model: PreTrainedModel) -> str:
    return str(model.dtype).removeprefix("torch.")


def _shortly(values: list[Any]) -> str:
    """One value if all layers have the same, else all values."""
    return str(values[0]) if all(value == values[0] for value in values) else str(values)


def _stored(folder: Path) -> str:
    from ..conversion.reading import tensor_types, weight_files

    counts: dict[str, int] = {}
    for shape, kind in tensor_types(folder).values():
        counts[kind] = counts.get(kind, 0) + prod(shape)
    size = sum(file.stat().st_size for file in weight_files(folder))
    kinds = ", ".join(f"{count / 1e6:.1f}M of {kind.removeprefix('torch.')}" for kind, count in counts.items())
    return f"{kinds}; {size / 2**20:,.1f} MiB on disk"


def _print_memory(model_class: Any, config: Any, length: int) -> None:
    from ..benchmark.memory import memory_at

    memory = memory_at(model_class, config, length)
    forward, training = (memory.weights + extra for extra in (memory.forward, memory.training))
    print(f"at {length:,} tokens".ljust(16) + f"{_gib(forward)} forward, {_gib(training)} training with AdamW")
    print(" " * 16 + f"float32, one document, of which {_gib(memory.weights)} weights; measured here")


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
