"""How many rows must go so that everything that grows stays within a budget in bytes.

Knows neither the table nor a policy, only bytes: it answers how many rows, an eviction policy which, the table acts.
Invariant: a caller that erases `rows_to_free` rows whenever it is above zero, and inserts no more than `room_rows` in
between, never holds more than `budget_bytes`. The two marks keep evictions few and large: nothing happens up to the
high mark, then rows go down to the low mark at once.
"""

import math
from dataclasses import dataclass

from feature_admission.errors import PolicySettingError

__all__ = ["MemoryBudget", "MemoryUse"]


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What is held now.

    Attributes:
        rows: live rows.
        row_bytes: bytes that go away with rows: values and optimizer state of the live rows.
        fixed_bytes: bytes that stay whatever rows go: index, sketch, space kept free.
    """

    rows: int
    row_bytes: int
    fixed_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.row_bytes + self.fixed_bytes

    @property
    def bytes_per_row(self) -> float:
        """Mean over the live rows; 0 without rows."""
        return self.row_bytes / self.rows if self.rows else 0.0


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """A budget with two marks.

    Attributes:
        budget_bytes: never to be passed; 1 or more.
        high: share of the budget above which rows must go.
        low: share of the budget to which they go, 0 < low <= high <= 1.

    Raises:
        PolicySettingError: a value is out of its range.
    """

    budget_bytes: int
    high: float = 0.95
    low: float = 0.9

    def __post_init__(self) -> None:
        if self.budget_bytes < 1:
            msg = f"budget_bytes: {self.budget_bytes}, expected 1 or more"
            raise PolicySettingError(msg)
        if not 0.0 < self.low <= self.high <= 1.0:
            msg = f"low: {self.low}, high: {self.high}, expected 0 < low <= high <= 1"
            raise PolicySettingError(msg)

    def rows_to_free(self, use: MemoryUse, incoming_rows: int = 0) -> int:
        """Rows that must go now; 0 while the use stays at or below the high mark.

        Args:
            use: what is held.
            incoming_rows: rows about to be inserted, taken to be of mean size.
        """
        expected = use.total_bytes + incoming_rows * use.bytes_per_row
        if expected <= self.high * self.budget_bytes or use.row_bytes == 0:
            return 0
        surplus = expected - self.low * self.budget_bytes
        return min(use.rows, math.ceil(surplus / use.bytes_per_row))

    def room_rows(self, use: MemoryUse, bytes_per_row: int) -> int:
        """Rows of `bytes_per_row` that can be inserted before the budget is full."""
        return max(0, int(self.budget_bytes - use.total_bytes) // bytes_per_row)
