"""Eviction by age: rows that were not used for too long go, needed or not; then the longest unused.

Knows no counts: a row that was hot and fell silent goes like any other. Invariant: no row within `max_age_s` goes
while rows beyond it would do.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.table_rows import LiveRows
from feature_admission.errors import PolicySettingError
from feature_admission.eviction import ages_s, lowest_rows

__all__ = ["AgeEviction"]


class AgeEviction:
    """Names all rows unused for more than `max_age_s` seconds; if that is not enough, the longest unused of the rest.

    Args:
        max_age_s: 1 or more.

    Raises:
        PolicySettingError: `max_age_s` is below 1.
    """

    def __init__(self, max_age_s: int) -> None:
        if max_age_s < 1:
            msg = f"max_age_s: {max_age_s}, expected 1 or more"
            raise PolicySettingError(msg)
        self.max_age_s = max_age_s

    def select(self, rows: LiveRows, needed_rows: int, now_s: int) -> NDArray[np.uint32]:
        """Handles to erase; see `EvictionPolicy.select`. Among rows of one age the rarest go first."""
        ages = ages_s(rows, now_s)
        expired = np.flatnonzero(ages > self.max_age_s)
        if len(expired) >= needed_rows:
            return rows.handles[expired]
        return rows.handles[lowest_rows(rows.last_seen_s, rows.counts, needed_rows, rows.ids)]
