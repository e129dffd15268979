"""Rows of one set of columns written into rows of another: columns in common keep their bits, new ones start at zero.

Knows columns, handles and state words; not which rows move, or why. Accumulator, count and last use follow a row as
they are: the accumulator is a mean over columns, so it needs no change with the width.

Invariant: what a row gathers is the same bit by bit if columns are added, and masked to the columns left if some go.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.machine_words import copy_row, fill_row, prefetch
from embedding_table.row_layout import (
    ACCUMULATOR,
    COUNT,
    DIRTY_BIT,
    ID_HIGH,
    ID_LOW,
    LAST_SEEN,
    TableViews,
    state_offset,
    value_offset,
)
from model_contract.compiled import kernel

__all__ = ["column_places", "copy_changed", "values_in_columns"]

_AHEAD = 16
_NEW = -1


def column_places(old: NDArray[np.uint16], new: NDArray[np.uint16]) -> NDArray[np.int64]:
    """For each of `new` columns (d',) its place among `old` (d,), both ascending; -1 for one that is not there."""
    places = np.searchsorted(old, new)
    if old.size == 0:
        return np.full(new.size, _NEW, np.int64)
    return np.where(old[np.minimum(places, old.size - 1)] == new, places, _NEW).astype(np.int64)


def values_in_columns(values: NDArray[np.float32], places: NDArray[np.int64]) -> NDArray[np.float32]:
    """Values f32 (n, d) in new columns, f32 (n, d'), `places` as from `column_places`."""
    changed = np.zeros((values.shape[0], places.size), np.float32)
    changed[:, places != _NEW] = values[:, places[places != _NEW]]
    return changed


@kernel
def _prefix(places: NDArray[np.int64]) -> int:
    """How many of the new columns from the start on are the old ones from the start on."""
    count = 0
    while count < places.size and places[count] == count:
        count += 1
    return count


@kernel
def copy_changed(
    views: TableViews,
    source: NDArray[np.uint32],
    target: NDArray[np.uint32],
    places: NDArray[np.int64],
    old_width: int,
    ids: NDArray[np.uint64],
) -> None:
    """Copies rows of one block to rows of another and marks them dirty.

    Args:
        views: of the table; training must not run.
        source: u32 (n,), rows of the old block.
        target: u32 (n,), rows of the new one.
        places: i64 (d',), from `column_places`.
        old_width: d.
        ids: u64 (n,), receives the ids.
    """
    values, words, state_words = views.values, views.words, views.state_words
    dirty, length = views.dirty, views.dirty_length[0]
    width = places.size
    common = np.uint64(_prefix(places))
    zeros = np.uint64(width)  # from here on all columns are new
    while zeros > common and places[zeros - np.uint64(1)] < 0:
        zeros -= np.uint64(1)
    for k in range(source.size):
        if k + _AHEAD < source.size:
            ahead = source[k + _AHEAD]
            prefetch(words, state_offset(ahead, state_words))
            prefetch(values, value_offset(ahead, old_width))
        start, at = value_offset(source[k], old_width), value_offset(target[k], width)
        copy_row(values, at, values, start, common)
        for place in range(common, zeros):
            old = places[place]
            values[at + place] = values[start + np.uint64(old)] if old >= 0 else np.float32(0)
        fill_row(values, at + zeros, np.uint64(width) - zeros, np.float32(0))
        state, to = state_offset(source[k], state_words), state_offset(target[k], state_words)
        low, high = words[state + ID_LOW], words[state + ID_HIGH]
        ids[k] = np.uint64(low) | (np.uint64(high) << np.uint64(32))
        words[to + ID_LOW] = low
        words[to + ID_HIGH] = high
        words[to + ACCUMULATOR] = words[state + ACCUMULATOR]
        words[to + LAST_SEEN] = words[state + LAST_SEEN]
        if not words[to + COUNT] & DIRTY_BIT:
            dirty[np.uint64(length)] = target[k]
            length += 1
        words[to + COUNT] = words[state + COUNT] | DIRTY_BIT
    views.dirty_length[0] = length
