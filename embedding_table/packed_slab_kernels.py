"""Packed rows and their ids, written, read and moved by handle, many at a time.

A slab of packed rows is, from its first byte upwards, rows of so many bytes each, and from its last byte downwards
their ids of 8 bytes each. Knows bytes, not codecs, ids' meaning or whose rows they are. Invariant: each kernel touches
the rows of the handles given and checks nothing.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.packed_words import copy_bytes
from embedding_table.row_layout import row_of, slab_of
from model_contract.compiled import kernel

__all__ = ["move_packed", "read_ids", "read_packed", "write_packed"]

_ONE = np.uint64(1)


@kernel
def write_packed(
    memory: NDArray[np.uint8],
    words: NDArray[np.uint64],
    slab_start: NDArray[np.uint64],
    slab_end: NDArray[np.uint64],
    handles: NDArray[np.uint32],
    ids: NDArray[np.uint64],
    data: NDArray[np.uint8],
    row_bytes: int,
) -> None:
    """Writes ids (n,) and data (n * row bytes,); `words` is the memory as u64, `slab_end` counts in those."""
    size = np.uint64(row_bytes)
    for number in range(handles.size):
        k = np.uint64(number)
        slab, row = slab_of(handles[k]), row_of(handles[k])
        copy_bytes(memory, slab_start[slab] + row * size, data, k * size, size)
        words[slab_end[slab] - _ONE - row] = ids[k]


@kernel
def read_packed(
    memory: NDArray[np.uint8],
    slab_start: NDArray[np.uint64],
    handles: NDArray[np.uint32],
    data: NDArray[np.uint8],
    row_bytes: int,
) -> None:
    """Reads data (n * row bytes,)."""
    size = np.uint64(row_bytes)
    for number in range(handles.size):
        k = np.uint64(number)
        copy_bytes(data, k * size, memory, slab_start[slab_of(handles[k])] + row_of(handles[k]) * size, size)


@kernel
def read_ids(
    words: NDArray[np.uint64], slab_end: NDArray[np.uint64], handles: NDArray[np.uint32], ids: NDArray[np.uint64]
) -> None:
    """Reads ids (n,)."""
    for number in range(handles.size):
        k = np.uint64(number)
        ids[k] = words[slab_end[slab_of(handles[k])] - _ONE - row_of(handles[k])]


@kernel
def move_packed(
    memory: NDArray[np.uint8],
    words: NDArray[np.uint64],
    slab_start: NDArray[np.uint64],
    slab_end: NDArray[np.uint64],
    source: NDArray[np.uint32],
    target: NDArray[np.uint32],
    row_bytes: int,
) -> None:
    """Copies rows of one store and their ids to other places."""
    size = np.uint64(row_bytes)
    for number in range(source.size):
        k = np.uint64(number)
        slab, row = slab_of(source[k]), row_of(source[k])
        to_slab, to_row = slab_of(target[k]), row_of(target[k])
        copy_bytes(memory, slab_start[to_slab] + to_row * size, memory, slab_start[slab] + row * size, size)
        words[slab_end[to_slab] - _ONE - to_row] = words[slab_end[slab] - _ONE - row]
