"""What this machine's processor computes in hardware."""

from __future__ import annotations

from functools import cache

import torch

# By the names that their makers use: torch's names of what makes them up, any of which is enough.
_FEATURES = {
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "AVX512-BF16": ("avx512_bf16",),
    "AMX-INT8": ("amx_int8",),
    "AMX-BF16": ("amx_bf16",),
}


@cache
def processor_features() -> dict[str, bool]:
    """Which instructions for products in int8 (VNNI, AMX-INT8) and bfloat16 (AVX512-BF16, AMX-BF16) there are."""
    # Without torch's function, which is newer than the oldest torch allowed, none is taken to be there.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {name: any(capabilities.get(part) for part in parts) for name, parts in _FEATURES.items()}


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16. Without these instructions it is emulated, and slower."""
    features = processor_features()
    return features["AVX512-BF16"] or features["AMX-BF16"]
