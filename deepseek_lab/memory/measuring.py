"""What a real step holds at most: its tensors, and the process with them."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from deepseek_lab.engine import allocator
from deepseek_lab.measure.resident import PeakResident
from deepseek_lab.memory.logits import Deferred
from deepseek_lab.memory.meter import Meter

LIBRARIES = 128 << 20
"""What PyTorch's libraries may take for themselves during a step, beside tensors."""


@dataclasses.dataclass(frozen=True)
class Held:
    """What a step held."""

    peak_bytes: int
    process_bytes: int | None
    """What the process grew to beyond what it held without these tensors; None where the system does not say."""


class Measuring:
    """Measures one step at a time, those that are asked for."""

    def __init__(self) -> None:
        self.asked = False
        self.under_way = False
        self._meter: Meter | None = None
        self._resident: PeakResident | None = None
        self._before = 0
        self._at_once = False

    def begin(self, lasting: Iterable[Tensor], old: Iterable[weakref.ref[Any]]) -> None:
        """A step begins; with what lasts, and with the results of the one before."""
        self.asked, self.under_way = False, True
        meter = self._meter = Meter()
        meter.hold(lasting)
        self._before = meter.now_bytes
        for ref in old:
            one = ref()
            meter.hold(one.holds() if type(one) is Deferred else [one])
            del one
        allocator.trim()  # what is free but resident would hide what the step takes
        self._resident = PeakResident.begin()
        meter.__enter__()  # type: ignore[no-untyped-call]

    def stop(self) -> int | None:
        """Nothing of it stays on PyTorch's stacks; the peak up to now."""
        meter, self._meter, self.under_way = self._meter, None, False
        if meter is None:
            return None
        if _get_current_dispatch_mode() is meter:
            meter.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        peak = meter.peak_bytes
        meter.release()
        return peak

    def end(self) -> Held | None:
        """The step has ended."""
        peak = self.stop()
        if peak is None:
            return None
        grown = self._resident.bytes() if self._resident is not None else None
        return Held(peak, None if grown is None else grown + self._before)

    def give_back_at_once(self, held: Held, limit: int) -> bool:
        """Where the heap's holes are what passes a limit: have large blocks go back to the system from now on.

        The promise is the process's, not that of the tensors alone.

        Returns:
            Whether that has begun with this call.
        """
        process = held.process_bytes
        if process is None or self._at_once or not held.peak_bytes <= limit < process:
            return False
        if process - held.peak_bytes <= LIBRARIES:
            return False
        self._at_once = self.asked = True
        allocator.return_at_once(True)
        return True

    def close(self) -> None:
        """The process's heap as it was."""
        self.stop()
        if self._at_once:
            self._at_once = False
            allocator.return_at_once(False)
