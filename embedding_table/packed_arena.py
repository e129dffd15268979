"""The memory of packed rows: one reservation of bytes, cut into slabs that stores take as they grow.

A store is rows of one codec, one list of active columns and the same shared values; there may be any number of stores.
The first slab of a store is a page of 4 KiB, later ones are larger, up to 64 KiB or 4096 rows: a store of ten rows and
one of ten million both waste little.

Knows nothing of slots, bands, increments or policies: a row is some bytes and its id. Invariant: a row never moves
while it lives, except by `compact`, and the reservation never moves at all; a handle that was found before `views` was
called can be read through what it returned for as long as the row lives, whatever is allocated, freed or defined
meanwhile. Everything that changes the arena is for one thread at a time.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.errors import BadPacking, BadRows, BudgetTooSmall
from embedding_table.hash_index import ABSENT
from embedding_table.kernel_arrays import kernel_array
from embedding_table.packed_pooling import STORE_NOTES, PackedViews, is_plain, notes_of
from embedding_table.packed_slab_kernels import move_packed, read_ids, read_packed, write_packed
from embedding_table.page_frames import FRAME_BYTES, FRAME_PAGES, PAGE_BYTES, PageFrames
from embedding_table.reserved_memory import reserved_memory
from embedding_table.row_arena import checked_columns
from embedding_table.row_codecs import RowCodec
from embedding_table.row_layout import LIVE_WORDS, MAX_SLABS, ROW_BITS
from embedding_table.shared_values import SharedValues
from embedding_table.slab_kernels import free_rows, list_live, take_rows

__all__ = ["ID_BYTES", "PackedArena"]

ID_BYTES = 8
_SLAB_NOTES_BYTES = LIVE_WORDS * 8 + 32  # live bits, start, end, bytes of a row, store, rows it holds and live ones
_FIRST_STORES = 16
_NO_LIMIT_BYTES = 1 << 62


class _Store:
    __slots__ = ("capacity", "codec", "nbytes", "open_slabs", "row_bytes", "rows", "shared_at", "slabs", "width")

    def __init__(self, codec: RowCodec, width: int, shared_at: int) -> None:
        self.codec = codec
        self.width = width
        self.row_bytes = codec.bytes_per_row(width)
        self.shared_at = shared_at
        self.slabs: set[int] = set()
        self.open_slabs: set[int] = set()  # those with a free row
        self.nbytes = 0
        self.capacity = 0
        self.rows = 0

    @property
    def unit(self) -> int:
        return self.row_bytes + ID_BYTES


class PackedArena:
    """Packed rows of many stores within one budget.

    Args:
        dim: D, the widest row.
        budget_bytes: what slabs may take in all; rounded down to whole frames of 64 KiB.

    Raises:
        BudgetTooSmall: the budget does not hold one frame.
    """

    def __init__(self, dim: int, budget_bytes: int) -> None:
        frames = min(budget_bytes // FRAME_BYTES, MAX_SLABS)
        if frames < 1:
            message = f"budget_bytes is {budget_bytes}: expected {FRAME_BYTES} at least, one slab"
            raise BudgetTooSmall(message)
        self.dim = dim
        reserved = reserved_memory(frames * FRAME_BYTES)
        self._memory = np.frombuffer(reserved, np.uint8, frames * FRAME_BYTES)
        self._words, self._floats = self._memory.view(np.uint64), self._memory.view(np.float32)
        self._frames = PageFrames(frames)
        slabs = min(frames * FRAME_PAGES, MAX_SLABS)  # reserved as well: the system gives what is touched
        self._slab_start = np.zeros(slabs, np.uint64)
        self._slab_end = np.zeros(slabs, np.uint64)  # in words of 8 bytes, where the ids end
        self._slab_row_bytes = np.zeros(slabs, np.uint32)
        self._slab_store = np.zeros(slabs, np.uint32)
        self._slab_rows = np.zeros(slabs, np.int32)
        self._slab_live = np.zeros(slabs, np.int32)
        self._live = np.zeros((slabs, LIVE_WORDS), np.uint64)
        self._free_numbers: list[int] = []
        self._fresh_number = 0
        self._perhaps_empty: set[int] = set()
        self._stores: dict[int, _Store] = {}
        self._free_stores = list(range(_FIRST_STORES))[::-1]
        self._notes = np.zeros((_FIRST_STORES, STORE_NOTES), np.uint64)
        self._columns = np.zeros((_FIRST_STORES, dim), np.uint16)
        self._shared = SharedValues()
        self._other_stores = 0  # than those of fp32 rows of all columns
        self._slab_bytes = 0
        self._rows = 0

    def views(self) -> PackedViews:
        """Arrays for kernels that read."""
        return PackedViews(
            memory=self._memory,
            floats=self._floats,
            slab_start=self._slab_start,
            slab_row_bytes=self._slab_row_bytes,
            slab_store=self._slab_store,
            stores=self._notes,
            columns=self._columns,
            shared=self._shared.values,
            plain=self._other_stores == 0,
        )

    def define_store(self, columns: NDArray[np.uint16], codec: RowCodec, shared: NDArray[np.float32]) -> int:
        """A new store; answers its number.

        Args:
            columns: u16 (d,), ascending and below D.
            codec: of its rows.
            shared: f32 (k,), what they share.

        Raises:
            BadRows: columns out of order or range, or a row that no slab holds.
            BadPacking: shared values of another codec, or such as no codec makes.
        """
        checked = checked_columns(columns, self.dim, f"store {len(self._stores)}")
        values = codec.checked_shared(shared)
        if codec.bytes_per_row(checked.size) + ID_BYTES > FRAME_BYTES:
            message = f"a row of {checked.size} columns has {codec.bytes_per_row(checked.size)} bytes: one slab less"
            raise BadRows(message)
        if not self._free_stores:
            self._grow_stores()
        number = self._free_stores.pop()
        at = self._shared.add(values)
        self._stores[number] = _Store(codec, checked.size, at)
        self._other_stores += not is_plain(codec, checked.size, self.dim)
        self._columns[number, : checked.size] = checked
        self._notes[number] = notes_of(codec, checked.size, at)
        return number

    def retire_store(self, store: int) -> None:
        """Forgets a store that has no slab; its number will be another's.

        Raises:
            BadRows: it has one.
        """
        owner = self._stores[store]
        if owner.slabs:
            message = f"store {store} has {len(owner.slabs)} slabs: expected none"
            raise BadRows(message)
        self._other_stores -= not is_plain(owner.codec, owner.width, self.dim)
        self._shared.drop(owner.shared_at)
        del self._stores[store]
        self._free_stores.append(store)

    @property
    def rows(self) -> int:
        """Live rows of all stores."""
        return self._rows

    @property
    def stores(self) -> list[int]:
        """Numbers of all stores."""
        return list(self._stores)

    @property
    def bytes_used(self) -> int:
        """Bytes of all slabs that a store has, and of what is kept about them and the stores."""
        return self._slab_bytes + self._notes.nbytes + self._columns.nbytes + self._shared.values.nbytes

    def codec(self, store: int) -> RowCodec:
        """The codec of a store's rows."""
        return self._stores[store].codec

    def store_rows(self, store: int) -> int:
        """Live rows of a store."""
        return self._stores[store].rows

    def store_capacity(self, store: int) -> int:
        """Rows that a store has room for in the slabs it has."""
        return self._stores[store].capacity

    def store_bytes(self, store: int) -> int:
        """Bytes of the slabs that a store has."""
        return self._stores[store].nbytes

    def allocate(self, store: int, count: int, *, max_bytes: int | None = None) -> NDArray[np.uint32]:
        """Takes `count` rows of a store: handles (count,) u32, ABSENT for those at the end that found no room.

        `bytes_used` grows by at most `max_bytes`, if given. What a new row holds is whatever lay there; the caller
        writes it before showing the handle to others.
        """
        out = np.full(count, ABSENT, np.uint32)
        owner = self._stores[store]
        left = _NO_LIMIT_BYTES if max_bytes is None else max_bytes
        done = 0
        while done < count:
            if not owner.open_slabs:
                cost = self._take_slab(store, count - done, left)
                if cost == 0:
                    break
                left -= cost
            slab = next(iter(owner.open_slabs))
            capacity = int(self._slab_rows[slab])
            done += int(take_rows(slab, capacity, self._live, self._slab_live, out[done:]))
            if self._slab_live[slab] == capacity:
                owner.open_slabs.discard(slab)
        owner.rows += done
        self._rows += done
        return out

    def write(self, store: int, handles: NDArray[np.uint32], ids: NDArray[np.uint64], data: NDArray[np.uint8]) -> None:
        """Writes ids (n,) u64 and rows u8 (n, row bytes) of one store.

        Raises:
            BadPacking: rows of another number of bytes.
        """
        row_bytes = self._stores[store].row_bytes
        if data.shape != (handles.size, row_bytes) or data.dtype != np.uint8:
            message = f"{handles.size} rows to write are {data.dtype} {data.shape}: expected u8, {row_bytes} bytes each"
            raise BadPacking(message)
        flat = kernel_array(data).reshape(-1)
        memory, words, start, end = self._memory, self._words, self._slab_start, self._slab_end
        write_packed(memory, words, start, end, handles, kernel_array(ids), flat, row_bytes)

    def read(self, store: int, handles: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """Rows u8 (n, row bytes) of one store."""
        row_bytes = self._stores[store].row_bytes
        data = np.zeros(handles.size * row_bytes, np.uint8)
        read_packed(self._memory, self._slab_start, handles, data, row_bytes)
        return data.reshape(handles.size, row_bytes)

    def ids(self, handles: NDArray[np.uint32]) -> NDArray[np.uint64]:
        """Ids (n,) u64 of rows of any stores."""
        out = np.empty(handles.size, np.uint64)
        read_ids(self._words, self._slab_end, handles, out)
        return out

    def free(self, handles: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Gives rows back; answers those of `handles` that were live. Their slabs stay with the store."""
        freed = np.empty(handles.size, np.uint32)
        freed = freed[: int(free_rows(handles, self._live, self._slab_live, freed))]
        slabs, counts = np.unique(freed >> np.uint32(ROW_BITS), return_counts=True)
        for slab, count in zip(slabs.tolist(), counts.tolist(), strict=True):
            owner = self._stores[int(self._slab_store[slab])]
            owner.open_slabs.add(slab)
            owner.rows -= count
        self._perhaps_empty.update(slabs.tolist())
        self._rows -= freed.size
        return freed

    def release_slabs(self) -> list[int]:
        """Returns slabs without a live row to the memory; answers the stores that have none left."""
        emptied = set()
        for slab in self._perhaps_empty:
            store = int(self._slab_store[slab])
            if self._slab_live[slab] == 0 and slab in self._stores[store].slabs:
                self._give_slab_back(store, slab)
                emptied.add(store)
        self._perhaps_empty.clear()
        return [store for store in sorted(emptied) if not self._stores[store].slabs]

    def compact(self, store: int, max_rows: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Copies rows out of the emptiest slabs of a store into free rows of its others.

        The old rows still live: the caller points to the new ones, then frees the old ones and releases the slabs.

        Args:
            store: whose rows.
            max_rows: how many rows to move at most.

        Returns:
            old handles u32 (n,), ascending by slab and row, and the new ones.
        """
        owner = self._stores[store]
        live = {slab: int(self._slab_live[slab]) for slab in owner.open_slabs}
        room = {slab: int(self._slab_rows[slab]) - live[slab] for slab in live}
        room_left = sum(room.values())
        emptied: list[int] = []
        moved = 0
        for slab in sorted(room, key=lambda slab: (live[slab] / (live[slab] + room[slab]), slab)):
            room_left -= room[slab]
            if moved + live[slab] > min(room_left, max_rows):
                break
            moved += live[slab]
            emptied.append(slab)
        owner.open_slabs.difference_update(emptied)
        numbers = np.array(sorted(emptied), np.int64)
        old = np.empty(int(self._slab_live[numbers].sum()), np.uint32)
        list_live(numbers, self._live, old)
        new = self.allocate(store, old.size, max_bytes=0)
        owner.open_slabs.update(emptied)
        memory, words, start, end = self._memory, self._words, self._slab_start, self._slab_end
        move_packed(memory, words, start, end, old, new, owner.row_bytes)
        return old, new

    def _grow_stores(self) -> None:
        """Twice as many stores, in new arrays: who reads by the old ones finds all in them that it knows of."""
        known = self._notes.shape[0]
        self._notes = np.concatenate([self._notes, np.zeros_like(self._notes)])
        self._columns = np.concatenate([self._columns, np.zeros_like(self._columns)])
        self._free_stores = list(range(known, 2 * known))[::-1]

    def _take_slab(self, store: int, wanted: int, left: int) -> int:
        """Takes the slab that suits `wanted` more rows; answers what `bytes_used` grew by, 0 where there is no room."""
        owner = self._stores[store]
        least = _power_of_two(-(-owner.unit // PAGE_BYTES) * 2 - 1)
        most = max(least, min(FRAME_PAGES, _power_of_two(owner.unit)))  # so large that it holds no more than 4096 rows
        pages = max(owner.nbytes // 2 // PAGE_BYTES, -(-wanted * owner.unit // PAGE_BYTES))
        pages = max(least, min(most, _power_of_two(pages)))
        sizes = [1 << power for power in range(FRAME_PAGES.bit_length()) if least <= 1 << power <= most]
        for size in sorted(sizes, key=lambda size: (size > pages, abs(size - pages))):  # larger ones last
            cost = size * PAGE_BYTES + _SLAB_NOTES_BYTES
            first_byte = self._frames.take(size) if cost <= left and self._number_left else None
            if first_byte is not None:
                self._open_slab(store, first_byte, size)
                return cost
        return 0

    @property
    def _number_left(self) -> bool:
        return bool(self._free_numbers) or self._fresh_number < self._slab_start.size

    def _open_slab(self, store: int, first_byte: int, pages: int) -> None:
        owner = self._stores[store]
        slab = self._free_numbers.pop() if self._free_numbers else self._fresh_number
        self._fresh_number += slab == self._fresh_number
        nbytes = pages * PAGE_BYTES
        self._slab_start[slab] = first_byte
        self._slab_end[slab] = (first_byte + nbytes) // ID_BYTES
        self._slab_row_bytes[slab] = owner.row_bytes
        self._slab_store[slab] = store
        self._slab_rows[slab] = nbytes // owner.unit
        owner.slabs.add(slab)
        owner.open_slabs.add(slab)
        owner.nbytes += nbytes
        owner.capacity += nbytes // owner.unit
        self._slab_bytes += nbytes + _SLAB_NOTES_BYTES

    def _give_slab_back(self, store: int, slab: int) -> None:
        owner = self._stores[store]
        nbytes = int(self._slab_end[slab]) * ID_BYTES - int(self._slab_start[slab])
        self._frames.give_back(int(self._slab_start[slab]), nbytes // PAGE_BYTES)
        owner.slabs.discard(slab)
        owner.open_slabs.discard(slab)
        owner.nbytes -= nbytes
        owner.capacity -= int(self._slab_rows[slab])
        self._slab_bytes -= nbytes + _SLAB_NOTES_BYTES
        self._free_numbers.append(slab)


def _power_of_two(number: int) -> int:
    """The largest power of two that is not larger."""
    return 1 << (number.bit_length() - 1)
