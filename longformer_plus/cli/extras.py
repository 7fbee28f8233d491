"""The extras of the package, and what to say where one is missing."""

from __future__ import annotations

# The modules by which an extra is known to be installed.
EXTRAS = {
    "bench": ("matplotlib",),
    "demo": ("gradio",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "peft": ("peft",),
    "tensorflow": ("h5py",),
    "train": ("accelerate", "datasets", "evaluate", "seqeval"),
}


def named(error: ModuleNotFoundError) -> str:
    """What an error says, and how to install the extra that would help, where it does not say so itself."""
    text = str(error)
    for extra, modules in EXTRAS.items():
        if error.name in modules and "pip install" not in text:
            return f'{text}. It comes with an extra: pip install "longformer-plus[{extra}]"'
    return text
