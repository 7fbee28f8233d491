"""Memory that is free, given back to the system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


@cache
def _malloc_trim() -> Any:
    """glibc's `malloc_trim`, None where the system has another C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def release_free_memory() -> None:
    """Give what was freed back to the system.

    glibc keeps free memory that lies between what is used, in an arena for each thread. Tensors of ever other sizes fit
    it badly, so that without this call memory grows with the number of batches and of visitors. Other systems'
    allocators are left to themselves.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
