"""`longformer-plus doctor`: versions, devices, and what can run here."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from .extras import EXTRAS

_DESCRIPTION = """\
Print what a bug report needs: versions, devices, and whether each attention backend runs here, forward and backward,
and if not, why. This runs a small model with each backend on each device.
"""

_BACKENDS = ("eager", "sdpa", "flex_attention")
_REQUIRED = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")


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
    for extra, packages in EXTRAS.items():
        print(f"{f'extra {extra}':<18}{_extra(extra, packages)}")
    for device, description in _devices():
        print(f"{f'device {device}':<18}{description}")
        for backend in _BACKENDS:
            print(f"  {backend:<16}{_try(backend, device)}")
        if device == "cpu":
            print(f"  {'int8':<16}{_int8()}")


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

    from ..benchmark.measuring import environment
    from ..ops.processor import processor_features

    has = [name if is_there else f"no {name}" for name, is_there in processor_features().items()]
    yield "cpu", f"{environment()['processor']}, {torch.get_num_threads()} threads, {', '.join(has)}"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        yield "mps", "Apple's GPU"


def _int8() -> str:
    """Whether int8 is faster here, and if not, why."""
    from ..ops.int8 import onednn_is_exact

    if onednn_is_exact():
        return "runs on oneDNN"
    return "right, but slower than float32: oneDNN's product is not there, or not exact on this processor"


def _try(backend: str, device: str) -> str:
    """Whether a small model runs on a device with a backend, and if not, why, in a few words."""
    from ..benchmark.backends import first_sentence, reason_against_flex, reason_against_forward, run_small_model

    if reason := reason_against_forward(backend, device):
        return f"no: {reason}" + ("; sdpa does its work" if backend == "flex_attention" else "")
    try:
        run_small_model(backend, device, with_gradient=True)
    except Exception as error:
        return f"no: {first_sentence(error)}"
    if backend == "flex_attention" and (reason := reason_against_flex(device, with_gradient=True)):
        return f"runs forward; in training sdpa does its work: {reason}"
    return "runs, forward and backward"
