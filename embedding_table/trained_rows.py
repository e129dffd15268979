"""The trained state of rows, many at a time: birth, what changed, copying out and in, traffic counts.

Knows handles and state words; not the index, not the blocks' names. A row's first values depend on (seed, id, column)
alone, through a counter-based generator (SplitMix64: Steele, Lea, Flood 2014), so neither the order in which ids
arrive nor the width of their block changes them.

Invariant: the dirty bit of a row position is set exactly while its handle is in a list of changed rows, be the row
live or not; so a position is listed once at most.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.hash_index import ABSENT
from embedding_table.machine_words import copy_row, prefetch
from embedding_table.row_layout import (
    ACCUMULATOR,
    COUNT,
    DIRTY_BIT,
    ID_HIGH,
    ID_LOW,
    LAST_SEEN,
    TableViews,
    live_bit,
    slab_of,
    state_offset,
    value_offset,
)
from model_contract.compiled import kernel

__all__ = [
    "copy_in",
    "copy_out",
    "decay_counts",
    "group_by_block",
    "keep_live",
    "mark_rows",
    "read_statistics",
    "start_columns",
    "start_rows",
    "take_marks",
    "unmark_dead",
]

_AHEAD = 16
_VALUE_BITS = np.uint32(0x7FFFFFFF)


@kernel
def _mix(word: np.uint64) -> np.uint64:
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.uint64(word ^ (word >> np.uint64(31)))


@kernel
def _first_value(stream: np.uint64, column: np.uint64) -> np.float32:
    """Uniform in [-1, 1), from the stream of an id."""
    counter = column + np.uint64(1)
    bits = _mix(stream + counter * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return np.float32(bits) * np.float32(2.0**-23) - np.float32(1)


@kernel
def _mark(words: NDArray[np.uint32], at: np.uint64, handle: np.uint32, listed: NDArray[np.uint32], length: int) -> int:
    """Clears the count, keeps the dirty bit or sets it and lists the handle; answers the list's length."""
    if not words[at] & DIRTY_BIT:
        listed[length] = handle
        length += 1
    words[at] = DIRTY_BIT
    return length


@kernel
def start_rows(
    views: TableViews,
    handles: NDArray[np.uint32],
    ids: NDArray[np.uint64],
    seed: np.uint64,
    scale: float,
    accumulator: float,
    now_s: int,
    listed: NDArray[np.uint32],
) -> int:
    """Writes newborn rows and marks them dirty; ABSENT is passed over.

    Args:
        views: of the table.
        handles: u32 (n,).
        ids: u64 (n,).
        seed: of the table.
        scale: values are uniform in [-scale, scale).
        accumulator: where Adagrad's accumulator starts.
        now_s: seconds since epoch, written as last seen.
        listed: u32 (n,), receives handles that were not marked yet.

    Returns:
        how many handles `listed` received.
    """
    values, words, state_words = views.values, views.words, views.state_words
    slab_width, slab_block, block_columns = views.slab_width, views.slab_block, views.block_columns
    length = 0
    for k in range(handles.size):
        handle = handles[k]
        if handle == ABSENT:
            continue
        width = slab_width[slab_of(handle)]
        block = slab_block[slab_of(handle)]
        start = value_offset(handle, width)
        stream = _mix(ids[k] ^ _mix(seed))
        for column in range(width):
            unit = _first_value(stream, np.uint64(block_columns[block, column]))
            values[start + np.uint64(column)] = unit * np.float32(scale)
        state = state_offset(handle, state_words)
        words[state + ID_LOW] = np.uint32(ids[k])
        words[state + ID_HIGH] = np.uint32(ids[k] >> np.uint64(32))
        values[state + ACCUMULATOR] = np.float32(accumulator)
        words[state + LAST_SEEN] = np.uint32(now_s)
        length = _mark(words, state + COUNT, handle, listed, length)
    return length


@kernel
def start_columns(
    views: TableViews,
    handles: NDArray[np.uint32],
    ids: NDArray[np.uint64],
    places: NDArray[np.int64],
    seed: np.uint64,
    scale: float,
) -> None:
    """Writes first values into some columns of rows that have learned in others.

    Args:
        views: of the table; training must not run.
        handles: u32 (n,), rows of one block.
        ids: u64 (n,).
        places: i64 (k,), of the columns among those of the block.
        seed: of the table.
        scale: values are uniform in [-scale, scale): those of a newborn row of the id, but for the scale.
    """
    values = views.values
    for k in range(handles.size):
        width = views.slab_width[slab_of(handles[k])]
        block = views.slab_block[slab_of(handles[k])]
        start = value_offset(handles[k], width)
        stream = _mix(ids[k] ^ _mix(seed))
        for place in places:
            unit = _first_value(stream, np.uint64(views.block_columns[block, place]))
            values[start + np.uint64(place)] = unit * np.float32(scale)


@kernel
def _lives(live: NDArray[np.uint64], handle: np.uint32) -> bool:
    group, bit = live_bit(handle)
    return bool(live[slab_of(handle), group] & bit)


@kernel
def take_marks(views: TableViews, listed: NDArray[np.uint32]) -> int:
    """Clears the marks of all `listed` handles and moves those of live rows to its front; answers how many."""
    words, state_words, live = views.words, views.state_words, views.live
    count = 0
    for k in range(listed.size):
        if k + _AHEAD < listed.size:
            prefetch(words, state_offset(listed[k + _AHEAD], state_words))
        handle = listed[k]
        words[state_offset(handle, state_words) + COUNT] &= _VALUE_BITS
        if _lives(live, handle):
            listed[count] = handle
            count += 1
    return count


@kernel
def mark_rows(views: TableViews, handles: NDArray[np.uint32]) -> None:
    """Marks live rows as changed, in the list that training writes."""
    words, state_words, listed = views.words, views.state_words, views.dirty
    length = views.dirty_length[0]
    for k in range(handles.size):
        at = state_offset(handles[k], state_words) + COUNT
        if not words[at] & DIRTY_BIT:
            words[at] |= DIRTY_BIT
            listed[length] = handles[k]
            length += 1
    views.dirty_length[0] = length


@kernel
def unmark_dead(views: TableViews, listed: NDArray[np.uint32]) -> int:
    """As take_marks, but live rows keep theirs."""
    words, state_words, live = views.words, views.state_words, views.live
    count = 0
    for k in range(listed.size):
        handle = listed[k]
        if _lives(live, handle):
            listed[count] = handle
            count += 1
        else:
            words[state_offset(handle, state_words) + COUNT] &= _VALUE_BITS
    return count


@kernel
def keep_live(views: TableViews, handles: NDArray[np.uint32]) -> int:
    """Moves the handles of live rows to the front, ABSENT is none; answers how many."""
    live = views.live
    count = 0
    for k in range(handles.size):
        handle = handles[k]
        if slab_of(handle) < np.uint64(live.shape[0]) and _lives(live, handle):
            handles[count] = handle
            count += 1
    return count


@kernel
def group_by_block(
    views: TableViews, handles: NDArray[np.uint32], ends: NDArray[np.int64], out: NDArray[np.uint32]
) -> None:
    """Sorts handles by block into `out`; `ends` i64 (blocks,) receives where each block's part ends."""
    slab_block = views.slab_block
    ends[:] = 0
    for k in range(handles.size):
        ends[slab_block[slab_of(handles[k])]] += 1
    start = 0
    for block in range(ends.size):
        size = ends[block]
        ends[block] = start
        start += size
    for k in range(handles.size):
        block = slab_block[slab_of(handles[k])]
        out[ends[block]] = handles[k]
        ends[block] += 1


@kernel
def copy_out(
    views: TableViews,
    handles: NDArray[np.uint32],
    ids: NDArray[np.uint64],
    rows: NDArray[np.float32],
    accumulators: NDArray[np.float32],
    counts: NDArray[np.float32],
    last_seen_s: NDArray[np.uint32],
) -> None:
    """Copies rows of one block, n of width d, into arrays of that length."""
    values, words, state_words = views.values, views.words, views.state_words
    width = rows.shape[1]
    for k in range(handles.size):
        if k + _AHEAD < handles.size:
            ahead = handles[k + _AHEAD]
            prefetch(words, state_offset(ahead, state_words))
            prefetch(values, value_offset(ahead, width))
        start = value_offset(handles[k], width)
        copy_row(rows, k * width, values, start, width)
        state = state_offset(handles[k], state_words)
        ids[k] = np.uint64(words[state + ID_LOW]) | (np.uint64(words[state + ID_HIGH]) << np.uint64(32))
        accumulators[k] = values[state + ACCUMULATOR]
        counts[k] = np.abs(values[state + COUNT])
        last_seen_s[k] = words[state + LAST_SEEN]


@kernel
def copy_in(
    views: TableViews,
    handles: NDArray[np.uint32],
    ids: NDArray[np.uint64],
    rows: NDArray[np.float32],
    accumulators: NDArray[np.float32],
    counts: NDArray[np.float32],
    last_seen_s: NDArray[np.uint32],
) -> None:
    """Writes rows of one block; a row that is marked dirty stays so, no other becomes so."""
    values, words, state_words = views.values, views.words, views.state_words
    width = rows.shape[1]
    for k in range(handles.size):
        start = value_offset(handles[k], width)
        copy_row(values, start, rows, k * width, width)
        state = state_offset(handles[k], state_words)
        words[state + ID_LOW] = np.uint32(ids[k])
        words[state + ID_HIGH] = np.uint32(ids[k] >> np.uint64(32))
        values[state + ACCUMULATOR] = accumulators[k]
        dirty = words[state + COUNT] & DIRTY_BIT
        values[state + COUNT] = counts[k]
        words[state + COUNT] = (words[state + COUNT] & _VALUE_BITS) | dirty
        words[state + LAST_SEEN] = last_seen_s[k]


@kernel
def read_statistics(
    views: TableViews, handles: NDArray[np.uint32], counts: NDArray[np.float32], last_seen_s: NDArray[np.uint32]
) -> None:
    """Counts f32 (n,) and last seen u32 (n,) of rows."""
    values, words, state_words = views.values, views.words, views.state_words
    for k in range(handles.size):
        state = state_offset(handles[k], state_words)
        counts[k] = np.abs(values[state + COUNT])
        last_seen_s[k] = words[state + LAST_SEEN]


@kernel
def decay_counts(views: TableViews, handles: NDArray[np.uint32], factor: float) -> None:
    """Multiplies the counts of rows, in float32."""
    values, words, state_words = views.values, views.words, views.state_words
    for k in range(handles.size):
        at = state_offset(handles[k], state_words) + COUNT
        dirty = words[at] & DIRTY_BIT
        values[at] = np.abs(values[at]) * np.float32(factor)
        words[at] |= dirty
