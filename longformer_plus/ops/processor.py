"""What this machine's processor computes in hardware."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

# By the names that their makers use: torch's names of what makes them up, any of which is enough.
_FEATURES = {
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "AVX512-BF16": ("avx512_bf16",),
    "AMX-INT8": ("amx_int8",),
    "AMX-BF16": ("amx_bf16",),
}
_CPUINFO = Path("/proc/cpuinfo")


@cache
def processor_features() -> dict[str, bool]:
    """Which instructions for products in int8 (VNNI, AMX-INT8) and bfloat16 (AVX512-BF16, AMX-BF16) there are."""
    capabilities = _capabilities()
    return {name: any(capabilities.get(part) for part in parts) for name, parts in _FEATURES.items()}


def _capabilities() -> Mapping[str, Any]:
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    # An older torch. Linux has the same names for them; elsewhere none is taken to be there.
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return dict.fromkeys(flags, True)


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16. Without these instructions it is emulated, and slower."""
    features = processor_features()
    return features["AVX512-BF16"] or features["AMX-BF16"]
