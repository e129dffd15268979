"""What a table hands out and takes back: rows of a block, changes between two cuts, statistics of live rows.

Knows no memory layout. Invariant: all arrays are copies; nothing here changes when the table does.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["BlockUse", "LiveRows", "RowsOfBlock", "TableChanges", "TableMemory"]


@dataclass(frozen=True, slots=True, eq=False)
class RowsOfBlock:
    """Rows of one (slot, band), n of them, with all that training needs to go on.

    Attributes:
        slot: number of the slot.
        band: popularity band; the higher, the hotter.
        columns: u16 (d,), active columns out of D, ascending.
        ids: u64 (n,), each once, in no order.
        values: f32 (n, d).
        accumulators: f32 (n,), row-wise Adagrad.
        counts: f32 (n,), decayed number of lookups.
        last_seen_s: u32 (n,), seconds since epoch of the last lookup that trained.
    """

    slot: int
    band: int
    columns: NDArray[np.uint16]
    ids: NDArray[np.uint64]
    values: NDArray[np.float32]
    accumulators: NDArray[np.float32]
    counts: NDArray[np.float32]
    last_seen_s: NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class TableChanges:
    """What happened to a table between two cuts, or the whole of it: absolute values, so twice is once.

    Attributes:
        blocks: changed rows, by (slot, band); a block without any is left out. While a resize drains, rows of older
            columns come as a block of their own before those of newer ones.
        erased_ids: u64 (t,), ascending, ids that had a row and have none now. Applied before the rows.
    """

    blocks: tuple[RowsOfBlock, ...]
    erased_ids: NDArray[np.uint64]

    @property
    def rows(self) -> int:
        """Rows of all blocks."""
        return sum(block.ids.size for block in self.blocks)


@dataclass(frozen=True, slots=True, eq=False)
class LiveRows:
    """Statistics of rows that may be evicted, N of them: never a slot's missing row.

    Attributes:
        handles: u32 (N,).
        slots: i32 (N,).
        bands: i32 (N,), popularity bands.
        counts: f32 (N,), decayed number of lookups.
        last_seen_s: u32 (N,), seconds since epoch.
        ids: u64 (N,), empty where they were not asked for. They decide between equals: where a row lies in memory
            differs between a trainer that never stopped and one that was restored.
    """

    handles: NDArray[np.uint32]
    slots: NDArray[np.int32]
    bands: NDArray[np.int32]
    counts: NDArray[np.float32]
    last_seen_s: NDArray[np.uint32]
    ids: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    def part(self, start: int, stop: int) -> "LiveRows":
        """The rows from `start` to before `stop`, as views."""
        here = slice(start, stop)
        return LiveRows(
            self.handles[here],
            self.slots[here],
            self.bands[here],
            self.counts[here],
            self.last_seen_s[here],
            self.ids[here],
        )


@dataclass(frozen=True, slots=True)
class BlockUse:
    """What one (slot, band) takes.

    Attributes:
        slot: number of the slot.
        band: popularity band.
        width: d, of the columns now wanted.
        rows: live rows, those that are still to be resized among them.
        bytes_used: of its slabs and what is kept about them, free rows among them.
    """

    slot: int
    band: int
    width: int
    rows: int
    bytes_used: int


@dataclass(frozen=True, slots=True)
class TableMemory:
    """What the table would take with every block's rows packed into as few slabs as hold them.

    Free rows are not counted, since new rows go there first; a slab begun is counted whole.

    Attributes:
        rows: live rows.
        row_bytes: bytes that rows take, all of it gone with the last row.
        fixed_bytes: bytes that stay whatever rows go: index, lists of changes.
    """

    rows: int
    row_bytes: int
    fixed_bytes: int
