"""Feature id -> row handle: open addressing over one flat array, in batches.

Knows nothing of rows, slots or budgets; a handle is 32 bits it hands back. An entry is three words of 32 bits (id low,
id high, flipped handle) side by side, so that a lookup costs one cache line; a flipped handle of 0, which is ABSENT,
marks an empty entry, so fresh zeroed memory is an empty index. The place of an id is (top 32 bits of its mix *
capacity) >> 32: any capacity will do, growth goes by half instead of doubling, and since places keep the order of the
mixes a rehash streams through both arrays.

Invariant: between the place of an id and the entry that holds it no entry is empty (linear probing; erasing shifts
the followers back, Knuth vol. 3, 6.4 algorithm R), and at most 70 % of the entries are taken.

Calls must not overlap in time when one of them inserts or erases: the owner holds a lock.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.kernel_arrays import kernel_array
from embedding_table.machine_words import prefetch
from model_contract.compiled import kernel, lean_kernel

__all__ = ["ABSENT", "BYTES_PER_ID", "HashIndex"]

ABSENT = np.uint32(0xFFFFFFFF)
_EMPTY = np.uint32(0)
_MAX_LOAD = 0.7
_GROWTH = 1.5
_SMALLEST_CAPACITY = 1024
_ENTRY_BYTES = 12
_AHEAD = np.uint64(32)
_PROBED_WORDS = np.uint64(11)
BYTES_PER_ID = _ENTRY_BYTES / _MAX_LOAD  # of an index that is as full as it may be


@kernel
def _place(low: np.uint32, high: np.uint32, capacity: np.uint64) -> np.uint64:
    mixed = (np.uint64(high) << np.uint64(32)) | np.uint64(low)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.uint64(((mixed >> np.uint64(32)) * capacity) >> np.uint64(32))


@lean_kernel
def _find_all(
    entries: NDArray[np.uint32], ids: NDArray[np.uint64], out: NDArray[np.uint32], bases: NDArray[np.uint64]
) -> None:
    """Probes id after id; `bases` u64 (a power of two above _AHEAD,) holds where the next probes start."""
    words, ring = np.uint64(entries.size), np.uint64(bases.size - 1)
    capacity = np.uint64(entries.size // 3)
    for k in range(np.uint64(ids.size) + _AHEAD):
        if k < np.uint64(ids.size):
            base = _place(np.uint32(ids[k]), np.uint32(ids[k] >> np.uint64(32)), capacity) * np.uint64(3)
            bases[k & ring] = base
            prefetch(entries, base)
            prefetch(entries, base + _PROBED_WORDS)  # a probe of a few entries often ends in the next line
        if k < _AHEAD:
            continue
        at = k - _AHEAD
        low, high = np.uint32(ids[at]), np.uint32(ids[at] >> np.uint64(32))
        base = bases[at & ring]
        while True:
            flipped = entries[base + np.uint64(2)]
            found = (entries[base] == low) & (entries[base + np.uint64(1)] == high)
            if found | (flipped == _EMPTY):  # one branch: which of the two it is cannot be foretold
                out[at] = flipped ^ ABSENT
                break
            base += np.uint64(3)
            if base == words:
                base = np.uint64(0)


@kernel
def _find(entries: NDArray[np.uint32], ids: NDArray[np.uint64], out: NDArray[np.uint32]) -> None:
    _find_all(entries, ids, out, np.empty(np.uint64(2) * _AHEAD, np.uint64))


@kernel
def _insert(entries: NDArray[np.uint32], ids: NDArray[np.uint64], handles: NDArray[np.uint32]) -> int:
    """Sets ids -> handles, new or not; answers how many ids were new. There must be room."""
    capacity = np.uint64(entries.size // 3)
    added = 0
    for k in range(np.uint64(ids.size)):
        if k + _AHEAD < np.uint64(ids.size):
            ahead = ids[k + _AHEAD]
            place = _place(np.uint32(ahead), np.uint32(ahead >> np.uint64(32)), capacity)
            prefetch(entries, place * np.uint64(3))
        low = np.uint32(ids[k])
        high = np.uint32(ids[k] >> np.uint64(32))
        at = _place(low, high, capacity)
        while True:
            base = at * np.uint64(3)
            flipped = entries[base + np.uint64(2)]
            if flipped == _EMPTY or (entries[base] == low and entries[base + np.uint64(1)] == high):
                added += flipped == _EMPTY
                entries[base] = low
                entries[base + np.uint64(1)] = high
                entries[base + np.uint64(2)] = handles[k] ^ ABSENT
                break
            at += np.uint64(1)
            if at == capacity:
                at = np.uint64(0)
    return added


@kernel
def _close_gap(entries: NDArray[np.uint32], gap: np.uint64) -> None:
    capacity = np.uint64(entries.size // 3)
    at = gap
    while True:
        at += np.uint64(1)
        if at == capacity:
            at = np.uint64(0)
        base = at * np.uint64(3)
        if entries[base + np.uint64(2)] == _EMPTY:
            break
        home = _place(entries[base], entries[base + np.uint64(1)], capacity)
        # The entry may move into the gap unless its own place lies after the gap, going round.
        stays = (gap < home <= at) if gap < at else (gap < home or home <= at)
        if not stays:
            target = gap * np.uint64(3)
            for word in range(np.uint64(3)):
                entries[target + np.uint64(word)] = entries[base + np.uint64(word)]
            gap = at
    entries[gap * np.uint64(3) + np.uint64(2)] = _EMPTY


@kernel
def _erase(entries: NDArray[np.uint32], ids: NDArray[np.uint64]) -> int:
    capacity = np.uint64(entries.size // 3)
    removed = 0
    for k in range(ids.size):
        low = np.uint32(ids[k])
        high = np.uint32(ids[k] >> np.uint64(32))
        at = _place(low, high, capacity)
        while True:
            base = at * np.uint64(3)
            if entries[base + np.uint64(2)] == _EMPTY:
                break
            if entries[base] == low and entries[base + np.uint64(1)] == high:
                _close_gap(entries, at)
                removed += 1
                break
            at += np.uint64(1)
            if at == capacity:
                at = np.uint64(0)
    return removed


@kernel
def _rehash(old: NDArray[np.uint32], new: NDArray[np.uint32]) -> None:
    capacity = np.uint64(new.size // 3)
    for position in range(old.size // 3):
        base = np.uint64(position * 3)
        if old[base + np.uint64(2)] == _EMPTY:
            continue
        at = _place(old[base], old[base + np.uint64(1)], capacity)
        while new[at * np.uint64(3) + np.uint64(2)] != _EMPTY:
            at += np.uint64(1)
            if at == capacity:
                at = np.uint64(0)
        for word in range(np.uint64(3)):
            new[at * np.uint64(3) + np.uint64(word)] = old[base + np.uint64(word)]


def _empty_entries(capacity: int) -> NDArray[np.uint32]:
    return np.zeros(capacity * 3, np.uint32)


class HashIndex:
    """A set of 64-bit ids, each with a 32-bit handle.

    Args:
        expected: how many ids to make room for at the start; it grows by itself beyond that.
    """

    def __init__(self, expected: int = 0) -> None:
        self._entries = _empty_entries(max(_SMALLEST_CAPACITY, int(expected / _MAX_LOAD) + 1))
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def bytes_used(self) -> int:
        """Bytes of the entries, taken or not."""
        return self._entries.nbytes

    @property
    def room(self) -> int:
        """How many new ids go in before it grows."""
        return max(0, int(self._entries.size // 3 * _MAX_LOAD) - self._length)

    def bytes_after(self, added: int) -> int:
        """Bytes this index will have once `added` new ids are in it; while it grows, old and new entries both exist."""
        return self._capacity_for(self._length + added) * _ENTRY_BYTES

    def reserve(self, length: int) -> None:
        """Makes room for `length` ids in all, and no more than that; never shrinks."""
        capacity = int(length / _MAX_LOAD) + 1
        if capacity > self._entries.size // 3:
            self._resize(capacity)

    def find(self, ids: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """Handles (n,) u32 of `ids` (n,) u64, ABSENT where an id is not in the index."""
        out = np.empty(ids.size, np.uint32)
        self.find_into(ids, out)
        return out

    def find_into(self, ids: NDArray[np.uint64], out: NDArray[np.uint32]) -> None:
        """As `find`, into `out` (n,) u32; several threads may each find a part."""
        _find(self._entries, kernel_array(ids), out)

    def insert(self, ids: NDArray[np.uint64], handles: NDArray[np.uint32]) -> int:
        """Sets each of `ids` (n,) u64 to its handle (n,) u32, never ABSENT; answers how many ids were new."""
        capacity = self._capacity_for(self._length + ids.size)
        if capacity * 3 != self._entries.size:
            self._resize(capacity)
        added = int(_insert(self._entries, kernel_array(ids), handles))
        self._length += added
        return added

    def replace(self, ids: NDArray[np.uint64], handles: NDArray[np.uint32]) -> None:
        """As `insert` of ids (n,) u64 that are all in the index, which therefore never grows."""
        _insert(self._entries, kernel_array(ids), handles)

    def erase(self, ids: NDArray[np.uint64]) -> int:
        """Removes `ids` (n,) u64; those not in the index are passed over. Answers how many were removed."""
        removed = int(_erase(self._entries, kernel_array(ids)))
        self._length -= removed
        return removed

    def items(self) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        """All (ids, handles), in the order of the entries."""
        entries = self._entries.reshape(-1, 3)
        taken = entries[entries[:, 2] != _EMPTY]
        ids = taken[:, 0].astype(np.uint64) | (taken[:, 1].astype(np.uint64) << np.uint64(32))
        return ids, taken[:, 2] ^ ABSENT

    def _capacity_for(self, length: int) -> int:
        capacity = self._entries.size // 3
        while length > int(capacity * _MAX_LOAD):
            capacity = int(capacity * _GROWTH)
        return capacity

    def _resize(self, capacity: int) -> None:
        entries = _empty_entries(capacity)
        _rehash(self._entries, entries)
        self._entries = entries
