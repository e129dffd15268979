"""What a plan may cost and what a column costs: bytes, floors, allowed widths.

Knows no saliency. A row of d columns costs 4 d bytes and its optimizer state; a row that is dropped costs nothing.
Invariant: every width that a plan gives is 0 or one of `steps`, and at least `least` in a slot's hottest band.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dimension_search.errors import SearchError
from embedding_table.table_rows import BlockUse

__all__ = ["COLUMN_BYTES", "ROW_STATE_BYTES", "DimensionBudget", "bytes_taken"]

COLUMN_BYTES = 4
ROW_STATE_BYTES = 4  # row-wise Adagrad: one number a row


def bytes_taken(blocks: Iterable[BlockUse]) -> int:
    """Columns and optimizer state of all rows there are; those without a column have their state."""
    return sum(block.rows * (COLUMN_BYTES * block.width + ROW_STATE_BYTES) for block in blocks)


@dataclass(frozen=True, slots=True)
class DimensionBudget:
    """What is allowed.

    Attributes:
        max_bytes: of all rows' columns and state.
        dim: D, the widest a row may be.
        row_state_bytes: of a row whatever its width.
        floor: columns that a slot's hottest band keeps; 0 drops whole slots, which is feature selection.
        steps: allowed widths above 0, ascending; empty for any.
        drop_cold: whether a block of width 0 gives its rows up (their ids read the missing row then) and costs nothing;
            otherwise they stay and cost their state.

    Raises:
        SearchError: a value out of range.
    """

    max_bytes: int
    dim: int
    row_state_bytes: int = ROW_STATE_BYTES
    floor: int = 1
    steps: tuple[int, ...] = ()
    drop_cold: bool = True

    def __post_init__(self) -> None:
        """Refuses what cannot be planned for."""
        if self.max_bytes < 0:
            message = f"max_bytes is {self.max_bytes}: expected at least 0"
            raise SearchError(message)
        if not 0 <= self.floor <= self.dim:
            message = f"floor is {self.floor}: expected 0 to {self.dim}"
            raise SearchError(message)
        ascending = all(a < b for a, b in zip(self.steps, self.steps[1:], strict=False))
        if not ascending or any(not 1 <= step <= self.dim for step in self.steps):
            message = f"steps are {self.steps}: expected ascending widths from 1 to {self.dim}"
            raise SearchError(message)
        if self.steps and self.floor > self.steps[-1]:
            message = f"floor is {self.floor}: expected at most the widest step, {self.steps[-1]}"
            raise SearchError(message)

    @property
    def least(self) -> int:
        """The least allowed width that keeps to the floor; 0 where the floor is."""
        if not self.floor:
            return 0
        return next((step for step in self.steps if step >= self.floor), self.floor)

    def bytes_of(self, rows: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes i64 of blocks of `rows` and `widths`, both i64 of one shape; blocks of width 0 are given up."""
        cost = rows * (widths * COLUMN_BYTES + self.row_state_bytes)
        return np.where((widths > 0) | (not self.drop_cold), cost, 0)

    def allowed(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The widest allowed widths that are not above `widths`, i64 of any shape; 0 where none is."""
        if not self.steps:
            return np.asarray(np.minimum(widths, self.dim), np.int64)
        steps = np.array((0, *self.steps), np.int64)
        return steps[np.searchsorted(steps, widths, side="right") - 1]
