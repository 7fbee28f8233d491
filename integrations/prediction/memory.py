"""Giving memory that is free back to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


def release_free_memory() -> None:
    """Give memory that is free, but lies between what is used, back to the system.

    The tensors of each batch have other sizes than those before. glibc finds room for them less and less well in what
    they left, and takes more: without this call, memory grows with the number of batches. Other systems' allocators
    are left to themselves.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    """The function of glibc; None where there is another library."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
