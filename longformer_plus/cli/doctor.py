"""`longformer-plus doctor`: versions, devices, and what can run here."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import metadata
from typing import Any

_DESCRIPTION = """\
Print what a report of a problem should say: versions, devices, and of every attention backend whether it runs here,
forward and backward, and if not, why. Backends are found out by running a small model on each device.
"""

_BACKENDS = ("eager", "sdpa", "flex_attention")
_REQUIRED = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")
_EXTRAS = {
    "bench": ("matplotlib",),
    "demo": ("gradio",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "peft": ("peft",),
    "tensorflow": ("h5py",),
    "train": ("accelerate", "datasets", "evaluate", "seqeval"),
}


def add(commands: Any) -> None:
    """Add the subcommand `doctor`."""
    parser = commands.add_parser(
        "doctor",
        help="print versions, devices, and which backends run here",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    import platform
    import sys

    from ..version import __version__

    print(f"longformer_plus   {__version__}")
    print(f"python            {platform.python_version()} on {platform.platform()}, {sys.executable}")
    for name in _REQUIRED:
        print(f"{name:<18}{_version(name)}")
    for extra, packages in _EXTRAS.items():
        print(f"{f'extra {extra}':<18}{_extra(extra, packages)}")
    for device, description in _devices():
        print(f"{f'device {device}':<18}{description}")
        for backend in _BACKENDS:
            print(f"  {backend:<16}{_try(backend, device)}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _extra(extra: str, packages: tuple[str, ...]) -> str:
    versions = {package: _version(package) for package in packages}
    missing = [package for package, version in versions.items() if version is None]
    if missing:
        return f"missing {', '.join(missing)}: pip install longformer-plus[{extra}]"
    return ", ".join(f"{package} {version}" for package, version in versions.items())


def _devices() -> Iterator[tuple[str, str]]:
    import torch

    from ..benchmark import environment

    yield "cpu", f"{environment()['processor']}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        yield "mps", "Apple's GPU"


def _try(backend: str, device: str) -> str:
    """What happens when a small model runs on a device with a backend, in a few words."""
    import torch

    from ..attention.flex import why_not
    from ..configuration import LongformerPlusConfig
    from ..modeling import LongformerPlusModel

    config = LongformerPlusConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    try:
        model = LongformerPlusModel._from_config(config, attn_implementation=backend).to(device).eval()
        ids = torch.full((1, 300), 5, device=device)
        with torch.no_grad():
            model(ids, global_attention_mask=torch.zeros_like(ids))
        if backend == "flex_attention":
            query = torch.zeros(1, 1, 1, 16, device=device)
            if reason := why_not(query):
                return f"no: {reason}; sdpa does its work"
            if reason := why_not(query.requires_grad_()):
                return f"runs forward; in training sdpa does its work: {reason}"
        model(ids, global_attention_mask=torch.zeros_like(ids)).last_hidden_state.sum().backward()
    except Exception as error:
        sentence = str(error).strip().splitlines()[0].partition(". ")[0] if str(error).strip() else ""
        return f"no: {sentence or type(error).__name__}"
    return "runs, forward and backward"
