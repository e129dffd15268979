"""Training the rows of a large batch slot by slot, so that what is noted about its lookups stays in the cache.

Knows bags and rows, not threads; a share is the lookups whose rows lie in certain slabs, so that shares of one batch
may be trained at the same time without ever touching the same row. Lookups are brought together by slab, and rows are
trained slab after slab. A batch of a million lookups has few bags: what a bag's gradient counts for each of its
members and its sum of squares are worked out once, and most rows, those with a single lookup, step by it where it lies.
Memory is the limit, so it is kept busy: with every row that is listed or trained a later one begins to be loaded.

Invariant: the result is that of one pass over all lookups, a row's gradients summed in their order; a handle belongs
to one slot.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.handle_sort import bag_of, group_by_slab, handle_of
from embedding_table.hash_index import ABSENT
from embedding_table.machine_words import (
    add_row,
    add_scaled_row,
    add_scaled_row_noting_products,
    copy_row,
    fill_row,
    prefetch,
    prefetch_row,
    sum_of_squares,
)
from embedding_table.row_adagrad import POOL_MEAN, adagrad_step, note_training
from embedding_table.row_layout import ACCUMULATOR, TableViews, row_of, slab_of, state_offset, value_offset
from embedding_table.update_scratch import ROWS_AT_ONCE, ShareScratch, UpdateScratch
from model_contract.compiled import lean_fast_kernel, lean_kernel

__all__ = ["update_share"]

_ONE = np.uint64(1)
_LOOKUPS_AHEAD = np.uint64(64)  # at least so many are on their way
_IN_FOUR = np.uint64(3)  # of four lookups that are listed the first fetches a row, of four rows trained the others
_ROWS_AT_ONCE = np.uint64(ROWS_AT_ONCE)
_ROW_COST = np.uint64(64)  # of a lookup whatever its row's width, in columns


@lean_kernel
def _slot_cost(
    views: TableViews, handles: NDArray[np.uint32], offsets: NDArray[np.int64], bags: tuple[int, int, int]
) -> np.uint64:
    """About what a slot's lookups take: by their number and the width of the first one's row."""
    lookups = columns = np.uint64(0)
    for bag in range(bags[0], bags[1], bags[2]):
        begin, end = np.uint64(offsets[bag]), np.uint64(offsets[bag + 1])
        if columns == 0 and begin < end and handles[begin] != ABSENT:
            columns = np.uint64(views.slab_width[slab_of(handles[begin])])
        lookups += end - begin
    return lookups * (columns + _ROW_COST)


@lean_kernel
def _note_bags(
    offsets: NDArray[np.int64],
    bags: tuple[int, int, int],
    lo_bag: int,
    mean: bool,
    grad: NDArray[np.float32],
    dim: np.uint64,
    scratch: ShareScratch,
) -> None:
    """Works out what each bag of a slot, `bags` is its range, counts for each member; an empty one has no number."""
    gradients = scratch.gradient
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
        number += _ONE


@lean_kernel
def _add_columns(gradients: NDArray[np.float32], at: np.uint64, start: np.uint64, columns: NDArray[np.uint16]) -> None:
    for place in range(np.uint64(columns.size)):
        gradients[at + place] += gradients[start + np.uint64(columns[place])]


@lean_kernel
def _fetch(views: TableViews, key: np.uint64, width: np.uint64) -> None:
    """Begins to load a row, as wide as those in hand: what that gets wrong costs time alone."""
    handle = handle_of(key)
    prefetch_row(views.values, value_offset(handle, width), width)
    prefetch(views.words, state_offset(handle, np.uint64(views.state_words)) + ACCUMULATOR)


@lean_kernel
def _list_rows(
    views: TableViews,
    keys: NDArray[np.uint64],
    begin: np.uint64,
    lookups: np.uint64,
    fetched: np.uint64,
    listed: np.uint32,
    dim: np.uint64,
    scratch: ShareScratch,
) -> tuple[np.uint64, np.uint64, np.uint64]:
    """Numbers the rows of whole slabs of one block, from lookup `begin` on, and sums gradients of those that need it.

    Args:
        views: of the table.
        keys: of the share's lookups.
        begin: the first to list.
        lookups: how many there are.
        fetched: the first whose row is not on its way yet.
        listed: how many rows were listed before, and one.
        dim: D.
        scratch: of the share.

    Returns:
        how many rows, the lookup behind their last, and `fetched` by then.
    """
    row_keys, counts, gradients, place_row = scratch.row_key, scratch.lookups, scratch.gradient, scratch.place_row
    sums = np.uint64(scratch.bag_square.size) * dim
    slab = slab_of(handle_of(keys[begin]))
    block = np.uint64(views.slab_block[slab])
    width = np.uint64(views.slab_width[slab])
    columns = views.block_columns[block][:width]
    rows = np.uint64(0)
    of_slab = listed  # rows of this slab are numbered from here on
    for lookup in range(begin, lookups):
        if fetched < lookups and (fetched <= lookup + _LOOKUPS_AHEAD or (lookup & _IN_FOUR) == 0):
            _fetch(views, keys[fetched], width)
            fetched += _ONE
        key = keys[lookup]
        handle = handle_of(key)
        if slab_of(handle) != slab:
            slab = slab_of(handle)
            of_slab = np.uint32(listed + rows)
            if rows >= _ROWS_AT_ONCE or np.uint64(views.slab_block[slab]) != block:
                return rows, np.uint64(lookup), fetched
        known = place_row[row_of(handle)]
        if known >= of_slab:
            number = np.uint64(known - listed)
            total = sums + number * dim
            if width != dim:
                _add_columns(gradients, total, bag_of(key) * dim, columns)
            else:
                if counts[number] == 1:
                    copy_row(gradients, total, gradients, bag_of(row_keys[number]) * dim, dim)
                add_row(gradients, total, gradients, bag_of(key) * dim, dim)
            counts[number] += 1
            continue
        place_row[row_of(handle)] = listed + rows
        row_keys[rows] = key
        counts[rows] = 1
        if width != dim:
            fill_row(gradients, sums + rows * dim, width, np.float32(0))
            _add_columns(gradients, sums + rows * dim, bag_of(key) * dim, columns)
        rows += _ONE
    return rows, lookups, fetched


@lean_fast_kernel
def _train_listed(
    views: TableViews,
    keys: NDArray[np.uint64],
    lookups: np.uint64,
    fetched: np.uint64,
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
) -> tuple[int, np.uint64]:
    """Trains the rows that `_list_rows` numbered; appends newly marked ones to `dirty`.

    Returns:
        its new length, and the first lookup whose row is not on its way yet.
    """
    values, words, state_words = views.values, views.words, np.uint64(views.state_words)
    row_keys, counts, gradients = scratch.share.row_key, scratch.share.lookups, scratch.share.gradient
    bag_square, sums = scratch.share.bag_square, np.uint64(scratch.share.bag_square.size) * dim
    slab = slab_of(handle_of(row_keys[0]))
    width, block = np.uint64(views.slab_width[slab]), np.uint64(views.slab_block[slab])
    products, squares_of_products = scratch.products, scratch.squares
    salient = products.size > 0 and views.saliency.first.size > 0
    for number in range(rows):
        if fetched < lookups and (number & _IN_FOUR) != 0:
            _fetch(views, keys[fetched], width)
            fetched += _ONE
        handle = handle_of(row_keys[number])
        if width == dim and counts[number] == 1:
            bag = bag_of(row_keys[number])
            origin, squares = bag * dim, bag_square[bag]
        else:
            origin = sums + number * dim
            squares = sum_of_squares(gradients, origin, width)
        state, start = state_offset(handle, state_words), value_offset(handle, width)
        before = values[state + ACCUMULATOR]
        accumulator, step = adagrad_step(left * before, squares, width, rate, tiny, reference_width)
        dirty_length = note_training(
            values, words, state, handle, accumulator, counts[number], now_s, dirty, dirty_length
        )
        if salient:
            add_scaled_row_noting_products(
                values, start, gradients, origin, width, -step, products, squares_of_products, block * dim
            )
        else:
            add_scaled_row(values, start, gradients, origin, width, -step)
    if salient:
        scratch.block_rows[block] += np.uint32(rows)
    return dirty_length, fetched


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
    work = np.uint64(0)
    for slot in range(slots):
        work += _slot_cost(views, handles, offsets, (lo_bag + (slot - lo_bag) % slots, hi_bag, slots))
    first, last = work * np.uint64(part) // np.uint64(parts), work * np.uint64(part + 1) // np.uint64(parts)
    share.place_row[:] = 0
    listed = np.uint32(1)
    passed = np.uint64(0)
    for slot in range(slots):
        bags = (lo_bag + (slot - lo_bag) % slots, hi_bag, slots)
        cost = _slot_cost(views, handles, offsets, bags)
        own = max(first, passed) - passed, min(last, passed + cost) - min(passed, last), cost
        passed += cost
        if own[0] >= own[1]:
            continue
        _note_bags(offsets, bags, lo_bag, pooling[slot] == POOL_MEAN, grad, dim, share)
        keys, lookups = group_by_slab(handles, offsets, bags, own, share.key, share.other_key, share.slab_count)
        begin = fetched = np.uint64(0)
        while begin < lookups:
            rows, begin, fetched = _list_rows(views, keys, begin, lookups, fetched, listed, dim, share)
            dirty_length, fetched = _train_listed(
                views,
                keys,
                lookups,
                fetched,
                dim,
                rate,
                tiny,
                left,
                reference_width,
                now_s,
                rows,
                scratch,
                dirty,
                dirty_length,
            )
            listed += np.uint32(rows)
    return dirty_length
