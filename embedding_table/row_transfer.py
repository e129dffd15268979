"""Rows of many blocks copied out of an arena and rows of one block copied back in.

Knows blocks by number, slot and band; not the index. Invariant: what is copied out and in again is the same bit by bit.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.errors import BadRows
from embedding_table.row_arena import RowArena
from embedding_table.table_rows import RowsOfBlock
from embedding_table.trained_rows import copy_in, copy_out, group_by_block

__all__ = ["block_of", "copy_block_in", "copy_blocks_out"]


def copy_blocks_out(arena: RowArena, handles: NDArray[np.uint32], bands: int) -> tuple[RowsOfBlock, ...]:
    """Copies live rows u32 (n,) out, by block; blocks are numbered slot by slot, `bands` to each."""
    views = arena.views()
    ends = np.empty(arena.block_count, np.int64)
    by_block = np.empty_like(handles)
    group_by_block(views, handles, ends, by_block)
    copied = []
    for block, part in enumerate(np.split(by_block, ends[:-1])):
        if part.size == 0:
            continue
        rows = RowsOfBlock(
            slot=block // bands,
            band=block % bands,
            columns=arena.columns(block).copy(),
            ids=np.empty(part.size, np.uint64),
            values=np.empty((part.size, arena.width(block)), np.float32),
            accumulators=np.empty(part.size, np.float32),
            counts=np.empty(part.size, np.float32),
            last_seen_s=np.empty(part.size, np.uint32),
        )
        copy_out(views, part, rows.ids, rows.values, rows.accumulators, rows.counts, rows.last_seen_s)
        copied.append(rows)
    return tuple(copied)


def block_of(arena: RowArena, rows: RowsOfBlock, slots: int, bands: int) -> int:
    """The block that `rows` belong to.

    Raises:
        BadRows: slot or band do not exist, or the block has other columns.
    """
    if not (0 <= rows.slot < slots and 0 <= rows.band < bands):
        message = f"rows of slot {rows.slot}, band {rows.band}: expected below {slots} and {bands}"
        raise BadRows(message)
    block = rows.slot * bands + rows.band
    columns = arena.columns(block)
    if not np.array_equal(rows.columns, columns):
        message = f"rows of slot {rows.slot}, band {rows.band} have columns {rows.columns!r}: expected {columns!r}"
        raise BadRows(message)
    return block


def copy_block_in(arena: RowArena, handles: NDArray[np.uint32], rows: RowsOfBlock, kept: NDArray[np.intp]) -> None:
    """Writes `rows[kept]` to handles u32 (k,) of their block."""
    copy_in(
        arena.views(),
        handles,
        rows.ids[kept],
        rows.values[kept],
        rows.accumulators[kept],
        rows.counts[kept],
        rows.last_seen_s[kept],
    )
