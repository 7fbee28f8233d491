"""The few numbers that a forward needs from its device, read all at once.

Each read makes the host wait until the accelerator has done all its work. So checks and sizes are computed on the
device and read together, in one transfer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Check = tuple[Tensor, Callable[[], Exception]]


class ValueChecks:
    """Checks of the values of tensors, read together. A traced graph has none: reading would break it."""

    def __init__(self) -> None:
        self._checks: list[Check] = []

    def refuse(self, is_wrong: Callable[[], Tensor], error: Callable[[], Exception]) -> None:
        """Add a check.

        Args:
            is_wrong: returns a bool tensor without dimensions.
            error: returns the exception to raise if that tensor is True; it may read from the device.
        """
        if not torch.compiler.is_compiling():
            self._checks.append((is_wrong(), error))

    def read(self, numbers: Mapping[str, Tensor]) -> dict[str, int]:
        """Read integers from their device together with all checks, raise the error of a failed check, and clear them.

        On an accelerator, checks without numbers are not read: the device itself stops at a wrong value.

        Args:
            numbers: int or bool tensors without dimensions, by name.

        Returns:
            Their values, by name.

        Raises:
            Exception: the error of the first check that fails.
        """
        checks, self._checks = self._checks, []
        flags = [is_wrong for is_wrong, _ in checks]
        # Not a public function. A torch without it reads the checks.
        stop_unless = getattr(torch, "_assert_async", None)
        if not numbers and stop_unless is not None and any(flag.device.type != "cpu" for flag in flags):
            for flag in flags:
                stop_unless(~flag, "an input of the model has a value that is not allowed")
            return {}
        values = read_together([*flags, *numbers.values()])
        for is_wrong, (_, error) in zip(values, checks, strict=False):
            if is_wrong:
                raise error()
        return dict(zip(numbers, values[len(checks) :], strict=True))


def read_together(numbers: list[Tensor]) -> list[int]:
    """The values of int or bool tensors without dimensions, in one transfer from their device."""
    if not numbers:
        return []
    device = numbers[-1].device
    return torch.stack([number.to(device, torch.int64) for number in numbers]).tolist()
