"""The memory of all rows: one reservation, cut into slabs that blocks take as they grow.

Knows nothing of ids' meaning, slots, optimizers or policies: a row is d float32 values and a few 32-bit state words,
of which the first two are its id (see row_layout). Memory is reserved, not resident: the system gives a page when it
is first touched.

Invariant: a row never moves while it lives, except by `compact`, and the reservation never moves at all; so one
thread may gather and train rows by handle while another allocates and frees others, without a lock. Allocating,
freeing, compacting and releasing slabs themselves are for one thread at a time.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.errors import BadRows, BudgetTooSmall
from embedding_table.hash_index import ABSENT
from embedding_table.reserved_memory import reserved_memory
from embedding_table.row_layout import (
    LIVE_WORDS,
    MAX_SLABS,
    ROW_BITS,
    SLAB_BYTES,
    SLAB_WORDS,
    RunningSaliency,
    TableViews,
)
from embedding_table.slab_kernels import copy_rows, free_rows, list_live, read_rows, take_rows, write_rows

__all__ = ["SLAB_BYTES", "Block", "RowArena", "TableViews", "checked_columns"]

_SLAB_NOTES_BYTES = LIVE_WORDS * 8 + 12  # live bits, width, block and count of live rows


class Block:
    """Rows of one width with the same active columns, and the slabs they lie in.

    Attributes:
        columns: u16 (d,), ascending.
        rows_per_slab: rows that one slab holds.
        slabs: numbers of the slabs taken.
        open_slabs: those among them with a free row.
        rows: live rows.
    """

    __slots__ = ("columns", "open_slabs", "rows", "rows_per_slab", "slabs")

    def __init__(self, columns: NDArray[np.uint16], rows_per_slab: int) -> None:
        self.columns = columns
        self.rows_per_slab = rows_per_slab
        self.slabs: set[int] = set()
        self.open_slabs: set[int] = set()
        self.rows = 0

    @property
    def width(self) -> int:
        """d, the number of columns."""
        return self.columns.size


def checked_columns(columns: NDArray[np.uint16], dim: int, whose: str) -> NDArray[np.uint16]:
    """The columns as u16 (d,).

    Raises:
        BadRows: they do not ascend, or not all of them are below `dim`.
    """
    wide = np.asarray(columns).astype(np.int64)
    if wide.ndim != 1 or np.any(np.diff(wide) <= 0) or np.any(wide >= dim) or np.any(wide < 0):
        message = f"columns of {whose} are {columns!r}: expected ascending numbers below {dim}"
        raise BadRows(message)
    return wide.astype(np.uint16)


class RowArena:
    """Rows of several widths within one budget.

    Args:
        dim: D, the widest row.
        budget_bytes: what slabs may take in all; rounded down to whole slabs.
        state_words: 32-bit state words per row, 2 at least: the id comes first.
        max_blocks: how many blocks there may be at a time.
        track_changes: whether there is room for a list of changed rows.
        homes: how many homes, to one of which each block belongs, have sums of saliency; 0 keeps none.
        saliency_keep: what is left of those sums after one more update.

    Raises:
        BudgetTooSmall: the budget does not hold one slab.
    """

    def __init__(
        self,
        dim: int,
        budget_bytes: int,
        *,
        state_words: int = 2,
        max_blocks: int = 64,
        track_changes: bool = False,
        homes: int = 0,
        saliency_keep: float = 1.0,
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
        self._place_bytes = 4 if track_changes else 0  # of a row position in the list of changes
        self._memory = reserved_memory(slabs * SLAB_BYTES)
        words = np.frombuffer(self._memory, np.uint32, slabs * SLAB_WORDS)
        positions = slabs * min(1 << ROW_BITS, SLAB_WORDS // state_words) if track_changes else 0
        self._views = TableViews(
            values=words.view(np.float32),
            words=words,
            slab_width=np.zeros(slabs, np.int32),
            slab_block=np.full(slabs, -1, np.int32),
            block_columns=np.zeros((max_blocks, dim), np.uint16),
            block_width=np.zeros(max_blocks, np.int32),
            block_home=np.zeros(max_blocks, np.int32),
            live=np.zeros((slabs, LIVE_WORDS), np.uint64),
            state_words=state_words,
            dirty=np.empty(positions, np.uint32),
            dirty_length=np.zeros(1, np.int64),
            saliency=RunningSaliency(np.zeros((homes, dim)), np.zeros((homes, dim)), np.zeros(1), saliency_keep),
        )
        self._slab_live = np.zeros(slabs, np.int32)
        self._slabs = slabs
        self._blocks: dict[int, Block] = {}
        self._free_numbers = list(range(max_blocks))
        self._free_slabs: list[int] = []
        self._fresh_slab = 0  # slabs from here on were never taken
        self._rows = 0
        views = self._views
        notes = (views.block_columns, views.block_width, views.block_home, views.saliency.first, views.saliency.squared)
        self._bytes_used = sum(array.nbytes for array in notes)

    def define_block(self, columns: NDArray[np.uint16], home: int = 0) -> int:
        """A new block with these active `columns` (d,) u16, ascending and below D, of this home; answers its number.

        Raises:
            BadRows: columns out of order or range, or more blocks than the arena was made for.
        """
        if not self._free_numbers:
            message = f"block {len(self._blocks)} is one too many: this arena was made for {len(self._blocks)}"
            raise BadRows(message)
        number = self._free_numbers[0]
        checked = checked_columns(columns, self.dim, f"block {number}")
        del self._free_numbers[0]
        self._views.block_columns[number, : checked.size] = checked
        self._views.block_width[number] = checked.size
        self._views.block_home[number] = home
        rows_per_slab = min(1 << ROW_BITS, SLAB_WORDS // (checked.size + self.state_words))
        self._blocks[number] = Block(checked, rows_per_slab)
        return number

    def retire_block(self, block: int) -> None:
        """Forgets a block that has no slab; its number will be another's."""
        if self._blocks[block].slabs:
            message = f"block {block} has {len(self._blocks[block].slabs)} slabs: expected none"
            raise BadRows(message)
        del self._blocks[block]
        self._free_numbers.append(block)

    def views(self) -> TableViews:
        """Arrays for kernels, valid as long as they are held."""
        return self._views

    def columns(self, block: int) -> NDArray[np.uint16]:
        """Active columns (d,) u16 of a block."""
        return self._blocks[block].columns

    def width(self, block: int) -> int:
        """How many columns, d, a block has."""
        return self._blocks[block].width

    @property
    def rows(self) -> int:
        """Live rows of all blocks."""
        return self._rows

    @property
    def bytes_used(self) -> int:
        """Bytes of all slabs that a block has and of what is kept about them and their rows."""
        return self._bytes_used

    def slab_cost_bytes(self, block: int) -> int:
        """What `bytes_used` grows by when this block takes one more slab."""
        return SLAB_BYTES + _SLAB_NOTES_BYTES + self._blocks[block].rows_per_slab * self._place_bytes

    def block_rows(self, block: int) -> int:
        """Live rows of a block."""
        return self._blocks[block].rows

    @property
    def blocks(self) -> list[int]:
        """Numbers of all blocks."""
        return list(self._blocks)

    @property
    def free_block_count(self) -> int:
        """How many more blocks can be defined."""
        return len(self._free_numbers)

    def slab_count(self, block: int) -> int:
        """Slabs a block has."""
        return len(self._blocks[block].slabs)

    def free_rows(self, block: int) -> int:
        """Rows that a block can take without a new slab."""
        owner = self._blocks[block]
        return len(owner.slabs) * owner.rows_per_slab - owner.rows

    def block_bytes(self, block: int) -> int:
        """Bytes of the slabs a block has."""
        return len(self._blocks[block].slabs) * SLAB_BYTES

    def rows_per_slab(self, block: int) -> int:
        """How many rows of this block a slab holds."""
        return self._blocks[block].rows_per_slab

    @property
    def free_slab_count(self) -> int:
        """Slabs that no block has."""
        return len(self._free_slabs) + self._slabs - self._fresh_slab

    def allocate(self, block: int, count: int, *, max_bytes: int | None = None) -> NDArray[np.uint32]:
        """Takes `count` rows of `block`: handles (count,) u32, ABSENT for those at the end that found no room.

        `bytes_used` grows by at most `max_bytes`, if given. Values of a new row are whatever lay there; the caller
        writes it before showing the handle to others.
        """
        out = np.full(count, ABSENT, np.uint32)
        owner = self._blocks[block]
        slabs_left = self._slabs if max_bytes is None else max(0, max_bytes) // self.slab_cost_bytes(block)
        done = 0
        while done < count:
            if not owner.open_slabs:
                if slabs_left == 0 or not self._take_slab(block):
                    break
                slabs_left -= 1
            slab = next(iter(owner.open_slabs))
            done += int(take_rows(slab, owner.rows_per_slab, self._views.live, self._slab_live, out[done:]))
            if self._slab_live[slab] == owner.rows_per_slab:
                owner.open_slabs.discard(slab)
        owner.rows += done
        self._rows += done
        return out

    def free(self, handles: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Gives rows back; answers those of `handles` that were live. Their slabs stay with the block."""
        freed = np.empty(handles.size, np.uint32)
        freed = freed[: int(free_rows(handles, self._views.live, self._slab_live, freed))]
        slabs, counts = np.unique(freed >> np.uint32(ROW_BITS), return_counts=True)
        for slab, count in zip(slabs.tolist(), counts.tolist(), strict=True):
            owner = self._blocks[int(self._views.slab_block[slab])]
            owner.open_slabs.add(slab)
            owner.rows -= count
        self._rows -= freed.size
        return freed

    def release_slabs(self) -> int:
        """Returns slabs without a live row to the pool of all blocks; answers how many. No list may name their rows."""
        released = 0
        for owner in self._blocks.values():
            empty = [slab for slab in owner.open_slabs if self._slab_live[slab] == 0]
            for slab in empty:
                self._bytes_used -= self.slab_cost_bytes(int(self._views.slab_block[slab]))
                self._views.slab_block[slab] = -1
            owner.slabs.difference_update(empty)
            owner.open_slabs.difference_update(empty)
            self._free_slabs.extend(empty)
            released += len(empty)
        return released

    def compact(
        self, block: int, pinned_slabs: set[int], max_rows: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Copies rows out of the emptiest slabs of a block into free rows of its others.

        The old rows still live: the caller points to the new ones, then frees the old ones and releases the slabs.

        Args:
            block: whose rows.
            pinned_slabs: slabs that keep their rows.
            max_rows: how many rows to move at most.

        Returns:
            old handles u32 (n,), ascending, and the new ones.
        """
        owner = self._blocks[block]
        room = {slab: owner.rows_per_slab - int(self._slab_live[slab]) for slab in owner.open_slabs}
        room_left = sum(room.values())
        emptied: list[int] = []
        moved = 0
        for slab in sorted(room.keys() - pinned_slabs, key=lambda slab: -room[slab]):
            rows_here = owner.rows_per_slab - room[slab]
            room_left -= room[slab]
            if moved + rows_here > min(room_left, max_rows):
                break
            moved += rows_here
            emptied.append(slab)
        owner.open_slabs.difference_update(emptied)
        old = self._list(sorted(emptied))
        new = self.allocate(block, old.size, max_bytes=0)
        owner.open_slabs.update(emptied)
        copy_rows(self._views, old, new, owner.width)
        return old, new

    def live_handles(self, block: int) -> NDArray[np.uint32]:
        """Handles (n,) u32 of all live rows of a block, by slab and row."""
        return self._list(sorted(self._blocks[block].slabs))

    def first_handles(self, block: int, count: int) -> NDArray[np.uint32]:
        """Handles (n,) u32 of the first live rows of a block by slab and row, `count` of them if it has as many."""
        slabs = np.array(sorted(self._blocks[block].slabs), np.int64)
        enough = int(np.searchsorted(np.cumsum(self._slab_live[slabs]), count)) + 1
        return self._list(slabs[:enough].tolist())[:count]

    def scan(self, slab: int, count: int) -> tuple[NDArray[np.uint32], int]:
        """Live rows of whole slabs from this one on, `count` at most but of one slab at least.

        Returns:
            handles (n,) u32, and the slab to go on with: 0 after the last.
        """
        held = np.flatnonzero(self._slab_live[slab : self._fresh_slab]) + slab
        enough = max(1, int(np.searchsorted(np.cumsum(self._slab_live[held]), count, "right")))
        return self._list(held[:enough].tolist()), int(held[enough]) if enough < held.size else 0

    def live_by_slab(self) -> NDArray[np.int32]:
        """Live rows of every slab, i32 (slabs,); not to be written."""
        return self._slab_live

    def write(self, handles: NDArray[np.uint32], ids: NDArray[np.uint64], values: NDArray[np.float32]) -> None:
        """Writes ids (n,) u64 and values (n, d) f32 of rows of one block; further state words are left alone."""
        write_rows(self._views, handles, ids, values)

    def read(self, handles: NDArray[np.uint32], width: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Ids (n,) u64 and values (n, width) f32 of rows of one block of that width."""
        ids = np.empty(handles.size, np.uint64)
        values = np.empty((handles.size, width), np.float32)
        read_rows(self._views, handles, ids, values)
        return ids, values

    def _list(self, slabs: list[int]) -> NDArray[np.uint32]:
        numbers = np.asarray(slabs, np.int64)
        out = np.empty(int(self._slab_live[numbers].sum()), np.uint32)
        list_live(numbers, self._views.live, out)
        return out

    def _take_slab(self, block: int) -> bool:
        owner = self._blocks[block]
        if self._free_slabs:
            slab = self._free_slabs.pop()
            end = (slab + 1) * SLAB_WORDS
            self._views.words[end - owner.rows_per_slab * self.state_words : end] = 0  # as in memory never used
        elif self._fresh_slab < self._slabs:
            slab = self._fresh_slab
            self._fresh_slab += 1
        else:
            return False
        self._views.slab_width[slab] = owner.width
        self._views.slab_block[slab] = block
        owner.slabs.add(slab)
        owner.open_slabs.add(slab)
        self._bytes_used += self.slab_cost_bytes(block)
        return True
