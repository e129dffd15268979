"""Training the rows of a large batch slot by slot, so that what is noted about its lookups stays in the cache.

Knows bags and rows, not threads; a share is the lookups whose rows lie in every n-th slab, so that shares of one
batch may be trained at the same time without ever touching the same row. Gradients are summed row by row from the
batch, not lookup by lookup into rows: a batch of a million lookups has few bags.

Invariant: the result is that of one pass over all lookups, sums running in the same order; a handle belongs to one
slot.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.hash_index import ABSENT
from embedding_table.machine_words import prefetch, weighted_sum_of_rows
from embedding_table.row_adagrad import POOL_MEAN, PREFETCH_AHEAD, train_rows
from embedding_table.row_layout import ACCUMULATOR, TableViews, slab_of, state_offset
from embedding_table.update_scratch import UpdateScratch
from model_contract.compiled import fast_kernel, kernel

__all__ = ["update_share"]

_ONE = np.uint64(1)
_CHUNK_ROWS = np.uint64(256)


@kernel
def _list_share(
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    first_bag: int,
    lo_bag: int,
    hi_bag: int,
    slots: int,
    mean: bool,
    part: np.uint64,
    parts: np.uint64,
    scratch: UpdateScratch,
) -> np.uint64:
    """Lists the lookups of one slot, from its first bag on, whose rows lie in this part's slabs; answers how many."""
    listed, bags, scales = scratch.handle, scratch.bag, scratch.scale
    count = np.uint64(0)
    for bag in range(first_bag, hi_bag, slots):
        begin, end = np.uint64(offsets[bag]), np.uint64(offsets[bag + 1])
        scale = np.float32(1)
        if mean and end > begin + _ONE:
            scale /= np.float32(end - begin)
        for lookup in range(begin, end):
            handle = handles[lookup]
            listed[count] = handle
            bags[count] = bag - lo_bag
            scales[count] = scale
            count += np.uint64(handle != ABSENT and slab_of(handle) % parts == part)
    return count


@kernel
def _number_rows(views: TableViews, lookups: np.uint64, scratch: UpdateScratch) -> np.uint64:
    """Numbers the listed lookups' rows in order of first appearance and counts them, as bag_kernels does."""
    values, words, state_words = views.values, views.words, np.uint64(views.state_words)
    handles, numbers = scratch.handle, scratch.number
    listed, counts, accumulators = scratch.row, scratch.lookups, scratch.accumulator
    rows = np.uint64(0)
    for lookup in range(lookups):
        if lookup + PREFETCH_AHEAD < lookups:
            prefetch(words, state_offset(handles[lookup + PREFETCH_AHEAD], state_words))
        handle = handles[lookup]
        at = state_offset(handle, state_words) + ACCUMULATOR
        number = np.uint64(words[at])
        if number < rows and listed[number] == handle:
            counts[number] += 1
        else:
            number = rows
            rows += _ONE
            listed[number] = handle
            accumulators[number] = values[at]
            words[at] = np.uint32(number)
            counts[number] = 1
        numbers[lookup] = number
    return rows


@kernel
def _sort_by_row(lookups: np.uint64, rows: np.uint64, scratch: UpdateScratch) -> None:
    """Sorts bags and scales of the listed lookups by row."""
    counts, ends, numbers, bags, scales = scratch.lookups, scratch.end, scratch.number, scratch.bag, scratch.scale
    row_bags, row_scales = scratch.row_bag, scratch.row_scale
    start = np.uint64(0)
    for number in range(rows):
        ends[number] = start
        start += np.uint64(counts[number])
    for lookup in range(lookups):
        row = np.uint64(numbers[lookup])
        place = np.uint64(ends[row])
        row_bags[place] = bags[lookup]
        row_scales[place] = scales[lookup]
        ends[row] = place + _ONE


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
            handles, offsets, first_bag, lo_bag, hi_bag, slots, mean, np.uint64(part), np.uint64(parts), scratch
        )
        rows = _number_rows(views, lookups, scratch)
        _sort_by_row(lookups, rows, scratch)
        bags, scales, ends = scratch.row_bag, scratch.row_scale, scratch.end
        begin = np.uint64(0)
        first = np.uint64(0)
        while first < rows:
            last = min(rows, first + chunk_rows)
            for number in range(first, last):
                end = np.uint64(ends[number])
                weighted_sum_of_rows(totals, (number - first) * dim, dim, grad, bags, scales, begin, end)
                begin = end
            dirty_length = train_rows(
                views, dim, rate, tiny, left, reference_width, now_s, first, last, scratch, dirty, dirty_length
            )
            first = last
    return dirty_length
