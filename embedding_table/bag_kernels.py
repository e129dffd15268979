"""Rows of a batch into (B, F, D), pooled, and gradients back into rows: the two kernels of the sparse side.

Knows nothing of ids, networks or threads; both run on a range of bags and are called per micro-batch from other
kernels. A bag is one (sample, slot): bag k = b * F + f holds lookups offsets[k] .. offsets[k + 1].

Invariant: what a narrow row computes is what a masked row of full width computes: its columns are scattered to where
they belong, the others read as zero, and only its own columns' gradient is used. Rows of a bag are added in their order
whatever their widths, so that columns of zeros, added or taken away, do not change a bit.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_table.gradient_sums import sum_of_bags, sum_of_single_lookups
from embedding_table.hash_index import ABSENT
from embedding_table.machine_words import add_rows, add_rows_fetching, copy_row, fill_row, prefetch, prefetch_row
from embedding_table.row_adagrad import POOL_MEAN, PREFETCH_AHEAD, train_rows
from embedding_table.row_layout import TableViews, slab_of, value_offset
from embedding_table.saliency_sums import fold_products
from embedding_table.slot_update import update_share
from embedding_table.update_scratch import UpdateScratch, new_scratch
from model_contract.compiled import fast_kernel, kernel, lean_kernel

__all__ = [
    "POOLED_AT_ONCE",
    "ROWS_AHEAD",
    "UpdateScratch",
    "gather_bags",
    "new_scratch",
    "one_member_each",
    "update_bags",
]

_ONE = np.uint64(1)
POOLED_AT_ONCE = np.uint64(512)
ROWS_AHEAD = np.uint64(32)  # that are on their way while one is added


class PooledRows(NamedTuple):
    """Where rows start and how wide they are, for as many lookups as are pooled at once.

    Attributes:
        start: u64 (POOLED_AT_ONCE + ROWS_AHEAD,).
        width: u16, as long; 0 for a lookup without a row.
    """

    start: NDArray[np.uint64]
    width: NDArray[np.uint16]


@lean_kernel
def one_member_each(offsets: NDArray[np.int64], lo_bag: int, hi_bag: int) -> bool:
    """Whether each of these bags has exactly one lookup."""
    others = 0
    for bag in range(lo_bag, hi_bag):
        others += offsets[bag + 1] - offsets[bag] != 1
    return others == 0


@lean_kernel
def _scatter_row(
    columns: NDArray[np.uint16], values: NDArray[np.float32], start: np.uint64, out: NDArray[np.float32], at: np.uint64
) -> None:
    for place in range(np.uint64(columns.size)):
        out[at + np.uint64(columns[place])] += values[start + place]


@lean_kernel
def _place_row(
    columns: NDArray[np.uint16], values: NDArray[np.float32], start: np.uint64, out: NDArray[np.float32], at: np.uint64
) -> None:
    """Stores, where _scatter_row adds: a value of -0.0 stays one, as in a row that is copied whole."""
    for place in range(np.uint64(columns.size)):
        out[at + np.uint64(columns[place])] = values[start + place]


@lean_kernel
def _copy_rows(
    views: TableViews,
    handles: NDArray[np.uint32],
    first: np.uint64,
    count: np.uint64,
    out: NDArray[np.float32],
    dim: np.uint64,
) -> None:
    """Pooling of bags with one member each."""
    values, slab_width, slab_block, block_columns = (
        views.values,
        views.slab_width,
        views.slab_block,
        views.block_columns,
    )
    for place in range(count):
        if place + PREFETCH_AHEAD < count and handles[first + place + PREFETCH_AHEAD] != ABSENT:
            ahead = handles[first + place + PREFETCH_AHEAD]
            prefetch(values, value_offset(ahead, slab_width[slab_of(ahead)]))
        handle = handles[first + place]
        at = place * dim
        width = np.uint64(slab_width[slab_of(handle)]) if handle != ABSENT else np.uint64(0)
        if width == dim:
            copy_row(out, at, values, value_offset(handle, width), dim)
        else:
            fill_row(out, at, dim, np.float32(0))
            if width:
                columns = block_columns[np.uint64(slab_block[slab_of(handle)])][:width]
                _place_row(columns, values, value_offset(handle, width), out, at)


@lean_kernel
def _list_rows(
    views: TableViews,
    handles: NDArray[np.uint32],
    first: np.uint64,
    listed: np.uint64,
    dim: np.uint64,
    rows: PooledRows,
) -> bool:
    """Notes where the rows of `listed` lookups from `first` on start, and their widths; whether all are of full width.

    Behind them the list is filled up with the last one, so that what is fetched ahead is a row of the table.
    """
    starts, widths = rows.start, rows.width
    narrow = 0
    start = np.uint64(0)
    for place in range(listed):
        handle = handles[first + place]
        width = np.uint64(views.slab_width[slab_of(handle)]) if handle != ABSENT else np.uint64(0)
        if width:
            start = value_offset(handle, width)
        starts[place], widths[place] = start, width
        narrow += width != dim
    for place in range(listed, np.uint64(starts.size)):
        starts[place], widths[place] = start, np.uint16(0)
    return narrow == 0


@lean_kernel
def _divide_row(out: NDArray[np.float32], at: np.uint64, dim: np.uint64, members: np.uint64) -> None:
    if members > 1:
        scale = np.float32(1) / np.float32(members)
        for column in range(dim):
            out[at + column] *= scale


@lean_kernel
def _pool_rows(
    views: TableViews,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    lo_bag: int,
    hi_bag: int,
    out: NDArray[np.float32],
    dim: np.uint64,
    rows: PooledRows,
) -> None:
    """Pooling of any bags; rows are listed some hundred at a time, and a list may end amid a bag."""
    values, slab_block, block_columns = views.values, views.slab_block, views.block_columns
    starts, widths = rows.start, rows.width
    at_once = np.uint64(starts.size) - ROWS_AHEAD
    first, end = np.uint64(offsets[lo_bag]), np.uint64(offsets[hi_bag])
    bag = lo_bag
    while bag < hi_bag:
        last = min(first + at_once, end)
        plain = _list_rows(views, handles, first, min(last + ROWS_AHEAD, end) - first, dim, rows)
        if bag == lo_bag:
            for place in range(min(ROWS_AHEAD, last - first)):
                prefetch_row(values, starts[place], np.uint64(widths[place]))
        while bag < hi_bag:
            at = np.uint64(bag - lo_bag) * dim
            begin, stop = np.uint64(offsets[bag]), np.uint64(offsets[bag + 1])
            if begin >= first:
                fill_row(out, at, dim, np.float32(0))
            head, tail = max(begin, first) - first, min(stop, last) - first
            if plain:
                add_rows_fetching(out, at, dim, values, starts, head, tail, ROWS_AHEAD)
                head = tail
            for place in range(head, tail):
                prefetch_row(values, starts[place + ROWS_AHEAD], np.uint64(widths[place + ROWS_AHEAD]))
                width = np.uint64(widths[place])
                if width == dim:
                    continue
                if head < place:
                    add_rows(out, at, dim, values, starts, head, place)
                head = place + _ONE
                if width:
                    columns = block_columns[np.uint64(slab_block[slab_of(handles[first + place])])][:width]
                    _scatter_row(columns, values, starts[place], out, at)
            if head < tail:
                add_rows(out, at, dim, values, starts, head, tail)
            if stop > last:
                break
            if pooling[bag % pooling.size] == POOL_MEAN:
                _divide_row(out, at, dim, stop - begin)
            bag += 1
        first = last


@kernel
def gather_bags(
    views: TableViews,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    lo_bag: int,
    hi_bag: int,
    out: NDArray[np.float32],
) -> None:
    """Pools the rows of bags lo_bag .. hi_bag into `out`.

    Args:
        views: of the table.
        handles: u32 (L,), ABSENT counts as a row of zeros.
        offsets: i64 (B*F + 1,).
        pooling: i8 (F,), 0 sum, 1 mean.
        lo_bag: first bag.
        hi_bag: behind the last bag.
        out: f32 (hi_bag - lo_bag, D), C order, overwritten.
    """
    flat = out.reshape(-1)
    dim = np.uint64(out.shape[1])
    if one_member_each(offsets, lo_bag, hi_bag):
        _copy_rows(views, handles, np.uint64(offsets[lo_bag]), np.uint64(hi_bag - lo_bag), flat, dim)
    else:
        listed = POOLED_AT_ONCE + ROWS_AHEAD
        rows = PooledRows(np.empty(listed, np.uint64), np.empty(listed, np.uint16))
        _pool_rows(views, handles, offsets, pooling, lo_bag, hi_bag, flat, dim, rows)


@fast_kernel
def update_bags(
    views: TableViews,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    lo_bag: int,
    hi_bag: int,
    grad: NDArray[np.float32],
    lr: float,
    eps: float,
    now_s: int,
    scratch: UpdateScratch,
    decay: float = 1.0,
    reference_width: float = 0.0,
) -> None:
    """One step of row-wise Adagrad on every row of bags lo_bag .. hi_bag, its gradient summed over all its lookups.

    Counts the lookups of each row, notes now_s as last seen, marks the row dirty. No other update may run meanwhile.
    A handle belongs to one slot.

    Args:
        views: of a table with trained state.
        handles: u32 (L,), ABSENT is passed over.
        offsets: i64 (B*F + 1,).
        pooling: i8 (F,), 0 sum, 1 mean.
        lo_bag: first bag.
        hi_bag: behind the last bag.
        grad: f32 (hi_bag - lo_bag, D), C order, of the pooled rows.
        lr: learning rate.
        eps: added to the root of the accumulator.
        now_s: seconds since epoch.
        scratch: for as many lookups as the range holds; made with blocks, saliency is gathered.
        decay: what is left of a row's accumulator before this gradient is added; 1 forgets nothing.
        reference_width: rows wider than this learn at lr * sqrt(reference_width / d); 0 for all at lr.
    """
    flat = grad.reshape(-1)
    dim = np.uint64(grad.shape[1])
    rate, tiny, left, reference = np.float32(lr), np.float32(eps), np.float32(decay), np.float32(reference_width)
    length = views.dirty_length[0]
    lookups = np.uint64(offsets[hi_bag] - offsets[lo_bag])
    if lookups * dim <= np.uint64(scratch.gradient.size):
        lo, hi = np.uint64(lo_bag), np.uint64(hi_bag)
        if one_member_each(offsets, lo_bag, hi_bag):
            rows = sum_of_single_lookups(views, handles, np.uint64(offsets[lo]), lookups, flat, dim, scratch)
        else:
            rows = sum_of_bags(views, handles, offsets, pooling, lo, hi, flat, dim, scratch)
        length = train_rows(
            views, dim, rate, tiny, left, reference, now_s, np.uint64(0), rows, scratch, views.dirty, length
        )
    else:
        length = update_share(
            views,
            handles,
            offsets,
            pooling,
            lo_bag,
            hi_bag,
            flat,
            dim,
            rate,
            tiny,
            left,
            reference,
            now_s,
            0,
            1,
            scratch,
            views.dirty,
            length,
        )
    views.dirty_length[0] = length
    fold_products(views, scratch)
