"""Feature id -> row handle: open addressing over one flat array, in batches.

Knows nothing of rows, slots or budgets; a handle is 32 bits it hands back. An entry is three words of 32 bits (id low,
id high, flipped handle); five of them share a cache line, kind by kind, and all five are compared at once, so that a
lookup costs one line and next to no branch that cannot be foretold. A flipped handle of 0, which is ABSENT, marks an
empty entry, so fresh zeroed memory is an empty index. The home of an id is line (top 32 bits of its mix * lines) >> 32:
any number of lines will do, growth goes by half instead of doubling, and since homes keep the order of the mixes a
rehash streams through both arrays. A line's last word has a bit, of 32 by the mix, for every id that had to go to a
later line; who finds his bit clear in a full line is absent, and no other line is read.

Invariant: between the start of an id's home and the entry that holds it no entry is empty (linear probing; erasing
shifts the followers back, Knuth vol. 3, 6.4 algorithm R), and at most 75 % of the entries are taken. The bit of every
id away from home is set; one that nobody needs any more goes when its line has an empty entry again.

Calls must not overlap in time when one of them inserts or erases: the owner holds a lock.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.entry_search import ENTRIES_A_LINE, LINE_WORDS, entry_of
from embedding_table.kernel_arrays import kernel_array, zeros_on_lines
from embedding_table.machine_words import prefetch
from model_contract.compiled import kernel, lean_kernel

__all__ = ["ABSENT", "BYTES_PER_ID", "LINE_BYTES", "HashIndex"]

ABSENT = np.uint32(0xFFFFFFFF)
_EMPTY = np.uint32(0)
_MAX_LOAD = 0.75
_GROWTH = 1.5
_SMALLEST_LINES = 204
_ONE, _HALF = np.uint64(1), np.uint64(32)
_LINE, _ENTRIES = np.uint64(LINE_WORDS), np.uint64(ENTRIES_A_LINE)
_HIGH, _HANDLE = _ENTRIES, np.uint64(2) * _ENTRIES  # words of an entry behind its first
_AWAY = np.uint64(LINE_WORDS - 1)  # the last word of a line
_BITS, _LAST_BIT = np.uint64(32), np.uint64(31)
_AHEAD, _ROUND = np.uint64(32), np.uint64(256)
LINE_BYTES = LINE_WORDS * 4
"""By so many, or a multiple, an index grows."""
BYTES_PER_ID = LINE_BYTES / (ENTRIES_A_LINE * _MAX_LOAD)
"""Of an index that is as full as it may be."""


@kernel
def _home_and_bit(feature_id: np.uint64, words: np.uint64) -> np.uint64:
    """Where the line starts at which a search for this id does, times 32, plus the number of its bit."""
    mixed = (feature_id ^ (feature_id >> _HALF)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    line = np.uint64(((mixed >> _HALF) * (words // _LINE)) >> _HALF)
    return np.uint64(line * _LINE * _BITS) | (mixed & _LAST_BIT)


@kernel
def _home(feature_id: np.uint64, words: np.uint64) -> np.uint64:
    """Where its line starts."""
    return _home_and_bit(feature_id, words) // _BITS


@kernel
def _id_at(entries: NDArray[np.uint32], at: np.uint64) -> np.uint64:
    return np.uint64(entries[at]) | np.uint64(entries[at + _HIGH]) << _HALF


@lean_kernel
def _position(entries: NDArray[np.uint32], line: np.uint64, feature_id: np.uint64) -> np.uint64:
    """Where this id's entry starts, or the empty one in which its search from `line` on ends."""
    while True:
        entry = entry_of(entries, line, np.uint32(feature_id), np.uint32(feature_id >> _HALF))
        if entry < _LINE:
            return np.uint64(line + entry)
        line += _LINE
        if line == np.uint64(entries.size):
            line = np.uint64(0)


@lean_kernel
def _find_all(
    entries: NDArray[np.uint32],
    ids: NDArray[np.uint64],
    out: NDArray[np.uint32],
    homes: NDArray[np.uint64],
    waiting: NDArray[np.uint64],
) -> None:
    """Searches id after id in their home lines; who is not there waits for the next line until a round is over.

    Args:
        entries: u32, the index.
        ids: u64 (n,).
        out: u32 (n,), written.
        homes: u64 (a power of two from 2 * _AHEAD on,), overwritten.
        waiting: u64 (as many as are searched in a round,), overwritten.
    """
    words, ring, count = np.uint64(entries.size), np.uint64(homes.size - 1), np.uint64(ids.size)
    for k in range(min(_AHEAD, count)):
        homes[k] = _home_and_bit(ids[k], words)
        prefetch(entries, homes[k] // _BITS)
    for begin in range(np.uint64(0), count, np.uint64(waiting.size)):
        left = np.uint64(0)
        for k in range(begin, min(begin + np.uint64(waiting.size), count)):
            if k + _AHEAD < count:
                ahead = _home_and_bit(ids[k + _AHEAD], words)
                homes[k + _AHEAD & ring] = ahead
                prefetch(entries, ahead // _BITS)
            home, bit = homes[k & ring] // _BITS, homes[k & ring] & _LAST_BIT
            entry = entry_of(entries, home, np.uint32(ids[k]), np.uint32(ids[k] >> _HALF))
            here = entry < _LINE
            flipped = entries[home + min(entry + _HANDLE, _AWAY)]
            out[k] = (flipped if here else _EMPTY) ^ ABSENT
            if np.uint64(entries[home + _AWAY]) >> bit & np.uint64(not here):  # one branch, and a rare one
                prefetch(entries, home + _LINE)
                waiting[left] = k
                left += _ONE
        for place in range(left):
            k = waiting[place]
            out[k] = entries[_position(entries, _home(ids[k], words), ids[k]) + _HANDLE] ^ ABSENT


@kernel
def _find(entries: NDArray[np.uint32], ids: NDArray[np.uint64], out: NDArray[np.uint32]) -> None:
    _find_all(entries, ids, out, np.empty(np.uint64(2) * _AHEAD, np.uint64), np.empty(_ROUND, np.uint64))


@kernel
def _insert(entries: NDArray[np.uint32], ids: NDArray[np.uint64], handles: NDArray[np.uint32]) -> int:
    """Sets ids -> handles, new or not; answers how many ids were new. There must be room."""
    words = np.uint64(entries.size)
    added = 0
    for k in range(np.uint64(ids.size)):
        if k + _AHEAD < np.uint64(ids.size):
            prefetch(entries, _home(ids[k + _AHEAD], words))
        home = _home_and_bit(ids[k], words)
        at = _position(entries, home // _BITS, ids[k])
        added += entries[at + _HANDLE] == _EMPTY
        _write(entries, at, home, ids[k], handles[k] ^ ABSENT)
    return added


@kernel
def _write(entries: NDArray[np.uint32], at: np.uint64, home: np.uint64, feature_id: np.uint64, word: np.uint32) -> None:
    """Writes an entry, and its bit where it is not at home."""
    entries[at] = np.uint32(feature_id)
    entries[at + _HIGH] = np.uint32(feature_id >> _HALF)
    entries[at + _HANDLE] = word
    if at // _LINE != home // _BITS // _LINE:
        entries[home // _BITS + _AWAY] |= np.uint32(_ONE << (home & _LAST_BIT))


@kernel
def _next(at: np.uint64, words: np.uint64) -> np.uint64:
    """The entry behind this one."""
    at += _ONE
    if at % _LINE == _ENTRIES:
        at += _LINE - _ENTRIES
    return at if at < words else np.uint64(0)


@kernel
def _close_gap(entries: NDArray[np.uint32], gap: np.uint64) -> None:
    words = np.uint64(entries.size)
    at = gap
    while True:
        at = _next(at, words)
        if entries[at + _HANDLE] == _EMPTY:
            break
        home = _home(_id_at(entries, at), words)
        # The entry may move into the gap unless its own home lies after the gap, going round.
        stays = (gap < home <= at) if gap < at else (gap < home or home <= at)
        if not stays:
            for word in (np.uint64(0), _HIGH, _HANDLE):
                entries[gap + word] = entries[at + word]
            gap = at
    entries[gap + _HANDLE] = _EMPTY
    entries[gap // _LINE * _LINE + _AWAY] = _EMPTY  # a line with an empty entry has nobody away


@kernel
def _erase(entries: NDArray[np.uint32], ids: NDArray[np.uint64]) -> int:
    words = np.uint64(entries.size)
    removed = 0
    for k in range(np.uint64(ids.size)):
        at = _position(entries, _home(ids[k], words), ids[k])
        if entries[at + _HANDLE] != _EMPTY:
            _close_gap(entries, at)
            removed += 1
    return removed


@kernel
def _rehash(old: NDArray[np.uint32], new: NDArray[np.uint32]) -> None:
    words = np.uint64(new.size)
    for line in range(np.uint64(0), np.uint64(old.size), _LINE):
        for base in range(line, line + _ENTRIES):
            word = old[base + _HANDLE]
            if word == _EMPTY:
                continue
            feature_id = _id_at(old, np.uint64(base))
            home = _home_and_bit(feature_id, words)
            at = home // _BITS
            while new[at + _HANDLE] != _EMPTY:
                at = _next(at, words)
            _write(new, at, home, feature_id, word)


def _most(lines: int) -> int:
    """Ids that so many lines hold."""
    return int(lines * ENTRIES_A_LINE * _MAX_LOAD)


def _lines_for(length: int) -> int:
    """Lines that hold so many ids."""
    return int(length / (ENTRIES_A_LINE * _MAX_LOAD)) + 1


class HashIndex:
    """A set of 64-bit ids, each with a 32-bit handle.

    Args:
        expected: how many ids to make room for at the start; it grows by itself beyond that.
    """

    def __init__(self, expected: int = 0) -> None:
        self._entries = zeros_on_lines(max(_SMALLEST_LINES, _lines_for(expected)) * LINE_WORDS, np.uint32)
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
        return max(0, _most(self._lines) - self._length)

    def bytes_after(self, added: int) -> int:
        """Bytes this index will have once `added` new ids are in it; while it grows, old and new entries both exist."""
        return self._lines_after(self._length + added) * LINE_BYTES

    def reserve(self, length: int) -> None:
        """Makes room for `length` ids in all, and no more than that; never shrinks."""
        lines = _lines_for(length)
        if lines > self._lines:
            self._resize(lines)

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
        lines = self._lines_after(self._length + ids.size)
        if lines != self._lines:
            self._resize(lines)
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
        lines = self._entries.reshape(-1, LINE_WORDS)
        low, high, flipped = (lines[:, k * ENTRIES_A_LINE : (k + 1) * ENTRIES_A_LINE] for k in range(3))
        taken = flipped != _EMPTY
        ids = low[taken].astype(np.uint64) | (high[taken].astype(np.uint64) << _HALF)
        return ids, flipped[taken] ^ ABSENT

    @property
    def _lines(self) -> int:
        return self._entries.size // LINE_WORDS

    def _lines_after(self, length: int) -> int:
        lines = self._lines
        while length > _most(lines):
            lines = int(lines * _GROWTH)
        return lines

    def _resize(self, lines: int) -> None:
        entries = zeros_on_lines(lines * LINE_WORDS, np.uint32)
        _rehash(self._entries, entries)
        self._entries = entries
