"""The collisionless embedding table: every feature id has its own row, in the block of its slot.

Knows ids, slots, rows and their optimizer; not where ids come from, which deserve a row (feature_admission decides)
or how wide a row should be. Ids in, handles out; with handles rows are read and trained.

Threads: one thread may `gather` and `update` while another calls `find` and `insert`. The calls that say "at a cut"
want no update under way and no handle found before to be used afterwards; everything but gather and update is
guarded by one lock.

Columns of a (slot, band) may change while the table is in use: new rows are born with the new columns at once, old ones
are moved some at a time, and every call is right in between.

Invariant: `bytes_used` <= `budget_bytes` after every insert and restore, working memory of a single batch and, for
the moment of its growth, the index's old entries aside. Each slot's missing row is there from the start and stays.
"""

from collections.abc import Sequence
from dataclasses import replace
from threading import RLock

import numpy as np
from numpy.typing import NDArray

from embedding_table import lookup_checks, trained_rows
from embedding_table.bag_gather import gather_batch
from embedding_table.bag_update import BagUpdater
from embedding_table.block_generations import GENERATIONS, NO_COLUMNS, BlockGenerations
from embedding_table.change_lists import ChangeLists
from embedding_table.errors import BudgetTooSmall, PinnedRow
from embedding_table.hash_index import ABSENT, HashIndex
from embedding_table.row_arena import RowArena
from embedding_table.row_births import RowBirths
from embedding_table.row_budget import RowBudget
from embedding_table.row_layout import TRAINED_STATE_WORDS, TableViews
from embedding_table.row_moves import RowMover
from embedding_table.row_restore import restore_block
from embedding_table.row_statistics import row_statistics
from embedding_table.row_transfer import check_rows, copy_blocks_out
from embedding_table.saliency_sums import SaliencySums, carry_over, copy_sums, restore_sums
from embedding_table.table_rows import BlockUse, LiveRows, RowsOfBlock, TableChanges, TableMemory
from embedding_table.thread_parts import available_threads, in_parts, parts_of

__all__ = ["ABSENT", "EmbeddingTable", "LiveRows", "RowsOfBlock", "SaliencySums", "TableChanges"]

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
        bands: popularity bands a slot has; the higher, the hotter.
        columns: active columns u16 (d,) of each block, slot by slot and band by band inside; None for all D.
        threads: cores to use for large batches; None for all there are.
        birth_bands: i32 (F,), the band in which a slot's new rows are born; None for band 0.
        saliency_keep: what is left of the running sums of saliency after one more update; None gathers none.

    Attributes:
        missing_handles: u32 (F,), handles of the missing rows. Calls that move or restore rows replace the array.

    Raises:
        BudgetTooSmall: the budget does not hold the missing rows.
        BadRows: columns out of order or range.
        BadLookups: a birth band does not exist.
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
        birth_bands: NDArray[np.int32] | None = None,
        saliency_keep: float | None = 0.9995,
    ) -> None:
        self.slots = slots
        self.dim = dim
        self.bands = bands
        self.budget_bytes = budget_bytes
        self._threads = threads or available_threads()
        self._arena = RowArena(
            dim,
            budget_bytes,
            state_words=TRAINED_STATE_WORDS,
            max_blocks=GENERATIONS * slots * bands,
            track_changes=True,
            homes=0 if saliency_keep is None else slots * bands,
            saliency_keep=saliency_keep or 0.0,
        )
        everything = [np.arange(dim, dtype=np.uint16)] * (slots * bands)
        self._generations = BlockGenerations(self._arena, slots, bands, everything if columns is None else columns)
        self._index = HashIndex()
        self._updater = BagUpdater(self._arena.views(), self._threads)
        self._changes = ChangeLists(self._arena.views())
        self._budget = RowBudget(budget_bytes, self._arena, self._index, self._changes)
        self._mover = RowMover(self._arena, self._index, self._budget, self._changes, seed=seed, init_scale=init_scale)
        self._births = RowBirths(
            self._arena,
            self._index,
            self._budget,
            self._changes,
            self._generations,
            seed=seed,
            init_scale=init_scale,
            initial_accumulator=initial_accumulator,
        )
        self._lock = RLock()
        if birth_bands is not None:
            self.set_birth_bands(birth_bands)
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
            return self._budget.block_uses(self._generations)

    def columns(self, slot: int, band: int) -> NDArray[np.uint16]:
        """Columns u16 (d,) that rows of a slot and band are to have; rows not resized yet have others."""
        return self._arena.columns(self._generations.newest(slot * self.bands + band)).copy()

    def set_birth_bands(self, birth_bands: NDArray[np.int32]) -> None:
        """Sets the band i32 (F,) in which each slot's rows are born from now on.

        Raises:
            BadLookups: there is no such band, or they are not F.
        """
        lookup_checks.check_bands(birth_bands, (self.slots,), self.bands)
        with self._lock:
            self._births.bands = np.array(birth_bands, np.int32)

    def views(self) -> TableViews:
        """Arrays for kernels, valid for the table's life."""
        return self._arena.views()

    def find(self, ids: Ids) -> Handles:
        """Handles u32 (L,) of `ids` u64 (L,), ABSENT for those without a row."""
        with self._lock:
            if ids.size < _PARALLEL_IDS or self._threads == 1:
                return self._index.find(ids)
            handles = np.empty(ids.size, np.uint32)
            parts = parts_of(ids.size, _PARALLEL_IDS, self._threads)
            borders = np.linspace(0, ids.size, parts + 1).astype(np.int64)

            def find_part(part: int) -> None:
                lo, hi = borders[part], borders[part + 1]
                self._index.find_into(ids[lo:hi], handles[lo:hi])

            in_parts(find_part, parts, self._threads)
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
        lookup_checks.check_ids(ids, slots, self.slots)
        with self._lock:
            handles = self._index.find(ids)
            new = np.flatnonzero(handles == ABSENT)
            if new.size:
                handles[new] = self._births.give(ids[new], slots[new], now_s)
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
        bags = lookup_checks.check_bags(handles, offsets, pooling_codes, out, self.slots, self.dim)
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
        reference_width: float = 0.0,
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
            reference_width: rows wider than this learn at lr * sqrt(reference_width / d); 0 for all at lr.

        Raises:
            BadLookups: shapes disagree.
        """
        bags = lookup_checks.check_bags(handles, offsets, pooling_codes, grad, self.slots, self.dim)
        self._updater.update(
            handles, offsets, pooling_codes, grad.reshape(bags, self.dim), lr, eps, now_s, decay, reference_width
        )

    def begin_resize(
        self, columns: Sequence[NDArray[np.uint16]], seeded: Sequence[NDArray[np.uint16]] | None = None
    ) -> None:
        """Gives (slots, bands) other columns, at a cut; no row moves yet, new ones are born with these.

        Args:
            columns: u16 (d,) of each (slot, band), as the constructor takes them; those that stay are left alone.
            seeded: u16 (k,) of each slot, columns that begin with random values in rows that get them now; all others
                begin at zero. A product of two new columns gives neither a gradient while both are zero.

        Raises:
            BadRows: columns out of order or range; nothing has changed then.
            ResizeUnderway: rows of several earlier resizes found no room yet; nothing has changed then.
        """
        with self._lock:
            wanted = self._generations.checked(columns)
            self._mover.release_slabs()
            self._generations.retire_empty()
            homes = self._generations.changed_homes(wanted)
            self._generations.check_room(homes)
            for home in homes:
                old = self._arena.columns(self._generations.newest(home))
                carry_over(self.views().saliency, home, old, wanted[home])
                seeds = NO_COLUMNS if seeded is None else seeded[home // self.bands]
                self._generations.begin(home, wanted[home], seeds)

    def resize_some(self, max_rows: int) -> int:
        """Moves up to `max_rows` rows to their new columns, at a cut, and marks them as changed.

        Columns in common keep their values, new ones start at zero or as `begin_resize` was told, others are lost;
        accumulator, count and last use follow. Rows that find no room within the budget stay as they are, right for
        every use; try again later.

        Returns:
            rows moved.
        """
        with self._lock:
            moved = 0
            for old, home in self._generations.draining():
                some = self._arena.first_handles(old, max_rows - moved)
                moved += self._mover.move(some, self._generations.newest(home), self._generations.seeded(home))
            self._tidy()
            return moved

    @property
    def resizing(self) -> bool:
        """Whether rows still have other columns than `columns` says."""
        return self.rows_to_resize > 0

    @property
    def rows_to_resize(self) -> int:
        """How many rows those are."""
        with self._lock:
            return self._generations.rows_draining()

    def move_rows(self, handles: Handles, bands: NDArray[np.int32]) -> int:
        """Moves rows to other bands of their slots, at a cut, as `resize_some` does.

        Args:
            handles: u32 (n,), each once; missing rows may be among them. ABSENT and rows gone are passed over.
            bands: i32 (n,), the band for each; a row that is in it stays.

        Returns:
            rows moved; those that found no room stay in their band.

        Raises:
            BadLookups: shapes disagree or there is no such band.
        """
        lookup_checks.check_bands(bands, handles.shape, self.bands)
        with self._lock:
            moved = self._mover.move_to_bands(handles, bands, self._generations)
            self._tidy()
            return moved

    def saliency(self) -> SaliencySums:
        """Copies of the running sums of saliency, zeros if none are gathered; at a cut."""
        active = [self._arena.columns(self._generations.newest(home)) for home in range(self._generations.homes)]
        return copy_sums(self.views().saliency, self.slots, self.bands, active)

    def restore_saliency(self, sums: SaliencySums) -> None:
        """Takes running sums back; at a cut.

        Raises:
            BadRows: they are not of this table's shape.
        """
        restore_sums(self.views().saliency, sums, self.slots, self.bands)

    def take_changes(self) -> TableChanges:
        """Copies out the rows changed since the last call and the ids erased since, and forgets both; at a cut."""
        with self._lock:
            changed, erased_ids = self._changes.take()
            self._arena.release_slabs()
            self._generations.retire_empty()
            erased_ids = erased_ids[self._index.find(erased_ids) == ABSENT]
            return TableChanges(self._copy_out(changed), erased_ids)

    @property
    def changes_listed(self) -> int:
        """How many rows the next changes hold at most."""
        with self._lock:
            return self._changes.length

    def copy_changes(self, max_rows: int) -> tuple[RowsOfBlock, ...]:
        """Copies out some of the changed rows ahead of the next changes, which hold them if they change again only.

        While no update is under way; ids may be inserted meanwhile. See `early_copies` for how both become one.

        Args:
            max_rows: how many rows at most, those changed longest ago.
        """
        with self._lock:
            return self._copy_out(self._changes.take_some(max_rows))

    def all_rows(self) -> TableChanges:
        """Copies out all rows; marks stay as they are; at a cut."""
        with self._lock:
            return TableChanges(self._copy_out(self._live_handles()), np.empty(0, np.uint64))

    def restore_rows(self, changes: TableChanges) -> None:
        """Erases and writes rows as they were copied out, without marking them as changed; at a cut.

        Rows with other columns than their (slot, band) has are changed as `resize_some` would; a row that is elsewhere
        moves.

        Raises:
            BadRows: a block's slot, band or columns do not exist in this table; nothing has changed then.
            BudgetTooSmall: the rows do not fit; those that do are there.
        """
        with self._lock:
            for part in changes.blocks:
                check_rows(part, self.slots, self.bands, self.dim)
            gone = self._index.find(changes.erased_ids)
            self._arena.free(gone)
            self._index.erase(changes.erased_ids)
            for part in changes.blocks:
                restore_block(self._arena, self._index, self._budget, self._generations, part)
            self.missing_handles = self._index.find(self._missing_ids)

    def mark_changed(self, handles: Handles) -> None:
        """Puts live rows u32 (n,) among the changed ones, so that the next changes hold them too; at a cut."""
        with self._lock:
            self._changes.mark(handles)

    def read_rows(self, handles: Handles) -> NDArray[np.float32]:
        """Values f32 (n, D) of live rows u32 (n,), 0 in columns that a row does not have."""
        values = np.empty((handles.size, self.dim), np.float32)
        offsets = np.arange(handles.size + 1, dtype=np.int64)
        gather_batch(self.views(), self._threads, handles, offsets, np.zeros(1, np.int8), values)
        return values

    def live_rows(self) -> LiveRows:
        """Statistics and ids of all rows but the missing ones."""
        with self._lock:
            rows = row_statistics(self.views(), self._live_handles(), self.bands, self.missing_handles)
            return replace(rows, ids=self._arena.read(rows.handles, 0)[0])

    def changed_rows(self) -> LiveRows:
        """Statistics of the rows that the next changes will hold, but for the missing ones; at a cut."""
        with self._lock:
            return row_statistics(self.views(), self._changes.changed(), self.bands, self.missing_handles)

    def scan_rows(self, cursor: int, max_rows: int) -> tuple[LiveRows, int]:
        """Statistics of some rows at a time, until all have been seen; at a cut.

        Args:
            cursor: 0 at the start, then what the last call answered.
            max_rows: how many rows at most, but for those of one slab of 64 KiB, which come together.

        Returns:
            the rows, without missing ones, and the next cursor: 0 when the round is complete.
        """
        with self._lock:
            handles, following = self._arena.scan(cursor, max_rows)
            return row_statistics(self.views(), handles, self.bands, self.missing_handles), following

    def decay_counts(self, factor: float) -> None:
        """Multiplies all traffic counts, in float32; no row becomes a changed one by it; at a cut."""
        with self._lock:
            trained_rows.decay_counts(self.views(), self._live_handles(), factor)

    def compact(self, max_rows: int = 100_000) -> int:
        """Moves rows out of slabs that hold few, so that other blocks can have these slabs; at a cut.

        Args:
            max_rows: how many rows to move at most.

        Returns:
            slabs returned to the pool.
        """
        with self._lock:
            return self._mover.compact(self._generations.in_order(), self.missing_handles, max_rows)

    def _live_handles(self) -> Handles:
        return np.concatenate([self._arena.live_handles(block) for block in self._generations.in_order()])

    def _copy_out(self, handles: Handles) -> tuple[RowsOfBlock, ...]:
        return copy_blocks_out(self._arena, handles, self.bands, self._generations.in_order())

    def _tidy(self) -> None:
        """After moves: emptied slabs go back to the pool, drained blocks go, missing rows are where they are."""
        self._mover.release_slabs()
        self._generations.retire_empty()
        self.missing_handles = self._index.find(self._missing_ids)
