"""Training the rows of a large batch slot by slot, so that what is noted about its lookups stays in the cache.

Knows bags and rows, not threads; a share is the lookups whose rows lie in every n-th slab, so that shares of one
batch may be trained at the same time without ever touching the same row. Lookups are sorted by row; gradients are
summed row by row from the batch, not lookup by lookup into rows: a batch of a million lookups has few bags. Rows are
trained in the order they lie in memory.

Invariant: the result is that of one pass over all lookups, sums running in the same order; a handle belongs to one
slot.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.handle_sort import handle_of, key_of, low_half, sort_by_handle
from embedding_table.hash_index import ABSENT
from embedding_table.machine_words import prefetch, prefetch_row, weighted_sum_of_rows
from embedding_table.row_adagrad import POOL_MEAN, train_rows
from embedding_table.row_layout import ACCUMULATOR, TableViews, slab_of, state_offset, value_offset
from embedding_table.update_scratch import UpdateScratch
from model_contract.compiled import fast_kernel, kernel

__all__ = ["update_share"]

_ONE = np.uint64(1)
_CHUNK_ROWS = np.uint64(128)  # whose sums stay in the first-level cache until they are used
_ROWS_AHEAD = np.uint64(64)


@kernel
def _list_share(
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    first_bag: int,
    lo_bag: int,
    hi_bag: int,
    slots: int,
    part: np.uint64,
    parts: np.uint64,
    keys: NDArray[np.uint64],
) -> np.uint64:
    """Lists the lookups of one slot, from its first bag on, whose rows lie in this part's slabs; answers how many."""
    count = np.uint64(0)
    for bag in range(first_bag, hi_bag, slots):
        number = np.uint64(bag - lo_bag)
        for lookup in range(np.uint64(offsets[bag]), np.uint64(offsets[bag + 1])):
            handle = handles[lookup]
            keys[count] = key_of(handle, number)
            count += np.uint64(handle != ABSENT and slab_of(handle) % parts == part)
    return count


@kernel
def _number_rows(
    keys: NDArray[np.uint64],
    lookups: np.uint64,
    offsets: NDArray[np.int64],
    lo_bag: np.uint64,
    mean: bool,
    scratch: UpdateScratch,
) -> np.uint64:
    """Numbers the rows of sorted lookups, counts these and notes bags and scales; answers how many rows."""
    listed, counts, bags, scales = scratch.row, scratch.lookups, scratch.row_bag, scratch.row_scale
    rows = np.uint64(0)
    last = ABSENT
    for lookup in range(lookups):
        handle, bag = handle_of(keys[lookup]), low_half(keys[lookup])
        if handle != last:
            last = handle
            listed[rows] = handle
            counts[rows] = 0
            rows += _ONE
        counts[rows - _ONE] += 1
        bags[lookup] = bag
        scale = np.float32(1)
        if mean:
            scale /= np.float32(offsets[lo_bag + bag + _ONE] - offsets[lo_bag + bag])
        scales[lookup] = scale
    return rows


@kernel
def _sum_gradients(
    views: TableViews,
    dim: np.uint64,
    grad: NDArray[np.float32],
    first: np.uint64,
    last: np.uint64,
    rows: np.uint64,
    begin: np.uint64,
    scratch: UpdateScratch,
) -> np.uint64:
    """Readies rows first .. last of `rows` for training, their lookups starting at `begin`; answers where they end."""
    values, words, state_words = views.values, views.words, np.uint64(views.state_words)
    listed, counts, totals = scratch.row, scratch.lookups, scratch.gradient
    bags, scales, accumulators = scratch.row_bag, scratch.row_scale, scratch.accumulator
    for number in range(first, last):
        if number + _ROWS_AHEAD < rows:
            ahead = listed[number + _ROWS_AHEAD]
            width = np.uint64(views.slab_width[slab_of(ahead)])
            prefetch_row(values, value_offset(ahead, width), width)
            prefetch(words, state_offset(ahead, state_words))
        accumulators[number] = values[state_offset(listed[number], state_words) + ACCUMULATOR]
        end = begin + np.uint64(counts[number])
        weighted_sum_of_rows(totals, (number - first) * dim, dim, grad, bags, scales, begin, end)
        begin = end
    return begin


@fast_kernel
def update_share(
    views: TableViews,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    lo_bag: int,
    hi_bag: int,
    grad: NDArray[np.float32],
    dim: np.uint64,
    rate: np.float32,
    tiny: np.float32,
    left: np.float32,
    reference_width: np.float32,
    now_s: int,
    part: int,
    parts: int,
    scratch: UpdateScratch,
    dirty: NDArray[np.uint32],
    dirty_length: int,
) -> int:
    """Trains the rows in this part's slabs; appends newly marked ones to `dirty`, answers its new length.

    Args:
        views: of a table with trained state.
        handles: u32 (L,), ABSENT is passed over.
        offsets: i64 (B*F + 1,).
        pooling: i8 (F,), 0 sum, 1 mean.
        lo_bag: first bag.
        hi_bag: behind the last bag.
        grad: f32 ((hi_bag - lo_bag) * D,), flat.
        dim: D.
        rate: learning rate.
        tiny: added to the root of the accumulator.
        left: what is left of the accumulator before this gradient is added.
        reference_width: see `train_rows`.
        now_s: seconds since epoch.
        part: number of this share.
        parts: how many there are.
        scratch: for as many lookups as one slot has in the range.
        dirty: u32, with room for all rows of the share.
        dirty_length: handles in it already.
    """
    slots = pooling.size
    totals = scratch.gradient
    chunk_rows = min(_CHUNK_ROWS, np.uint64(totals.size) // dim)
    for slot in range(slots):
        first_bag = lo_bag + (slot - lo_bag) % slots
        mean = pooling[slot] == POOL_MEAN
        lookups = _list_share(
            handles, offsets, first_bag, lo_bag, hi_bag, slots, np.uint64(part), np.uint64(parts), scratch.key
        )
        keys = sort_by_handle(scratch.key, scratch.other_key, lookups, scratch.digit_count)
        rows = _number_rows(keys, lookups, offsets, np.uint64(lo_bag), mean, scratch)
        begin = np.uint64(0)
        first = np.uint64(0)
        while first < rows:
            last = min(rows, first + chunk_rows)
            begin = _sum_gradients(views, dim, grad, first, last, rows, begin, scratch)
            dirty_length = train_rows(
                views, dim, rate, tiny, left, reference_width, now_s, first, last, scratch, dirty, dirty_length
            )
            first = last
    return dirty_length
