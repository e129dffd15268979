"""Training the rows of a large batch slot by slot, so that what is noted about its lookups stays in the cache.

Knows bags and rows, not threads; a share is the lookups whose rows lie in certain slabs, so that shares of one batch
may be trained at the same time without ever touching the same row. Lookups are brought together by slab, and rows are
trained slab after slab. A batch of a million lookups has few bags: what a bag's gradient counts for each of its
members and its sum of squares are worked out once, and most rows, those with a single lookup, step by it where it lies.

Invariant: the result is that of one pass over all lookups, a row's gradients summed in their order; a handle belongs
to one slot.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.handle_sort import handle_of, key_of, low_half, sort_by_slab
from embedding_table.hash_index import ABSENT
from embedding_table.machine_words import (
    add_row,
    add_scaled_row,
    copy_row,
    fill_row,
    prefetch,
    prefetch_row,
    sum_of_squares,
)
from embedding_table.row_adagrad import POOL_MEAN, adagrad_step, note_training
from embedding_table.row_layout import ACCUMULATOR, TableViews, row_of, slab_of, state_offset, value_offset
from embedding_table.row_steps import step_rows, step_rows_noting_products
from embedding_table.update_scratch import ROWS_AT_ONCE, ShareScratch, UpdateScratch
from model_contract.compiled import lean_fast_kernel, lean_kernel

__all__ = ["update_share"]

_ONE = np.uint64(1)
_LOOKUPS_AHEAD = np.uint64(64)
_ROWS_AT_ONCE = np.uint64(ROWS_AT_ONCE)
_SPREAD, _HALF_BITS = np.uint64(0x9E3779B1), np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@lean_kernel
def _share_of(slab: np.uint64, shares: np.uint64) -> np.uint64:
    """Which of the shares a slab belongs to: two products where a remainder would need a division."""
    return np.uint64((slab * _SPREAD & _LOW) * shares >> _HALF_BITS)


@lean_kernel
def _list_share(
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    bags: tuple[int, int, int],
    lo_bag: int,
    mean: bool,
    grad: NDArray[np.float32],
    dim: np.uint64,
    part: np.uint64,
    parts: np.uint64,
    scratch: ShareScratch,
) -> np.uint64:
    """Lists the lookups of one slot, `bags` is its range, whose rows lie in this part's slabs; answers how many."""
    keys, gradients = scratch.key, scratch.bag_gradient
    count = np.uint64(0)
    number = np.uint64(0)
    for bag in range(bags[0], bags[1], bags[2]):
        begin, end = np.uint64(offsets[bag]), np.uint64(offsets[bag + 1])
        if begin == end:
            continue
        at, place = np.uint64(bag - lo_bag) * dim, number * dim
        if mean:
            fill_row(gradients, place, dim, np.float32(0))
            add_scaled_row(gradients, place, grad, at, dim, np.float32(1) / np.float32(end - begin))
        else:
            copy_row(gradients, place, grad, at, dim)
        scratch.bag_square[number] = sum_of_squares(gradients, place, dim)
        for lookup in range(begin, end):
            handle = handles[lookup]
            keys[count] = key_of(handle, number)
            count += np.uint64(handle != ABSENT and _share_of(slab_of(handle), parts) == part)
        number += _ONE
    return count


@lean_kernel
def _add_columns(
    total: NDArray[np.float32],
    at: np.uint64,
    gradients: NDArray[np.float32],
    start: np.uint64,
    columns: NDArray[np.uint16],
) -> None:
    for place in range(np.uint64(columns.size)):
        total[at + place] += gradients[start + np.uint64(columns[place])]


@lean_kernel
def _list_rows(
    views: TableViews,
    keys: NDArray[np.uint64],
    begin: np.uint64,
    lookups: np.uint64,
    dim: np.uint64,
    scratch: ShareScratch,
) -> tuple[np.uint64, np.uint64]:
    """Numbers the rows of whole slabs of one block, from lookup `begin` on, and sums gradients of those that need it.

    Returns:
        how many rows, and the lookup behind their last.
    """
    values, words, state_words = views.values, views.words, np.uint64(views.state_words)
    listed, counts, row_bags, totals = scratch.row, scratch.lookups, scratch.bag, scratch.sum
    gradients, place_row = scratch.bag_gradient, scratch.place_row
    slab = slab_of(handle_of(keys[begin]))
    block = np.uint64(views.slab_block[slab])
    width = np.uint64(views.slab_width[slab])
    columns = views.block_columns[block][:width]
    rows = np.uint64(0)
    for lookup in range(begin, lookups):
        if lookup + _LOOKUPS_AHEAD < lookups:
            ahead = handle_of(keys[lookup + _LOOKUPS_AHEAD])
            width_ahead = np.uint64(views.slab_width[slab_of(ahead)])
            prefetch_row(values, value_offset(ahead, width_ahead), width_ahead)
            prefetch(words, state_offset(ahead, state_words) + ACCUMULATOR)
        handle = handle_of(keys[lookup])
        if slab_of(handle) != slab:
            slab = slab_of(handle)
            if rows >= _ROWS_AT_ONCE or np.uint64(views.slab_block[slab]) != block:
                return rows, np.uint64(lookup)
        bag = low_half(keys[lookup])
        place = row_of(handle)
        number = np.uint64(place_row[place])
        if number < rows and listed[number] == handle:
            if width != dim:
                _add_columns(totals, number * dim, gradients, bag * dim, columns)
            else:
                if counts[number] == 1:
                    copy_row(totals, number * dim, gradients, np.uint64(row_bags[number]) * dim, dim)
                add_row(totals, number * dim, gradients, bag * dim, dim)
            counts[number] += 1
            continue
        place_row[place] = rows
        listed[rows] = handle
        counts[rows] = 1
        row_bags[rows] = bag
        if width != dim:
            fill_row(totals, rows * dim, width, np.float32(0))
            _add_columns(totals, rows * dim, gradients, bag * dim, columns)
        rows += _ONE
    return rows, lookups


@lean_fast_kernel
def _train_listed(
    views: TableViews,
    dim: np.uint64,
    rate: np.float32,
    tiny: np.float32,
    left: np.float32,
    reference_width: np.float32,
    now_s: int,
    rows: np.uint64,
    scratch: UpdateScratch,
    dirty: NDArray[np.uint32],
    dirty_length: int,
) -> int:
    """Trains the rows that `_list_rows` numbered; appends newly marked ones to `dirty`, answers its new length."""
    values, words, state_words = views.values, views.words, np.uint64(views.state_words)
    share = scratch.share
    starts, origins, steps = share.start, share.origin, share.step
    slab = slab_of(share.row[0])
    width, block = np.uint64(views.slab_width[slab]), np.uint64(views.slab_block[slab])
    single, several = np.uint64(0), rows  # places of rows with a single lookup go up, of others down
    for number in range(rows):
        handle = share.row[number]
        if width == dim and share.lookups[number] == 1:
            bag = np.uint64(share.bag[number])
            place, origin, squares = single, bag * dim, share.bag_square[bag]
            single += _ONE
        else:
            several -= _ONE
            place, origin = several, number * dim
            squares = sum_of_squares(share.sum, origin, width)
        state = state_offset(handle, state_words)
        before = values[state + ACCUMULATOR]
        accumulator, step = adagrad_step(left * before, squares, width, rate, tiny, reference_width)
        starts[place], origins[place], steps[place] = value_offset(handle, width), origin, -step
        dirty_length = note_training(
            values, words, state, handle, accumulator, share.lookups[number], now_s, dirty, dirty_length
        )
    gradients, totals = share.bag_gradient, share.sum
    if scratch.products.size > 0 and views.saliency.first.size > 0:
        products, squares_sum, at = scratch.products, scratch.squares, block * dim
        scratch.block_rows[block] += np.uint32(rows)
        step_rows_noting_products(
            values, starts, gradients, origins, steps, np.uint64(0), single, width, products, squares_sum, at
        )
        step_rows_noting_products(
            values, starts, totals, origins, steps, single, rows, width, products, squares_sum, at
        )
    else:
        step_rows(values, starts, gradients, origins, steps, np.uint64(0), single, width)
        step_rows(values, starts, totals, origins, steps, single, rows, width)
    return dirty_length


@lean_fast_kernel
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
    slots, share = pooling.size, scratch.share
    for slot in range(slots):
        first_bag = lo_bag + (slot - lo_bag) % slots
        mean = pooling[slot] == POOL_MEAN
        bags = (first_bag, hi_bag, slots)
        lookups = _list_share(handles, offsets, bags, lo_bag, mean, grad, dim, np.uint64(part), np.uint64(parts), share)
        keys = sort_by_slab(share.key, share.other_key, lookups, share.slab_count)
        begin = np.uint64(0)
        while begin < lookups:
            rows, begin = _list_rows(views, keys, begin, lookups, dim, share)
            dirty_length = _train_listed(
                views, dim, rate, tiny, left, reference_width, now_s, rows, scratch, dirty, dirty_length
            )
    return dirty_length
