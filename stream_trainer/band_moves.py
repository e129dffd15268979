"""Moves rows between popularity bands as they grow hot or cold, and gives up those that a plan has no room for.

Knows the table and the heat of its rows; no search and no plan. Invariant: runs where no batch is prepared, looks at so
many rows at a time as it is told, and moves no more of them.
"""

import numpy as np
from numpy.typing import NDArray

from dimension_search.budget import COLUMN_BYTES, ROW_STATE_BYTES
from embedding_table.table import EmbeddingTable, LiveRows
from feature_admission.eviction import lowest_rows
from stream_trainer.stream_heat import StreamHeat

__all__ = ["BandMoves"]

_LOW_MARK = 0.99  # of the budget: giving up rows looks at all of them, so it must not be due after every batch


class BandMoves:
    """Bands of one table's rows.

    Args:
        table: rows.
        heat: of them, with the borders of bands.
        drop_cold: whether rows go whose band has no columns.
    """

    def __init__(self, table: EmbeddingTable, heat: StreamHeat, *, drop_cold: bool) -> None:
        self._table = table
        self._heat = heat
        self._drop_cold = drop_cold
        self._cursor = self._changed_cursor = 0

    def sort(self, now_s: int, most: int) -> int:
        """Moves rows to the bands of their heat: first those used since the last cut, then others in turn.

        Args:
            now_s: seconds since the epoch.
            most: rows to look at of each kind, and to move in all.

        Returns:
            rows moved or given up.
        """
        if self._table.bands == 1:
            return 0
        moved = self._sort(self._some_changed_rows(most), now_s, most)
        if moved < most:
            rows, self._cursor = self._table.scan_rows(self._cursor, most - moved)
            moved += self._sort(rows, now_s, rows.handles.size)
        return moved

    def give_up_coldest(self, excess_bytes: int, max_bytes: int, now_s: int) -> int:
        """Between two plans ids go on coming: where they outgrow the budget, the coldest rows go.

        Args:
            excess_bytes: of columns and optimizer state above the budget.
            max_bytes: the budget, of which a little more than asked is freed.
            now_s: seconds since the epoch.

        Returns:
            rows given up.
        """
        excess = excess_bytes + int((1 - _LOW_MARK) * max_bytes)
        rows = self._table.live_rows()
        costs = COLUMN_BYTES * self._widths()[rows.slots, rows.bands] + ROW_STATE_BYTES
        heat = self._heat.heat(rows.counts, rows.last_seen_s, now_s)
        most = min(-(-excess // ROW_STATE_BYTES), rows.handles.size)
        coldest = lowest_rows(heat, heat, most, rows.ids)
        coldest = coldest[np.lexsort((rows.ids[coldest], heat[coldest]))]
        enough = int(np.searchsorted(np.cumsum(costs[coldest]), excess)) + 1
        return int(self._table.erase(rows.handles[coldest[:enough]]).size)

    def _widths(self) -> NDArray[np.int64]:
        """Columns that each block should have, i64 (F, K)."""
        slots, bands = range(self._table.slots), range(self._table.bands)
        return np.array([[self._table.columns(slot, band).size for band in bands] for slot in slots], np.int64)

    def _some_changed_rows(self, most: int) -> LiveRows:
        """Rows that were used since the last cut, so that risen ones wait for no scan: all, or so many in turn."""
        rows = self._table.changed_rows()
        start = self._changed_cursor if self._changed_cursor < rows.handles.size else 0
        self._changed_cursor = start + most if rows.handles.size > most else 0
        return rows.part(start, start + most)

    def _sort(self, rows: LiveRows, now_s: int, most: int) -> int:
        """Moves at most `most` rows to the bands of their heat; those whose new band is given up go."""
        bands = self._heat.bands_of(rows.counts, rows.last_seen_s, now_s, rows.bands)
        gone = np.zeros(rows.handles.size, np.bool_)
        if self._drop_cold:
            widths = self._widths()
            gone = (widths[rows.slots, bands] == 0) & (widths[rows.slots].max(axis=1) > 0)
            self._table.erase(rows.handles[gone])
        moving = np.flatnonzero(~gone & (bands != rows.bands))[:most]
        moved = self._table.move_rows(rows.handles[moving], bands[moving]) if moving.size else 0
        return int(gone.sum()) + moved
