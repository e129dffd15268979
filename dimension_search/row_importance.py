"""How much a row matters for the loss: its traffic times the sensitivity of its (slot, band), and levels of it.

Knows counts, not rows' values. Inside one block all rows have the same sensitivity, so a threshold on importance is one
on the decayed count: that is what a row carries wherever it goes, and what is asked when it is published.

Invariant: a level holds counts that are within a factor of two; a higher level holds higher counts.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEVELS", "least_count", "levels_of"]

LEVELS = 12
_LEAST = 1.5  # a row seen once has a count of one
_EDGES = (_LEAST * 2.0 ** np.arange(LEVELS - 1)).astype(np.float32)


def levels_of(counts: NDArray[np.float32]) -> NDArray[np.int64]:
    """Levels i64 (n,), 0 to LEVELS - 1, of rows with decayed counts f32 (n,)."""
    return np.searchsorted(_EDGES, counts, side="right")


def least_count(level: int) -> float:
    """The least count of a level, exactly a float32; 0 for the lowest."""
    return float(_EDGES[level - 1]) if level else 0.0
