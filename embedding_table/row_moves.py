"""Rows moved between blocks, a bounded number at a time: index, marks, budget and slabs follow.

Knows blocks by number; not why rows move. All of it at a cut: no update may be under way, and no handle found before is
used afterwards.

Invariant: between two calls every id has one row; a row that finds no room stays where it is; a row that moved is
marked as changed; the budget holds throughout.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.block_generations import NO_COLUMNS, BlockGenerations
from embedding_table.change_lists import ChangeLists
from embedding_table.column_change import column_places, copy_changed
from embedding_table.hash_index import ABSENT, HashIndex
from embedding_table.row_arena import RowArena
from embedding_table.row_budget import RowBudget
from embedding_table.row_layout import ROW_BITS
from embedding_table.trained_rows import keep_live, start_columns

__all__ = ["RowMover"]

_ROWS_AT_ONCE = 1 << 14
_GROWN_SCALE = 8.0  # times a newborn row's: about as large as what is trained is, which a column has to catch up with


class RowMover:
    """Moves rows of one table.

    Args:
        arena: holds the rows.
        index: of their ids.
        budget: over both.
        changes: lists of changed rows.
        seed: of the table.
        init_scale: first values of newborn rows are uniform in [-init_scale, init_scale).
    """

    def __init__(
        self,
        arena: RowArena,
        index: HashIndex,
        budget: RowBudget,
        changes: ChangeLists,
        *,
        seed: int,
        init_scale: float,
    ) -> None:
        self._arena = arena
        self._index = index
        self._budget = budget
        self._changes = changes
        self._seed = np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
        self._grown_scale = _GROWN_SCALE * init_scale

    def move(self, handles: NDArray[np.uint32], target: int, seeded: NDArray[np.uint16] = NO_COLUMNS) -> int:
        """Moves rows to a block.

        Args:
            handles: u32 (n,), live rows of one other block, each named once.
            target: the block.
            seeded: u16 (k,), columns that begin with random values where they are new to the rows; others with zero.

        Returns:
            how many found room.
        """
        if handles.size == 0:
            return 0
        views = self._arena.views()
        source = int(views.slab_block[handles[0] >> np.uint32(ROW_BITS)])
        old_columns = self._arena.columns(source)
        columns = self._arena.columns(target)
        places = column_places(old_columns, columns)
        grown = np.flatnonzero((places < 0) & np.isin(columns, seeded))
        moved = 0
        while moved < handles.size:
            part = handles[moved : moved + _ROWS_AT_ONCE]
            new = self._budget.allocate(target, part.size)
            new = new[: int(np.count_nonzero(new != ABSENT))]
            if new.size == 0:
                if self.release_slabs() == 0:
                    break
                continue
            part = part[: new.size]
            ids = np.empty(new.size, np.uint64)
            copy_changed(views, part, new, places, old_columns.size, ids)
            if grown.size:
                start_columns(views, new, ids, grown, self._seed, self._grown_scale)
            self._index.replace(ids, new)
            self._arena.free(part)
            moved += new.size
        return moved

    def move_to_bands(
        self, handles: NDArray[np.uint32], bands: NDArray[np.int32], generations: BlockGenerations
    ) -> int:
        """Moves rows u32 (n,), some of them gone perhaps, to bands i32 (n,) of their slots; answers how many moved."""
        views = self._arena.views()
        handles, first = np.unique(handles, return_index=True)
        live = handles.copy()
        live = live[: int(keep_live(views, live))]
        wanted = bands[first][np.searchsorted(handles, live)]
        blocks = views.slab_block[live >> np.uint32(ROW_BITS)]
        homes = views.block_home[blocks]
        targets = homes // generations.bands * generations.bands + wanted
        pairs = np.where(targets == homes, -1, blocks * np.int64(generations.homes) + targets)
        moved = 0
        for pair in np.unique(pairs[pairs >= 0]).tolist():
            moved += self.move(live[pairs == pair], generations.newest(pair % generations.homes))
        return moved

    def compact(self, blocks: list[int], pinned: NDArray[np.uint32], max_rows: int) -> int:
        """Moves rows out of slabs that hold few into others of their block, but not out of those of `pinned` rows u32.

        Args:
            blocks: whose rows.
            pinned: u32, rows that stay where they are.
            max_rows: how many rows to move at most.

        Returns:
            slabs returned to the pool.
        """
        pinned_slabs = set((pinned >> np.uint32(ROW_BITS)).tolist())
        listed = self._changes.live_handles()
        for block in blocks:
            old, new = self._arena.compact(block, pinned_slabs, max_rows)
            if old.size:
                ids, _ = self._arena.read(new, 0)
                self._index.replace(ids, new)
                self._arena.free(old)
                places = np.minimum(np.searchsorted(old, listed), old.size - 1)
                listed = np.where(old[places] == listed, new[places], listed)
                max_rows -= old.size
        self._changes.replace(listed)
        return self._arena.release_slabs()

    def release_slabs(self) -> int:
        """Returns slabs without a live row to the pool, whatever lists name their rows; answers how many."""
        self._changes.forget_empty_slabs(self._arena.live_by_slab())
        return self._arena.release_slabs()
