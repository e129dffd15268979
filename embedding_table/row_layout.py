"""How rows lie in memory, and the arrays through which kernels reach them.

Knows no table, no ids and no optimizer. Memory is cut into slabs of 64 KiB; a slab belongs to one block and holds rows
of that block's width d, values from the slab's start upwards, 32-bit state words from its end downwards, so that rows
of 16 columns lie on one cache line each and a row's state lies where it lies whatever the width.

    slab  | row 0: d values | row 1: d values | ... free ... | row 1: state | row 0: state |

A handle is `slab << 12 | row`. Invariant: a handle alone names a row for as long as it lives; nothing here ever moves.

Kernels compute positions as uint64: for a signed index numba adds the Python rule that -1 is the last element, which
costs more than the loads it guards. (uint64 and a plain int make a float64, so constants here are uint64 as well.)
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_contract.compiled import lean_kernel

__all__ = [
    "ACCUMULATOR",
    "COUNT",
    "DIRTY_BIT",
    "ID_HIGH",
    "ID_LOW",
    "LAST_SEEN",
    "LIVE_WORDS",
    "MAX_SLABS",
    "ROW_BITS",
    "ROW_MASK",
    "SLAB_BYTES",
    "SLAB_WORDS",
    "TRAINED_STATE_WORDS",
    "RunningSaliency",
    "TableViews",
    "live_bit",
    "row_of",
    "slab_of",
    "state_offset",
    "value_offset",
]

SLAB_BYTES = 65536
SLAB_WORDS = SLAB_BYTES // 4
ROW_BITS = 12
ROW_MASK = (1 << ROW_BITS) - 1
MAX_SLABS = (1 << 20) - 1  # the last slab number is left out: ABSENT would be one of its handles
LIVE_WORDS = (1 << ROW_BITS) // 64

ID_LOW, ID_HIGH = np.uint64(0), np.uint64(1)  # state words of every row; id 0 is never an id
ACCUMULATOR, COUNT, LAST_SEEN = np.uint64(2), np.uint64(3), np.uint64(4)  # further ones of a row that is trained
TRAINED_STATE_WORDS = 5
DIRTY_BIT = np.uint32(0x80000000)  # the sign bit of COUNT, which is never negative: changed since changes were taken


class RunningSaliency(NamedTuple):
    """Decayed sums over updates, by column of every home; empty where none are kept. See `saliency_sums`.

    Attributes:
        first: f64 (homes, D), of |sum over an update's rows of value * gradient|.
        squared: f64 (homes, D), of the sum over an update's rows of (value * gradient)^2.
        updates: f64 (1,), of 1.
        keep: what is left of all three after one more update.
    """

    first: NDArray[np.float64]
    squared: NDArray[np.float64]
    updates: NDArray[np.float64]
    keep: float


class TableViews(NamedTuple):
    """All that a kernel needs to read and train rows by handle. Valid for the arena's life, whatever is inserted.

    Attributes:
        values: f32 (words,), the memory as float32.
        words: u32 (words,), the same memory as 32-bit words.
        slab_width: i32 (slabs,), d of the rows in a slab.
        slab_block: i32 (slabs,), block of a slab, -1 for a free one.
        block_columns: u16 (blocks, D), the first d are the block's active columns, ascending.
        block_width: i32 (blocks,), d of a block.
        block_home: i32 (blocks,), what a block's rows belong to, whatever columns they have: their (slot, band).
        live: u64 (slabs, 64), bit r of a slab is set while its row r lives.
        state_words: state words a row has.
        dirty: u32 (positions,), handles of rows that training changed since changes were taken, each once.
        dirty_length: i64 (1,), how many of them.
        saliency: running sums by home and column.
    """

    values: NDArray[np.float32]
    words: NDArray[np.uint32]
    slab_width: NDArray[np.int32]
    slab_block: NDArray[np.int32]
    block_columns: NDArray[np.uint16]
    block_width: NDArray[np.int32]
    block_home: NDArray[np.int32]
    live: NDArray[np.uint64]
    state_words: int
    dirty: NDArray[np.uint32]
    dirty_length: NDArray[np.int64]
    saliency: RunningSaliency


_ROW_BITS, _ROW_MASK = np.uint64(ROW_BITS), np.uint64(ROW_MASK)
_SLAB_WORDS = np.uint64(SLAB_WORDS)
_ONE = np.uint64(1)


@lean_kernel
def slab_of(handle: np.uint32) -> np.uint64:
    """Number of the row's slab."""
    return np.uint64(handle) >> _ROW_BITS


@lean_kernel
def row_of(handle: np.uint32) -> np.uint64:
    """Number of the row in its slab."""
    return np.uint64(handle) & _ROW_MASK


@lean_kernel
def live_bit(handle: np.uint32) -> tuple[np.uint64, np.uint64]:
    """Where a slab's `live` says whether the row lives: number of the word, and the bit alone."""
    row = row_of(handle)
    return row >> np.uint64(6), _ONE << (row & np.uint64(63))


@lean_kernel
def value_offset(handle: np.uint32, width: int | np.uint64) -> np.uint64:
    """Where the first value of a row of `width` columns lies in `values`."""
    return slab_of(handle) * _SLAB_WORDS + row_of(handle) * np.uint64(width)


@lean_kernel
def state_offset(handle: np.uint32, state_words: int | np.uint64) -> np.uint64:
    """Where the row's first state word lies in `words` (a float among them: in `values`)."""
    return (slab_of(handle) + _ONE) * _SLAB_WORDS - (row_of(handle) + _ONE) * np.uint64(state_words)
