"""What is kept for visitors: each one's document and its attention, apart from one another, within a cap of bytes."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Kept = TypeVar("Kept")


@dataclass
class _Entry(Generic[Kept]):
    kept: Kept
    num_bytes: int
    last_used: float
    address: str


class VisitorStore(Generic[Kept]):
    """One thing for each visitor, by the session's name. Thread-safe.

    Where the cap is reached, the address that holds the most gives up what it has not used for the longest time: one
    visitor with many sessions cannot push the others out. What was not used for `max_age` seconds goes at the next
    call.

    Args:
        max_bytes: what all of them together may take.
        max_age: seconds.
        clock: the time in seconds.
    """

    def __init__(self, max_bytes: int, max_age: float = 3600.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes = max_bytes
        self.max_age = max_age
        self._clock = clock
        self._entries: OrderedDict[str, _Entry[Kept]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, visitor: str, kept: Kept, num_bytes: int, address: str = "") -> None:
        """Keep something for a visitor, in place of what there was.

        Args:
            visitor: the session's name.
            kept: what is kept.
            num_bytes: its size.
            address: where the visitor comes from; several may share one.

        Raises:
            ValueError: it is larger than the cap.
        """
        if num_bytes > self.max_bytes:
            raise ValueError(
                f"{num_bytes:,} bytes are more than the {self.max_bytes:,} that are kept for all visitors."
            )
        with self._lock:
            self._entries.pop(visitor, None)
            self._drop_old()
            while self._entries and self._held() + num_bytes > self.max_bytes:
                self._drop_one(address, num_bytes)
            self._entries[visitor] = _Entry(kept, num_bytes, self._clock(), address)

    def get(self, visitor: str) -> Kept | None:
        """What is kept for a visitor, None where there is nothing, or no longer."""
        with self._lock:
            self._drop_old()
            entry = self._entries.get(visitor)
            if entry is None:
                return None
            entry.last_used = self._clock()
            self._entries.move_to_end(visitor)
            return entry.kept

    def free(self, visitor: str) -> None:
        """Forget a visitor."""
        with self._lock:
            self._entries.pop(visitor, None)

    @property
    def num_bytes(self) -> int:
        """What is held now."""
        with self._lock:
            return self._held()

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)

    def _held(self) -> int:
        return sum(entry.num_bytes for entry in self._entries.values())

    def _drop_one(self, address: str, num_bytes: int) -> None:
        """Drop the oldest entry of the address that would hold the most with `num_bytes` more for `address`."""
        held = Counter({address: num_bytes})
        for entry in self._entries.values():
            held[entry.address] += entry.num_bytes
        addresses = [entry.address for entry in self._entries.values()]
        largest = max(addresses, key=lambda one: held[one])
        # In order of their last use: the first of this address is its oldest.
        self._entries.pop(next(name for name, entry in self._entries.items() if entry.address == largest))

    def _drop_old(self) -> None:
        oldest = self._clock() - self.max_age
        # In order of their last use: those that are too old come first.
        while self._entries and next(iter(self._entries.values())).last_used < oldest:
            self._entries.popitem(last=False)
