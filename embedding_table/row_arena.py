"""The memory of all rows: one reservation, cut into slabs of 64 KiB that blocks take as they grow.

Knows nothing of ids' meaning, slots, optimizers or policies: a row is d float32 values and a few 32-bit state words,
of which the first two are its id. A slab belongs to one block and holds rows of that block's width: values from the
slab's start upwards, state from its end downwards, so that rows of 16 columns lie on one cache line each.

    slab  | row 0: d values | row 1: d values | ... free ... | row 1: state | row 0: state |

A handle is `slab << 12 | row`. Invariant: a row never moves while it lives and the reservation never moves at all, so
that one thread may gather and train rows by handle while another allocates new ones, without a lock. Memory is
reserved, not resident: the system gives a page when it is first touched. Allocating and freeing themselves are for
one thread at a time.
"""

import mmap
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_table.errors import BadRows, BudgetTooSmall
from embedding_table.hash_index import ABSENT
from model_contract.compiled import kernel

__all__ = ["ID_HIGH", "ID_LOW", "ROW_BITS", "SLAB_BYTES", "RowArena", "TableViews"]

SLAB_BYTES = 65536
SLAB_WORDS = SLAB_BYTES // 4
ROW_BITS = 12
ROW_MASK = (1 << ROW_BITS) - 1
MAX_SLABS = (1 << 20) - 1  # the last slab number is left out: ABSENT would be one of its handles
ID_LOW, ID_HIGH = 0, 1  # state words that every arena has
LIVE_WORDS = (1 << ROW_BITS) // 64
_NONE = np.int32(-1)
_HUGE_PAGE_BYTES = 2 << 20


class TableViews(NamedTuple):
    """All that a kernel needs to read and train rows by handle. Valid for the arena's life, whatever is inserted.

    Attributes:
        values: f32 (words,), the reservation as float32.
        words: u32 (words,), the same memory as 32-bit words.
        slab_width: i32 (slabs,), d of the rows in a slab.
        slab_block: i32 (slabs,), block of a slab, -1 for a free one.
        block_columns: u16 (blocks, D), the first d are the block's active columns, ascending.
        live: u64 (slabs, 64), bit r of a slab is set while its row r lives.
        state_words: state words a row has.
        dirty: u32 (positions,), handles changed by training since changes were last taken, each once.
        dirty_length: i64 (1,), how many of them.
    """

    values: NDArray[np.float32]
    words: NDArray[np.uint32]
    slab_width: NDArray[np.int32]
    slab_block: NDArray[np.int32]
    block_columns: NDArray[np.uint16]
    live: NDArray[np.uint64]
    state_words: int
    dirty: NDArray[np.uint32]
    dirty_length: NDArray[np.int64]


@kernel
def value_offset(handle: np.uint32, width: int) -> int:
    """Where the first value of a row of `width` columns lies in `values`."""
    slab = np.int64(handle) >> ROW_BITS
    return slab * SLAB_WORDS + (np.int64(handle) & ROW_MASK) * np.int64(width)


@kernel
def state_offset(handle: np.uint32, state_words: int) -> int:
    """Where the row's first state word lies in `words` (a float among them: in `values`)."""
    slab = np.int64(handle) >> ROW_BITS
    row = np.int64(handle) & ROW_MASK
    return (slab + 1) * SLAB_WORDS - (row + 1) * np.int64(state_words)


@kernel
def _lowest_bit(word: np.uint64) -> int:
    count = 0
    while not word & np.uint64(0xFF):
        word >>= np.uint64(8)
        count += 8
    while not word & np.uint64(1):
        word >>= np.uint64(1)
        count += 1
    return count


@kernel
def _take_rows(
    slab: int, capacity: int, live: NDArray[np.uint64], slab_live: NDArray[np.int32], out: NDArray[np.uint32]
) -> int:
    """Marks free rows of one slab live until it is full or `out` is; answers how many."""
    taken = 0
    for group in range((capacity + 63) // 64):
        rows_here = min(64, capacity - group * 64)
        usable = ~np.uint64(0) if rows_here == 64 else (np.uint64(1) << np.uint64(rows_here)) - np.uint64(1)
        free = ~live[slab, group] & usable
        while free and taken < out.size:
            bit = np.uint64(_lowest_bit(free))
            free &= free - np.uint64(1)
            live[slab, group] |= np.uint64(1) << bit
            out[taken] = np.uint32(slab << ROW_BITS) | np.uint32(group * 64 + np.int64(bit))
            taken += 1
        if taken == out.size:
            break
    slab_live[slab] += taken
    return taken


@kernel
def _free_rows(
    handles: NDArray[np.uint32],
    live: NDArray[np.uint64],
    slab_live: NDArray[np.int32],
    freed: NDArray[np.uint32],
) -> int:
    """Clears the live bit of each handle that has one, lists those in `freed`, answers how many."""
    count = 0
    for k in range(handles.size):
        if handles[k] == ABSENT:
            continue
        slab = np.int64(handles[k] >> np.uint32(ROW_BITS))
        row = np.int64(handles[k] & np.uint32(ROW_MASK))
        bit = np.uint64(1) << np.uint64(row & 63)
        if slab < live.shape[0] and live[slab, row >> 6] & bit:
            live[slab, row >> 6] ^= bit
            slab_live[slab] -= 1
            freed[count] = handles[k]
            count += 1
    return count


@kernel
def _list_live(slabs: NDArray[np.int64], live: NDArray[np.uint64], out: NDArray[np.uint32]) -> int:
    count = 0
    for slab in slabs:
        for group in range(LIVE_WORDS):
            word = live[slab, group]
            while word:
                out[count] = np.uint32(slab << ROW_BITS) | np.uint32(group * 64 + _lowest_bit(word))
                word &= word - np.uint64(1)
                count += 1
    return count


@kernel
def _write_rows(
    views: TableViews, handles: NDArray[np.uint32], ids: NDArray[np.uint64], values: NDArray[np.float32]
) -> None:
    for k in range(handles.size):
        start = value_offset(handles[k], values.shape[1])
        for column in range(values.shape[1]):
            views.values[start + column] = values[k, column]
        state = state_offset(handles[k], views.state_words)
        views.words[state + ID_LOW] = np.uint32(ids[k])
        views.words[state + ID_HIGH] = np.uint32(ids[k] >> np.uint64(32))


@kernel
def _read_rows(
    views: TableViews, handles: NDArray[np.uint32], ids: NDArray[np.uint64], values: NDArray[np.float32]
) -> None:
    for k in range(handles.size):
        start = value_offset(handles[k], values.shape[1])
        for column in range(values.shape[1]):
            values[k, column] = views.values[start + column]
        state = state_offset(handles[k], views.state_words)
        low = np.uint64(views.words[state + ID_LOW])
        ids[k] = low | (np.uint64(views.words[state + ID_HIGH]) << np.uint64(32))


def _reserve(size_bytes: int) -> mmap.mmap:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, size_bytes, flags=flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)  # a random row costs one TLB entry per 2 MiB instead of one per 4 KiB
    return memory


class RowArena:
    """Rows of several widths within one budget.

    Args:
        dim: D, the widest row.
        budget_bytes: what the slabs may take in all; rounded down to whole slabs.
        state_words: 32-bit state words per row, 2 at least: the id comes first.
        max_blocks: how many blocks may ever be defined.
        track_changes: whether there is room for a list of changed rows.

    Raises:
        BudgetTooSmall: the budget does not hold one slab.
    """

    def __init__(
        self, dim: int, budget_bytes: int, *, state_words: int = 2, max_blocks: int = 64, track_changes: bool = False
    ) -> None:
        slabs = min(budget_bytes // SLAB_BYTES, MAX_SLABS)
        if slabs < 1:
            message = f"budget_bytes is {budget_bytes}: expected {SLAB_BYTES} at least, one slab"
            raise BudgetTooSmall(message)
        if state_words < 2:
            message = f"state_words is {state_words}: expected 2 at least, the id"
            raise BadRows(message)
        self.dim = dim
        self.state_words = state_words
        self._slabs = slabs
        self._memory = _reserve(-(-slabs * SLAB_BYTES // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES)
        words = np.frombuffer(self._memory, np.uint32, slabs * SLAB_WORDS)
        positions = min(slabs << ROW_BITS, slabs * (SLAB_WORDS // state_words)) if track_changes else 0
        self._views = TableViews(
            values=words.view(np.float32),
            words=words,
            slab_width=np.zeros(slabs, np.int32),
            slab_block=np.full(slabs, _NONE, np.int32),
            block_columns=np.zeros((max_blocks, dim), np.uint16),
            live=np.zeros((slabs, LIVE_WORDS), np.uint64),
            state_words=state_words,
            dirty=np.empty(positions, np.uint32),
            dirty_length=np.zeros(1, np.int64),
        )
        self._slab_live = np.zeros(slabs, np.int32)
        self._block_width: list[int] = []
        self._block_slabs: list[list[int]] = []
        self._open_slabs: list[list[int]] = []  # per block, slabs that may have a free row
        self._free_slabs: list[int] = []
        self._fresh_slab = 0  # slabs from here on were never taken

    def define_block(self, columns: NDArray[np.uint16]) -> int:
        """A new block with these active `columns` (d,) u16, strictly ascending and below D; answers its number."""
        block = len(self._block_width)
        if block >= self._views.block_columns.shape[0]:
            message = f"block {block} is one too many: this arena was made for {self._views.block_columns.shape[0]}"
            raise BadRows(message)
        wide = columns.astype(np.int64)
        if wide.ndim != 1 or np.any(np.diff(wide) <= 0) or np.any(wide >= self.dim) or np.any(wide < 0):
            message = f"columns of block {block} are {columns!r}: expected ascending numbers below {self.dim}"
            raise BadRows(message)
        self._views.block_columns[block, : wide.size] = wide
        self._block_width.append(int(wide.size))
        self._block_slabs.append([])
        self._open_slabs.append([])
        return block

    def views(self) -> TableViews:
        """Arrays for kernels, valid as long as they are held."""
        return self._views

    def columns(self, block: int) -> NDArray[np.uint16]:
        """Active columns (d,) u16 of a block."""
        return self._views.block_columns[block, : self._block_width[block]].copy()

    def rows_per_slab(self, block: int) -> int:
        """How many rows of this block a slab holds."""
        return min(1 << ROW_BITS, SLAB_WORDS // (self._block_width[block] + self.state_words))

    @property
    def free_slab_count(self) -> int:
        """Slabs that no block has."""
        return len(self._free_slabs) + self._slabs - self._fresh_slab

    def block_rows(self, block: int) -> int:
        """Live rows of a block."""
        return int(self._slab_live[self._block_slabs[block]].sum())

    def block_bytes(self, block: int) -> int:
        """Bytes of the slabs a block has."""
        return len(self._block_slabs[block]) * SLAB_BYTES

    @property
    def rows(self) -> int:
        """Live rows of all blocks."""
        return int(self._slab_live.sum())

    @property
    def bytes_used(self) -> int:
        """Bytes of all slabs that a block has, with what is kept per slab beside them."""
        taken = self._slabs - self.free_slab_count
        return taken * (SLAB_BYTES + LIVE_WORDS * 8 + 4 + 4 + 4) + self._views.block_columns.nbytes

    def allocate(self, block: int, count: int, *, max_new_slabs: int | None = None) -> NDArray[np.uint32]:
        """Takes `count` rows of `block`: handles (count,) u32, ABSENT for those at the end that found no room.

        Values and state of a new row are whatever lay there; the caller writes them before it shows the handle.
        """
        out = np.full(count, ABSENT, np.uint32)
        capacity = self.rows_per_slab(block)
        limit = self._slabs if max_new_slabs is None else max_new_slabs
        done = 0
        while done < count:
            if not self._open_slabs[block]:
                if limit <= 0 or not self._take_slab(block):
                    break
                limit -= 1
            slab = self._open_slabs[block][-1]
            done += int(_take_rows(slab, capacity, self._views.live, self._slab_live, out[done:]))
            if self._slab_live[slab] == capacity:
                self._open_slabs[block].pop()
        return out

    def free(self, handles: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Gives rows back; answers those of `handles` that were live."""
        full_before = self._slab_live.copy()
        freed = np.empty(handles.size, np.uint32)
        freed = freed[: int(_free_rows(handles, self._views.live, self._slab_live, freed))]
        for slab in np.unique(freed >> np.uint32(ROW_BITS)).tolist():
            block = int(self._views.slab_block[slab])
            if full_before[slab] == self.rows_per_slab(block):
                self._open_slabs[block].append(slab)
        return freed

    def live_handles(self, block: int) -> NDArray[np.uint32]:
        """Handles (n,) u32 of all live rows of a block, by slab and row."""
        slabs = np.asarray(sorted(self._block_slabs[block]), np.int64)
        out = np.empty(int(self._slab_live[slabs].sum()), np.uint32)
        _list_live(slabs, self._views.live, out)
        return out

    def write(self, handles: NDArray[np.uint32], ids: NDArray[np.uint64], values: NDArray[np.float32]) -> None:
        """Writes ids (n,) u64 and values (n, d) f32 of rows of one block; further state words are left alone."""
        _write_rows(self._views, handles, ids, values)

    def read(self, handles: NDArray[np.uint32], width: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Ids (n,) u64 and values (n, width) f32 of rows of one block."""
        ids = np.empty(handles.size, np.uint64)
        values = np.empty((handles.size, width), np.float32)
        _read_rows(self._views, handles, ids, values)
        return ids, values

    def _take_slab(self, block: int) -> bool:
        if self._free_slabs:
            slab = self._free_slabs.pop()
        elif self._fresh_slab < self._slabs:
            slab = self._fresh_slab
            self._fresh_slab += 1
        else:
            return False
        self._views.slab_width[slab] = self._block_width[block]
        self._views.slab_block[slab] = block
        self._block_slabs[block].append(slab)
        self._open_slabs[block].append(slab)
        return True
