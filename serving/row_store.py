"""The rows of one model on the server: ids, their rows, and the missing rows, changed one increment at a time.

Knows no version, request or dense weights: `replica` decides when what was staged is shown. Rows stay packed as they
came, in stores by columns, codec and shared values; slot and band matter to the trainer only.

Invariant: `stage` changes nothing that a lookup sees: new values go to fresh rows. `show` then swaps handles, which is
all that has to happen at once; the rows it put out of use keep their values until `release`. One thread stages, shows
and releases. Lookups may run beside `stage` and `release`; beside `show` they end, but what they find is nonsense.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedding_table.errors import TableError
from embedding_table.hash_index import ABSENT, HashIndex
from embedding_table.packed_arena import PackedArena
from embedding_table.packed_checks import finite_rows
from embedding_table.packed_pooling import PackedViews, pool_packed_bags
from embedding_table.row_codecs import CODECS
from model_contract.compiled import kernel
from model_contract.increment import RowBlock
from model_contract.schema import ModelSchema
from serving.errors import IncrementRefused, RefusalReason

__all__ = ["RowStore", "StagedRows", "gather_pooled", "replace_absent"]

_COMPACTED_STORE_BYTES = 1 << 18  # smaller ones are left alone

_StoreKey: TypeAlias = tuple[bytes, str, bytes]  # columns, codec, shared values


@kernel
def replace_absent(handles: NDArray[np.uint32], offsets: NDArray[np.int64], missing: NDArray[np.uint32]) -> int:
    """Puts the slot's missing row where an id has none.

    Args:
        handles: u32 (L,), changed in place.
        offsets: i64 (B*F + 1,), bag k belongs to slot k % F.
        missing: u32 (F,).

    Returns:
        how many lookups had no row.
    """
    replaced = 0
    for bag in range(offsets.size - 1):
        for lookup in range(offsets[bag], offsets[bag + 1]):
            if handles[lookup] == ABSENT:
                handles[lookup] = missing[bag % missing.size]
                replaced += 1
    return replaced


def gather_pooled(
    views: PackedViews, handles: NDArray[np.uint32], offsets: NDArray[np.int64], pooling: NDArray[np.int8], dim: int
) -> NDArray[np.float32]:
    """Pooled rows f32 (B, F, D) of handles u32 (L,) in bags offsets i64 (B*F + 1,); pooling i8 (F,)."""
    bags = offsets.size - 1
    out = np.empty((bags, dim), np.float32)
    pool_packed_bags(views, handles, offsets, pooling, 0, bags, out)
    return out.reshape(-1, pooling.size, dim)


@dataclass(frozen=True, slots=True, eq=False)
class StagedRows:
    """Rows written but not shown yet.

    Attributes:
        ids: u64 (n,).
        handles: u32 (n,), where their new values lie.
        replaced: u32 (m,), handles that go out of use when this is shown.
        tombstones: u64 (t,), ids to erase.
        index: an index that holds all of it already, None where the present one has room.
    """

    ids: NDArray[np.uint64]
    handles: NDArray[np.uint32]
    replaced: NDArray[np.uint32]
    tombstones: NDArray[np.uint64]
    index: HashIndex | None


class RowStore:
    """Rows of one lineage from one base on.

    Args:
        schema: of the model.
        budget_bytes: what rows and index may take together.
        expected_rows: rows to make room for in the index.

    Attributes:
        missing_handles: u32 (F,), of the slots' missing rows.
        precision_bytes: bytes of the slabs by codec, free rows among them, as of the last change.
    """

    def __init__(self, schema: ModelSchema, budget_bytes: int, expected_rows: int) -> None:
        self._schema = schema
        self._budget_bytes = budget_bytes
        self._missing_ids = schema.missing_ids.copy()  # writable, as all ids are: one compiled kernel less
        self._index = HashIndex(expected_rows)
        self._arena = PackedArena(schema.dim, budget_bytes)
        self._store_of: dict[_StoreKey, int] = {}
        self.missing_handles = np.full(len(schema.sparse), ABSENT, np.uint32)
        self.precision_bytes: dict[str, int] = {}

    @property
    def views(self) -> PackedViews:
        """Arrays for kernels; to be asked for after the handles that are to be read."""
        return self._arena.views()

    @property
    def rows(self) -> int:
        """Ids that have a row."""
        return len(self._index)

    @property
    def row_bytes(self) -> int:
        """Bytes of all slabs taken, free rows among them."""
        return self._arena.bytes_used

    @property
    def index_bytes(self) -> int:
        """Bytes of the index."""
        return self._index.bytes_used

    def find(self, ids: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """Handles u32 (L,), ABSENT for an id without a row."""
        return self._index.find(ids)

    def stage(self, blocks: Sequence[RowBlock], tombstones: NDArray[np.uint64]) -> StagedRows:
        """Writes the rows of an increment to where no lookup sees them.

        Raises:
            IncrementRefused: rows of an unknown slot, column or precision, bytes that their codec did not make, values
                that are not finite, an id given twice, a missing row taken away, or no room. Nothing stays behind.
        """
        self._check(blocks)
        ids = np.concatenate([np.empty(0, np.uint64), *(block.ids for block in blocks)])
        self._check_ids(ids, tombstones)
        room_bytes = self._budget_bytes - self._index.bytes_after(ids.size)
        handles = self._written(blocks, room_bytes)
        replaced = self._index.find(np.concatenate([ids, tombstones]))
        grown = None
        if self._index.bytes_after(ids.size) != self._index.bytes_used:
            grown = self._grown_index(ids, handles, tombstones)
        self._note_bytes()
        return StagedRows(ids, handles, replaced[replaced != ABSENT], tombstones, grown)

    def stage_compaction(self, max_rows: int) -> StagedRows | None:
        """Copies rows out of nearly empty slabs of the store that wastes most, at most `max_rows` of them.

        None where no store wastes a third of its rows. Shown and released like an increment.
        """
        wasted, store = max(((self._wasted_bytes(store), store) for store in self._store_of.values()), default=(0, 0))
        if wasted == 0:
            return None
        old, new = self._arena.compact(store, max_rows)
        ids = self._arena.ids(old)
        in_use = self._index.find(ids) == old  # the others were replaced or erased and wait for their release
        self._arena.free(new[~in_use])
        if not in_use.any():
            return None
        return StagedRows(ids[in_use], new[in_use], old[in_use], np.empty(0, np.uint64), None)

    def show(self, staged: StagedRows) -> None:
        """Swaps the handles: from here on lookups see what was staged; the index never moves or grows here."""
        if staged.index is not None:
            self._index = staged.index
        else:
            self._index.erase(staged.tombstones)
            self._index.insert(staged.ids, staged.handles)
        self.missing_handles = self._index.find(self._missing_ids)

    def release(self, handles: NDArray[np.uint32]) -> None:
        """Gives back rows that no lookup can see any more."""
        self._arena.free(handles)
        self._arena.release_slabs()
        for key, store in [(key, store) for key, store in self._store_of.items() if not self._arena.store_bytes(store)]:
            self._arena.retire_store(store)
            del self._store_of[key]
        self._note_bytes()

    def _check(self, blocks: Sequence[RowBlock]) -> None:
        for block in blocks:
            where = f"block of slot {block.slot}, band {block.band}"
            if not 0 <= block.slot < len(self._schema.sparse):
                raise IncrementRefused(
                    RefusalReason.UNKNOWN_SLOT, f"{where}: expected a slot below {len(self._schema.sparse)}"
                )
            codec = CODECS.get(block.precision)
            if codec is None:
                raise IncrementRefused(
                    RefusalReason.UNKNOWN_PRECISION, f"{where} has {block.precision!r}: expected one of {list(CODECS)}"
                )
            try:
                finite = finite_rows(codec, block.columns.size, block.data, block.shared)
            except TableError as error:
                raise IncrementRefused(RefusalReason.INVALID_CONTENT, f"{where}: {error}") from error
            if not finite.all():
                first = int(block.ids[int(np.argmin(finite))])
                raise IncrementRefused(
                    RefusalReason.NOT_FINITE, f"{where}: the row of id {first} holds NaN or infinity"
                )

    def _check_ids(self, ids: NDArray[np.uint64], tombstones: NDArray[np.uint64]) -> None:
        ordered = np.sort(ids)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if twice.size:
            raise IncrementRefused(RefusalReason.INVALID_CONTENT, f"id {twice[0]} has two rows: expected one at most")
        kept = _members(self._missing_ids, ordered)
        if len(self._index):
            kept |= ~_members(self._missing_ids, np.sort(tombstones))
        if not kept.all():
            slot = self._schema.slot_names[int(np.argmin(kept))]
            raise IncrementRefused(RefusalReason.NO_MISSING_ROW, f"slot {slot}: expected a row for its missing value")

    def _written(self, blocks: Sequence[RowBlock], room_bytes: int) -> NDArray[np.uint32]:
        """Fresh rows with the blocks' values; all of them or none."""
        written = [np.empty(0, np.uint32)]
        try:
            for block in blocks:
                if block.ids.size == 0:
                    continue
                store = self._store_for(block)
                room = room_bytes - self._arena.bytes_used
                written.append(self._arena.allocate(store, block.ids.size, max_bytes=room))
                self._check_room(written[-1], room_bytes)
                self._arena.write(store, written[-1], block.ids, block.data)
        except IncrementRefused:
            self.release(np.concatenate(written))
            raise
        return np.concatenate(written)

    def _check_room(self, handles: NDArray[np.uint32], room_bytes: int) -> None:
        if (handles.size and handles[-1] == ABSENT) or self._arena.bytes_used > room_bytes:
            detail = f"on top of {len(self._index)} rows: expected to fit into {self._budget_bytes} bytes"
            raise IncrementRefused(RefusalReason.NO_ROOM, f"{detail}, the setting memory_bytes")

    def _note_bytes(self) -> None:
        """Counted here, not when somebody asks: others ask while stores come and go."""
        held = dict.fromkeys(CODECS, 0)
        for (_, precision, _), store in self._store_of.items():
            held[precision] += self._arena.store_bytes(store)
        self.precision_bytes = {precision: nbytes for precision, nbytes in held.items() if nbytes}

    def _wasted_bytes(self, store: int) -> int:
        """Bytes of free rows, 0 where they are less than a third of those that the store has room for."""
        held, capacity = self._arena.store_bytes(store), self._arena.store_capacity(store)
        free = capacity - self._arena.store_rows(store)
        return held * free // capacity if free * 3 > capacity and held > _COMPACTED_STORE_BYTES else 0

    def _store_for(self, block: RowBlock) -> int:
        key = block.columns.astype("<u2").tobytes(), block.precision, block.shared.tobytes()
        store = self._store_of.get(key)
        if store is None:
            try:
                store = self._arena.define_store(block.columns, CODECS[block.precision], block.shared)
            except TableError as error:
                raise IncrementRefused(RefusalReason.INVALID_CONTENT, str(error)) from error
            self._store_of[key] = store
        return store

    def _grown_index(
        self, ids: NDArray[np.uint64], handles: NDArray[np.uint32], tombstones: NDArray[np.uint64]
    ) -> HashIndex:
        """A larger index with everything in it: a rehash takes long, so it is done here and not in `show`."""
        grown = HashIndex(len(self._index) + len(self._index) // 2 + ids.size)
        grown.insert(*self._index.items())
        grown.erase(tombstones)
        grown.insert(ids, handles)
        return grown


def _members(ids: NDArray[np.uint64], ordered: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of `ids` (n,) are in `ordered` (m,), ascending: bool (n,)."""
    if ordered.size == 0:
        return np.zeros(ids.size, np.bool_)
    places = np.minimum(np.searchsorted(ordered, ids), ordered.size - 1)
    return np.equal(ordered[places], ids)
