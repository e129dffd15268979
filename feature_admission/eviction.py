"""The protocol of eviction: which rows lose their place.

Knows the statistics that the table keeps of its rows (slot, decayed count, last use), not their values. A policy
returns handles; the table erases them and writes the tombstones. Pinned rows (the missing rows of the slots) are not
in `EmbeddingTable.live_rows()`, so no policy can name them.

Invariant of every policy: `select` changes nothing, names no handle twice and only handles it was given, and names at
least min(needed_rows, N) of them. Its work is linear in N: rows are partitioned, not sorted.
"""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from embedding_table.table_rows import LiveRows

__all__ = ["EvictionPolicy", "ages_s", "lowest_rows"]


@runtime_checkable
class EvictionPolicy(Protocol):
    """Decides which rows go."""

    def select(self, rows: LiveRows, needed_rows: int, now_s: int) -> NDArray[np.uint32]:
        """Handles to erase.

        Args:
            rows: the live rows, N of them.
            needed_rows: how many must go; a policy may name more (rows past their age), never fewer while there are
                enough.
            now_s: seconds since the epoch, UTC.

        Returns:
            Uint32 (k,), min(needed_rows, N) <= k <= N, no handle twice, in rising order of their place in `rows`.
        """
        ...


def ages_s(rows: LiveRows, now_s: int) -> NDArray[np.int64]:
    """Int64 (N,): seconds since each row was used; negative where the use lies in the future."""
    return now_s - rows.last_seen_s.astype(np.int64)


def lowest_rows(
    keys: NDArray[np.generic], ties: NDArray[np.generic], wanted: int, ids: NDArray[np.uint64] | None = None
) -> NDArray[np.int64]:
    """Places of the `wanted` lowest keys, in rising order; among equal keys the lowest ties, then the lowest ids.

    Linear in N: one partition finds the key at the border, a second one settles the rows that have just that key.

    Args:
        keys: (N,), no NaN.
        ties: (N,), no NaN.
        wanted: 0 to N.
        ids: u64 (N,); without any the first places go instead.
    """
    n = len(keys)
    if wanted <= 0:
        return np.empty(0, np.int64)
    if wanted >= n:
        return np.arange(n)
    border = np.partition(keys, wanted - 1)[wanted - 1]
    chosen = keys < border
    missing = wanted - int(np.count_nonzero(chosen))
    at_border = np.flatnonzero(keys == border)
    if missing < len(at_border):
        tied = ties[at_border]
        tie_border = np.partition(tied, missing - 1)[missing - 1]
        below = at_border[tied < tie_border]
        level = at_border[tied == tie_border]
        if ids is not None and len(ids):
            level = level[np.argsort(ids[level])]
        at_border = np.concatenate((below, level[: missing - len(below)]))
    chosen[at_border] = True
    return np.flatnonzero(chosen)
