"""The collisionless embedding table: every feature id has its own row, in the block of its slot.

Knows ids, slots, rows and their optimizer; not where ids come from, which deserve a row (feature_admission decides)
or how wide a row should be. Ids in, handles out; with handles rows are read and trained.

Threads: one thread may `gather` and `update` while another calls `find` and `insert`. The calls that say "at a cut"
want no update under way and no handle found before to be used afterwards; everything but gather and update is
guarded by one lock.

Invariant: `bytes_used` <= `budget_bytes` after every insert and restore, working memory of a single batch and, for
the moment of its growth, the index's old entries aside. Each slot's missing row is there from the start and stays.
"""

from collections.abc import Sequence
from threading import RLock

import numpy as np
from numpy.typing import NDArray

from embedding_table import trained_rows
from embedding_table.bag_gather import gather_batch
from embedding_table.bag_update import BagUpdater
from embedding_table.change_lists import ChangeLists
from embedding_table.errors import BadLookups, BudgetTooSmall, PinnedRow
from embedding_table.hash_index import ABSENT, HashIndex
from embedding_table.row_arena import RowArena
from embedding_table.row_budget import BORN_BYTES, RowBudget
from embedding_table.row_layout import ROW_BITS, TRAINED_STATE_WORDS, TableViews
from embedding_table.row_transfer import block_of, copy_block_in, copy_blocks_out
from embedding_table.table_rows import BlockUse, LiveRows, RowsOfBlock, TableChanges, TableMemory
from embedding_table.thread_parts import available_threads, in_parts

__all__ = ["ABSENT", "EmbeddingTable", "LiveRows", "RowsOfBlock", "TableChanges"]

_PARALLEL_IDS = 1 << 17

Ids = NDArray[np.uint64]
Handles = NDArray[np.uint32]


class EmbeddingTable:
    """Rows of F slots, trained by row-wise Adagrad, within a budget of bytes.

    Args:
        slots: F.
        dim: D, the interaction width.
        budget_bytes: for rows, optimizer state, index, lists of changes and free space.
        seed: with the id it decides a row's first values.
        init_scale: first values are uniform in [-init_scale, init_scale).
        initial_accumulator: where Adagrad's accumulator of a new row starts.
        missing_ids: u64 (F,), the id of each slot's missing row.
        bands: popularity bands a slot has; rows are born in band 0.
        columns: active columns u16 (d,) of each block, slot by slot and band by band inside; None for all D.
        threads: cores to use for large batches; None for all there are.

    Attributes:
        missing_handles: u32 (F,), handles of the missing rows. `restore_rows` replaces the array.

    Raises:
        BudgetTooSmall: the budget does not hold the missing rows.
        BadRows: columns out of order or range.
    """

    def __init__(
        self,
        slots: int,
        dim: int,
        budget_bytes: int,
        seed: int,
        init_scale: float,
        initial_accumulator: float,
        missing_ids: Ids,
        bands: int = 1,
        columns: Sequence[NDArray[np.uint16]] | None = None,
        threads: int | None = None,
    ) -> None:
        self.slots = slots
        self.dim = dim
        self.bands = bands
        self.budget_bytes = budget_bytes
        self._seed = np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
        self._init_scale = init_scale
        self._initial_accumulator = initial_accumulator
        self._threads = threads or available_threads()
        self._arena = RowArena(
            dim, budget_bytes, state_words=TRAINED_STATE_WORDS, max_blocks=slots * bands, track_changes=True
        )
        everything = np.arange(dim, dtype=np.uint16)
        for block in range(slots * bands):
            self._arena.define_block(everything if columns is None else columns[block])
        self._blocks = range(slots * bands)
        self._index = HashIndex()
        self._updater = BagUpdater(self._arena.views(), self._threads)
        self._changes = ChangeLists(self._arena.views())
        self._budget = RowBudget(budget_bytes, self._arena, self._index, self._changes)
        self._lock = RLock()
        self._missing_ids = np.array(missing_ids, np.uint64)
        self.missing_handles = self.insert(self._missing_ids, np.arange(slots, dtype=np.int32), 0)
        if np.any(self.missing_handles == ABSENT):
            message = f"budget_bytes is {budget_bytes}: expected room for one row in each of {slots} slots"
            raise BudgetTooSmall(message)

    @property
    def rows(self) -> int:
        """Live rows, the missing rows among them."""
        return self._arena.rows

    @property
    def bytes_used(self) -> int:
        """Bytes of slabs (rows, state, free rows), of what is kept about them, of the index and of lists of changes."""
        return self._budget.bytes_used

    def memory_use(self) -> TableMemory:
        """What the rows and the rest take; see `TableMemory`."""
        with self._lock:
            return self._budget.memory_use()

    def block_uses(self) -> tuple[BlockUse, ...]:
        """Rows and bytes of every block, by slot and band."""
        with self._lock:
            return self._budget.block_uses(self.bands)

    def views(self) -> TableViews:
        """Arrays for kernels, valid for the table's life."""
        return self._arena.views()

    def find(self, ids: Ids) -> Handles:
        """Handles u32 (L,) of `ids` u64 (L,), ABSENT for those without a row."""
        with self._lock:
            if ids.size < _PARALLEL_IDS or self._threads == 1:
                return self._index.find(ids)
            handles = np.empty(ids.size, np.uint32)
            borders = np.linspace(0, ids.size, self._threads + 1).astype(np.int64)

            def find_part(part: int) -> None:
                lo, hi = borders[part], borders[part + 1]
                self._index.find_into(ids[lo:hi], handles[lo:hi])

            in_parts(find_part, self._threads)
            return handles

    def insert(self, ids: Ids, slots: NDArray[np.int32], now_s: int) -> Handles:
        """Gives each id a row, if it has none yet, with fresh values and state.

        Args:
            ids: u64 (n,), not 0.
            slots: i32 (n,), the slot of each; an id that has a row stays where it is.
            now_s: seconds since epoch, written to new rows as last seen.

        Returns:
            handles u32 (n,), ABSENT where the budget is full.

        Raises:
            BadLookups: lengths differ, an id is 0 or a slot does not exist.
        """
        if ids.shape != slots.shape:
            message = f"ids have shape {ids.shape}, slots {slots.shape}: expected the same"
            raise BadLookups(message)
        if ids.size == 0:
            return np.empty(0, np.uint32)
        if np.any(ids == 0) or slots.min() < 0 or slots.max() >= self.slots:
            message = f"ids or slots out of range: expected ids above 0 and slots below {self.slots}"
            raise BadLookups(message)
        with self._lock:
            handles = self._index.find(ids)
            new = np.flatnonzero(handles == ABSENT)
            if new.size:
                handles[new] = self._give_birth(ids[new], slots[new], now_s)
            return handles

    def erase(self, handles: Handles) -> Ids:
        """Takes rows away, at a cut; their ids become tombstones of the next changes.

        Args:
            handles: u32 (n,); ABSENT and rows already gone are passed over.

        Returns:
            ids u64 of the rows taken away.

        Raises:
            PinnedRow: a missing row is among them; nothing is taken away.
        """
        with self._lock:
            pinned = np.isin(self.missing_handles, handles)
            if pinned.any():
                message = f"handles hold the missing row of slot {int(np.argmax(pinned))}: expected rows of ids only"
                raise PinnedRow(message)
            freed = self._arena.free(handles)
            ids, _ = self._arena.read(freed, 0)
            self._index.erase(ids)
            self._changes.erased(ids)
            return ids

    def gather(
        self,
        handles: Handles,
        offsets: NDArray[np.int64],
        pooling_codes: NDArray[np.int8],
        out: NDArray[np.float32],
    ) -> None:
        """Pools rows into `out`; see `bag_kernels.gather_bags`.

        Args:
            handles: u32 (L,), ABSENT counts as a row of zeros.
            offsets: i64 (B*F + 1,), bag (b, f) is handles[offsets[b*F + f] : offsets[b*F + f + 1]].
            pooling_codes: i8 (F,), 0 sum, 1 mean.
            out: f32 (B, F, D), C order, overwritten.

        Raises:
            BadLookups: shapes disagree.
        """
        bags = self._check_bags(handles, offsets, pooling_codes, out)
        gather_batch(self.views(), self._threads, handles, offsets, pooling_codes, out.reshape(bags, self.dim))

    def update(
        self,
        handles: Handles,
        offsets: NDArray[np.int64],
        pooling_codes: NDArray[np.int8],
        grad: NDArray[np.float32],
        lr: float,
        eps: float,
        now_s: int,
        decay: float = 1.0,
    ) -> None:
        """One step of row-wise Adagrad on every row looked up; see `bag_kernels.update_bags`.

        Args:
            handles: u32 (L,), ABSENT is passed over.
            offsets: i64 (B*F + 1,).
            pooling_codes: i8 (F,), 0 sum, 1 mean.
            grad: f32 (B, F, D), C order, of the pooled rows.
            lr: learning rate.
            eps: added to the root of the accumulator.
            now_s: seconds since epoch, written as last seen.
            decay: what is left of a row's accumulator before this gradient is added; 1 forgets nothing.

        Raises:
            BadLookups: shapes disagree.
        """
        bags = self._check_bags(handles, offsets, pooling_codes, grad)
        self._updater.update(handles, offsets, pooling_codes, grad.reshape(bags, self.dim), lr, eps, now_s, decay)

    def take_changes(self) -> TableChanges:
        """Copies out the rows changed since the last call and the ids erased since, and forgets both; at a cut."""
        with self._lock:
            changed, erased_ids = self._changes.take()
            self._arena.release_slabs()
            erased_ids = erased_ids[self._index.find(erased_ids) == ABSENT]
            return TableChanges(copy_blocks_out(self._arena, changed, self.bands), erased_ids)

    def all_rows(self) -> TableChanges:
        """Copies out all rows; marks stay as they are; at a cut."""
        with self._lock:
            handles = [self._arena.live_handles(block) for block in self._blocks]
            return TableChanges(
                copy_blocks_out(self._arena, np.concatenate(handles), self.bands), np.empty(0, np.uint64)
            )

    def restore_rows(self, changes: TableChanges) -> None:
        """Erases and writes rows as they were copied out, without marking them as changed; at a cut.

        Raises:
            BadRows: a block's slot, band or columns are not this table's; nothing has changed then.
            BudgetTooSmall: the rows do not fit; those that do are there.
        """
        with self._lock:
            blocks = [block_of(self._arena, part, self.slots, self.bands) for part in changes.blocks]
            gone = self._index.find(changes.erased_ids)
            self._arena.free(gone)
            self._index.erase(changes.erased_ids)
            for block, part in zip(blocks, changes.blocks, strict=True):
                self._write_block(block, part)
            self.missing_handles = self._index.find(self._missing_ids)

    def live_rows(self) -> LiveRows:
        """Statistics of all rows but the missing ones."""
        with self._lock:
            per_block = [self._arena.live_handles(block) for block in self._blocks]
            sizes = [handles.size for handles in per_block]
            handles = np.concatenate(per_block)
            slots = np.repeat(np.arange(len(self._blocks), dtype=np.int32) // np.int32(self.bands), sizes)
            evictable = ~np.isin(handles, self.missing_handles)
            handles, slots = handles[evictable], slots[evictable]
            counts = np.empty(handles.size, np.float32)
            last_seen_s = np.empty(handles.size, np.uint32)
            trained_rows.read_statistics(self._arena.views(), handles, counts, last_seen_s)
            return LiveRows(handles, slots, counts, last_seen_s)

    def decay_counts(self, factor: float) -> None:
        """Multiplies all traffic counts, in float32; no row becomes a changed one by it; at a cut."""
        with self._lock:
            for block in self._blocks:
                trained_rows.decay_counts(self._arena.views(), self._arena.live_handles(block), factor)

    def compact(self, max_rows: int = 100_000) -> int:
        """Moves rows out of slabs that hold few, so that other blocks can have these slabs; at a cut.

        Args:
            max_rows: how many rows to move at most.

        Returns:
            slabs returned to the pool.
        """
        with self._lock:
            pinned_slabs = set((self.missing_handles >> ROW_BITS).tolist())
            listed = self._changes.live_handles()
            for block in self._blocks:
                old, new = self._arena.compact(block, pinned_slabs, max_rows)
                if old.size:
                    ids, _ = self._arena.read(new, 0)
                    self._index.insert(ids, new)
                    self._arena.free(old)
                    places = np.minimum(np.searchsorted(old, listed), old.size - 1)
                    listed = np.where(old[places] == listed, new[places], listed)
                    max_rows -= old.size
            self._changes.replace(listed)
            return self._arena.release_slabs()

    def _give_birth(self, ids: Ids, slots: NDArray[np.int32], now_s: int) -> Handles:
        """Rows for ids that have none: the slots' bands 0, as far as the budget goes."""
        handles = np.full(ids.size, ABSENT, np.uint32)
        order = np.argsort(slots, kind="stable")[: self._budget.index_room(ids.size)]
        borders = np.searchsorted(slots[order], np.arange(self.slots + 1))
        promised_bytes = 0
        for slot in np.flatnonzero(np.diff(borders)).tolist():
            places = order[borders[slot] : borders[slot + 1]]
            taken = self._budget.allocate(slot * self.bands, places.size, BORN_BYTES, promised_bytes)
            handles[places[: taken.size]] = taken
            promised_bytes += BORN_BYTES * int(np.count_nonzero(taken != ABSENT))
        found = np.flatnonzero(handles != ABSENT)
        if self._index.insert(ids[found], handles[found]) != found.size:
            self._arena.free(handles[found])
            self._index.erase(ids[found])
            message = f"ids name {np.unique(ids).size} rows {ids.size} times: expected each id once"
            raise BadLookups(message)
        listed = np.empty(found.size, np.uint32)
        listed_count = trained_rows.start_rows(
            self._arena.views(),
            handles[found],
            ids[found],
            self._seed,
            self._init_scale,
            self._initial_accumulator,
            now_s,
            listed,
        )
        self._changes.born(listed[: int(listed_count)])
        return handles

    def _check_bags(
        self,
        handles: Handles,
        offsets: NDArray[np.int64],
        pooling_codes: NDArray[np.int8],
        pooled: NDArray[np.float32],
    ) -> int:
        bags = offsets.size - 1
        fits = (
            pooling_codes.shape == (self.slots,)
            and pooled.shape == (bags // self.slots, self.slots, self.dim)
            and bags % self.slots == 0
            and pooled.flags.c_contiguous
            and offsets[-1] <= handles.size
        )
        if not fits:
            message = (
                f"{handles.size} handles, {bags} bags up to {offsets[-1:]}, pooling {pooling_codes.shape}, rows "
                f"{pooled.shape}: expected (B, {self.slots}, {self.dim}) in C order and bags of B samples"
            )
            raise BadLookups(message)
        return bags

    def _write_block(self, block: int, part: RowsOfBlock) -> None:
        handles = self._index.find(part.ids)
        present = np.flatnonzero(handles != ABSENT)
        elsewhere = present[self.views().slab_block[handles[present] >> np.uint32(ROW_BITS)] != block]
        self._arena.free(handles[elsewhere])
        handles[elsewhere] = ABSENT
        new = np.flatnonzero(handles == ABSENT)
        room = self._budget.index_room(new.size)
        handles[new[:room]] = self._budget.allocate(block, room)
        kept = np.flatnonzero(handles != ABSENT)
        self._index.insert(part.ids[kept], handles[kept])
        copy_block_in(self._arena, handles[kept], part, kept)
        if kept.size < handles.size:
            message = f"{handles.size} rows of slot {part.slot} with {self.budget_bytes} bytes: room for {kept.size}"
            raise BudgetTooSmall(message)
