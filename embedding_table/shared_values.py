"""What the rows of each store share, all stores' one after the other in one array that grows.

Knows numbers and where they begin, not what they mean. Invariant: values lie where `add` put them until they are
dropped; when the array grows it is a new one, and who holds the old one still finds in it what was there.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["SharedValues"]

_FIRST_ENTRIES = 1024


class SharedValues:
    """Runs of float32 in one array.

    Attributes:
        values: f32 (entries,), of which entry 0 is nobody's.
    """

    def __init__(self) -> None:
        self.values = np.zeros(_FIRST_ENTRIES, np.float32)
        self._end = 1
        self._sizes: dict[int, int] = {}
        self._free: dict[int, list[int]] = {}  # size -> where runs of it began that were dropped

    def add(self, run: NDArray[np.float32]) -> int:
        """Puts f32 (k,) somewhere; answers at which entry it begins, 0 for an empty one."""
        if run.size == 0:
            return 0
        free = self._free.get(run.size)
        if free:
            at = free.pop()
        else:
            at = self._end
            self._end += run.size
            if self._end > self.values.size:
                grown = np.zeros(max(2 * self.values.size, self._end), np.float32)
                grown[: self.values.size] = self.values
                self.values = grown
        self.values[at : at + run.size] = run
        self._sizes[at] = run.size
        return at

    def drop(self, at: int) -> None:
        """Forgets the run that begins at entry `at`; another of its size will take its place."""
        if at:
            self._free.setdefault(self._sizes.pop(at), []).append(at)
