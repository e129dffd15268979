"""Which rows of a slab live: taking, freeing, listing and copying them, many at a time.

Knows handles, live bits and words; not whose rows they are. Invariant: `slab_live` counts the bits set in `live`.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.hash_index import ABSENT
from embedding_table.machine_words import copy_row
from embedding_table.row_layout import (
    ID_HIGH,
    ID_LOW,
    LIVE_WORDS,
    ROW_BITS,
    TableViews,
    live_bit,
    slab_of,
    state_offset,
    value_offset,
)
from model_contract.compiled import kernel

__all__ = ["copy_rows", "drop_empty_slabs", "free_rows", "list_live", "read_rows", "take_rows", "write_rows"]


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
def take_rows(
    slab: int, capacity: int, live: NDArray[np.uint64], slab_live: NDArray[np.int32], out: NDArray[np.uint32]
) -> int:
    """Marks free rows of a slab of `capacity` rows live until it is full or `out` is; answers how many."""
    taken = 0
    for group in range((capacity + 63) // 64):
        rows_here = min(64, capacity - group * 64)
        usable = ~np.uint64(0) if rows_here == 64 else (np.uint64(1) << np.uint64(rows_here)) - np.uint64(1)
        free = ~live[slab, group] & usable
        while free and taken < out.size:
            bit = _lowest_bit(free)
            free &= free - np.uint64(1)
            live[slab, group] |= np.uint64(1) << np.uint64(bit)
            out[taken] = (slab << ROW_BITS) | (group * 64 + bit)
            taken += 1
        if taken == out.size:
            break
    slab_live[slab] += taken
    return taken


@kernel
def free_rows(
    handles: NDArray[np.uint32], live: NDArray[np.uint64], slab_live: NDArray[np.int32], freed: NDArray[np.uint32]
) -> int:
    """Clears the live bit of each handle that has one, lists those in `freed`, answers how many."""
    count = 0
    for k in range(handles.size):
        handle = handles[k]
        slab = slab_of(handle)
        group, bit = live_bit(handle)
        if handle != ABSENT and slab < np.uint64(live.shape[0]) and live[slab, group] & bit:
            live[slab, group] ^= bit
            slab_live[slab] -= 1
            freed[count] = handle
            count += 1
    return count


@kernel
def drop_empty_slabs(handles: NDArray[np.uint32], slab_live: NDArray[np.int32]) -> int:
    """Moves the handles whose slab has a live row to the front, answers how many."""
    count = 0
    for k in range(handles.size):
        if slab_live[slab_of(handles[k])]:
            handles[count] = handles[k]
            count += 1
    return count


@kernel
def list_live(slabs: NDArray[np.int64], live: NDArray[np.uint64], out: NDArray[np.uint32]) -> int:
    """Handles of the live rows of these slabs, in order; answers how many. `out` must have room."""
    count = 0
    for slab in slabs:
        for group in range(LIVE_WORDS):
            word = live[slab, group]
            while word:
                out[count] = (slab << ROW_BITS) | (group * 64 + _lowest_bit(word))
                word &= word - np.uint64(1)
                count += 1
    return count


@kernel
def write_rows(
    views: TableViews, handles: NDArray[np.uint32], ids: NDArray[np.uint64], values: NDArray[np.float32]
) -> None:
    """Writes ids (n,) and values (n, d) of rows of one width."""
    memory, words, state_words = views.values, views.words, views.state_words
    width = values.shape[1]
    for k in range(handles.size):
        start = value_offset(handles[k], width)
        copy_row(memory, start, values, k * width, width)
        state = state_offset(handles[k], state_words)
        words[state + ID_LOW] = np.uint32(ids[k])
        words[state + ID_HIGH] = np.uint32(ids[k] >> np.uint64(32))


@kernel
def read_rows(
    views: TableViews, handles: NDArray[np.uint32], ids: NDArray[np.uint64], values: NDArray[np.float32]
) -> None:
    """Reads ids (n,) and values (n, d) of rows of one width."""
    memory, words, state_words = views.values, views.words, views.state_words
    width = values.shape[1]
    for k in range(handles.size):
        start = value_offset(handles[k], width)
        copy_row(values, k * width, memory, start, width)
        state = state_offset(handles[k], state_words)
        ids[k] = np.uint64(words[state + ID_LOW]) | (np.uint64(words[state + ID_HIGH]) << np.uint64(32))


@kernel
def copy_rows(views: TableViews, source: NDArray[np.uint32], target: NDArray[np.uint32], width: int) -> None:
    """Copies values and state of rows of one width to other places."""
    memory, words, state_words = views.values, views.words, views.state_words
    for k in range(source.size):
        start = value_offset(source[k], width)
        at = value_offset(target[k], width)
        copy_row(memory, at, memory, start, width)
        start = state_offset(source[k], state_words)
        at = state_offset(target[k], state_words)
        for word in range(state_words):
            words[at + word] = words[start + word]
