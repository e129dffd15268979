"""How columns come: how many a young table starts with, and in which order they grow so that they can learn.

A column that is new in every slot starts at zero in all of them, two zeros meet in no product, and so neither gets a
gradient. One slot's rows are therefore given random values in such a column first, while no other slot has it: they
meet zeros, so that every logit stays bit by bit what it was. Then the others grow.

Knows which blocks have and shall have which columns; no table. Invariant: in the first stage no slot but the seeded one
has a seeded column; no block has a column in any stage that it neither had nor shall have.
"""

import numpy as np
from numpy.typing import NDArray

from dimension_search.budget import COLUMN_BYTES, ROW_STATE_BYTES

__all__ = ["first_stage", "seeded_columns", "starting_width"]

_FIRST_ROWS = 4096  # about what a stream has met when the first search is over


def starting_width(start_width: int, dim: int, max_bytes: int) -> int:
    """Columns of all rows until a search has judged them, 1 to D.

    Args:
        start_width: what is asked for; 0 for D.
        dim: D.
        max_bytes: of all rows, 0 for no limit: the first few thousand rows keep to it.
    """
    width = min(start_width or dim, dim)
    if start_width and max_bytes:
        width = min(width, (max_bytes // _FIRST_ROWS - ROW_STATE_BYTES) // COLUMN_BYTES)
    return max(1, width)


def seeded_columns(active: NDArray[np.bool_], wanted: NDArray[np.bool_], rows: NDArray[np.int64]) -> list[list[int]]:
    """Columns that each slot's rows begin with random values, F lists.

    Of the slots that shall have a column that none has now, the one with most rows: they span most directions.

    Args:
        active: bool (F, K, D), columns that blocks have.
        wanted: bool (F, K, D), columns that they shall have.
        rows: i64 (F,), live rows of each slot.
    """
    takers = wanted.any(axis=1)
    new = ~active.any(axis=(0, 1)) & (takers.sum(axis=0) > 1)
    largest = np.argmax(np.where(takers, rows[:, None] + 1, 0), axis=0)
    return [np.flatnonzero(new & (largest == slot)).tolist() for slot in range(len(rows))]


def first_stage(active: NDArray[np.bool_], wanted: NDArray[np.bool_], seeded: list[list[int]]) -> NDArray[np.bool_]:
    """Columns bool (F, K, D) while seeded ones are new: what goes is gone, of what comes only those are there."""
    stage = active & wanted
    for slot, columns in enumerate(seeded):
        stage[slot][:, columns] = wanted[slot][:, columns]
    return stage
