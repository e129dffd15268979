"""Eviction by traffic: the rows with the least decayed count go, the longest unused first among equals.

Knows nothing of what a row is worth beyond its traffic. With `max_age_s` the rows past that age go first, whatever
their count. Invariant: no kept row that is young enough has a lower count than a row that went for being rare.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.table_rows import LiveRows
from feature_admission.errors import PolicySettingError
from feature_admission.eviction import ages_s, lowest_rows

__all__ = ["LeastFrequentEviction"]


class LeastFrequentEviction:
    """Names just as many rows as are needed, rarest first; and with `max_age_s` all rows beyond that age.

    Args:
        max_age_s: rows unused for longer go first, needed or not; None keeps rows of any age.

    Raises:
        PolicySettingError: `max_age_s` is below 1.
    """

    def __init__(self, max_age_s: int | None = None) -> None:
        if max_age_s is not None and max_age_s < 1:
            msg = f"max_age_s: {max_age_s}, expected 1 or more, or None"
            raise PolicySettingError(msg)
        self.max_age_s = max_age_s

    def select(self, rows: LiveRows, needed_rows: int, now_s: int) -> NDArray[np.uint32]:
        """Handles to erase; see `EvictionPolicy.select`."""
        counts = rows.counts
        if self.max_age_s is not None:
            expired = ages_s(rows, now_s) > self.max_age_s
            counts = np.where(expired, np.float32(-1.0), counts)
            needed_rows = max(needed_rows, int(np.count_nonzero(expired)))
        return rows.handles[lowest_rows(counts, rows.last_seen_s, needed_rows, rows.ids)]
