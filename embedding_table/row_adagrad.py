"""Row-wise Adagrad on a list of distinct rows whose gradients are summed.

Knows rows and their state; not bags, lookups or threads. m = decay * m + mean_j g_j^2; w -= lr * g / (sqrt(m) + eps),
j over the row's active columns (Duchi, Hazan, Singer 2011; one m a row as in FBGEMM's exact_rowwise_adagrad; with a
decay below 1 a row that is seen often goes on learning). m is a mean over columns, so a wide row takes a longer step
than a narrow one; with a reference width r, rows wider than r learn at lr * sqrt(r / d). In the same pass over a row
value * gradient is summed by block and place, the value being that before the step (see saliency_sums).

Invariant: a row is marked dirty and listed once; its count, last use and accumulator are right when this is done.
While rows are being numbered, a row's accumulator word holds its number instead and the scratch holds the accumulator.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.machine_words import add_scaled_row, add_scaled_row_noting_products, prefetch, sum_of_squares
from embedding_table.row_layout import (
    ACCUMULATOR,
    COUNT,
    DIRTY_BIT,
    LAST_SEEN,
    TableViews,
    slab_of,
    state_offset,
    value_offset,
)
from embedding_table.update_scratch import UpdateScratch
from model_contract.compiled import lean_fast_kernel

__all__ = ["POOL_MEAN", "PREFETCH_AHEAD", "adagrad_step", "note_training", "train_rows"]

PREFETCH_AHEAD = np.uint64(32)  # lookups; to read a row its first line is enough, the machine fetches on by itself
_LINE_FLOATS = np.uint64(16)
POOL_MEAN = 1  # pooling code; 0 is the sum
_ONE = np.uint64(1)


@lean_fast_kernel
def adagrad_step(
    accumulator: np.float32,
    squares: np.float32,
    width: np.uint64,
    rate: np.float32,
    tiny: np.float32,
    reference_width: np.float32,
) -> tuple[np.float32, np.float32]:
    """A row's new accumulator and what its gradient is to be multiplied by, to be taken away from its values.

    Args:
        accumulator: what is left of the one before.
        squares: of the gradient in the row's columns, their sum.
        width: d.
        rate: learning rate.
        tiny: added to the root of the accumulator.
        reference_width: rows wider than this learn at rate * sqrt(reference_width / d); 0 for all at `rate`.
    """
    # np.divide, unlike `/`, cannot raise
    columns = np.float32(width if width else _ONE)
    accumulator += np.divide(squares, columns)
    step = np.divide(rate, np.sqrt(accumulator) + tiny)
    if reference_width > 0 and columns > reference_width:
        step *= np.sqrt(np.divide(reference_width, columns))
    return accumulator, step


@lean_fast_kernel
def note_training(
    values: NDArray[np.float32],
    words: NDArray[np.uint32],
    state: np.uint64,
    handle: np.uint32,
    accumulator: np.float32,
    lookups: np.uint32,
    now_s: int,
    dirty: NDArray[np.uint32],
    dirty_length: int,
) -> int:
    """Writes a trained row's state; appends it to `dirty` if it was not marked, answers that list's new length.

    Takes the two arrays and not all views: what is called once a row must stay small enough to be inlined.
    """
    values[state + ACCUMULATOR] = accumulator
    words[state + LAST_SEEN] = np.uint32(now_s)
    if not words[state + COUNT] & DIRTY_BIT:
        dirty[np.uint64(dirty_length)] = handle
        dirty_length += 1
    count = np.abs(values[state + COUNT]) + np.float32(lookups)
    values[state + COUNT] = -count  # never zero, so the sign is kept
    return dirty_length


@lean_fast_kernel
def train_rows(
    views: TableViews,
    dim: np.uint64,
    rate: np.float32,
    tiny: np.float32,
    left: np.float32,
    reference_width: np.float32,
    now_s: int,
    first: np.uint64,
    last: np.uint64,
    scratch: UpdateScratch,
    dirty: NDArray[np.uint32],
    dirty_length: int,
) -> int:
    """Trains the rows numbered first .. last; appends newly marked ones to `dirty`, answers its new length.

    The gradient of row `number` lies at (number - first) * D in scratch.gradient and is overwritten. A reference_width
    of 0 leaves the rate alone.
    """
    values, words, state_words = views.values, views.words, np.uint64(views.state_words)
    slab_width, slab_block, block_columns = views.slab_width, views.slab_block, views.block_columns
    rows, counts, accumulators, totals = scratch.row, scratch.lookups, scratch.accumulator, scratch.gradient
    products, squares_of_products, block_rows = scratch.products, scratch.squares, scratch.block_rows
    salient = products.size > 0 and views.saliency.first.size > 0
    for number in range(first, last):
        if number + PREFETCH_AHEAD < last:
            ahead = rows[number + PREFETCH_AHEAD]
            width = np.uint64(slab_width[slab_of(ahead)])
            for column in range(np.uint64(0), width, _LINE_FLOATS):
                prefetch(values, value_offset(ahead, width) + column)
        handle = rows[number]
        total = (number - first) * dim
        width = np.uint64(slab_width[slab_of(handle)])
        block = np.uint64(slab_block[slab_of(handle)])
        if width != dim:
            for column in range(width):  # columns ascend, so none is overwritten before it is read
                totals[total + column] = totals[total + np.uint64(block_columns[block, column])]
        squares = sum_of_squares(totals, total, width)
        accumulator, step = adagrad_step(left * accumulators[number], squares, width, rate, tiny, reference_width)
        start = value_offset(handle, width)
        if salient:
            add_scaled_row_noting_products(
                values, start, totals, total, width, -step, products, squares_of_products, block * dim
            )
            block_rows[block] += np.uint32(1)
        else:
            add_scaled_row(values, start, totals, total, width, -step)
        state = state_offset(handle, state_words)
        dirty_length = note_training(
            values, words, state, handle, accumulator, counts[number], now_s, dirty, dirty_length
        )
    return dirty_length
