"""Rows of many blocks copied out of an arena and rows of one block copied back in.

Knows blocks by number, slot and band; not the index. Invariant: what is copied out and in again is the same bit by bit.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from embedding_table.column_change import column_places, values_in_columns
from embedding_table.errors import BadRows
from embedding_table.row_arena import RowArena, checked_columns
from embedding_table.table_rows import RowsOfBlock
from embedding_table.trained_rows import copy_in, copy_out, group_by_block

__all__ = ["check_rows", "copy_block_in", "copy_blocks_out", "in_columns"]


def copy_blocks_out(
    arena: RowArena, handles: NDArray[np.uint32], bands: int, blocks: Sequence[int]
) -> tuple[RowsOfBlock, ...]:
    """Copies live rows u32 (n,) out, block by block in this order; homes are numbered slot by slot, `bands` to each."""
    views = arena.views()
    ends = np.empty(views.block_home.size, np.int64)
    by_block = np.empty_like(handles)
    group_by_block(views, handles, ends, by_block)
    parts = np.split(by_block, ends[:-1])
    copied = []
    for block in blocks:
        part = parts[block]
        if part.size == 0:
            continue
        slot, band = divmod(int(views.block_home[block]), bands)
        rows = RowsOfBlock(
            slot=slot,
            band=band,
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


def check_rows(rows: RowsOfBlock, slots: int, bands: int, dim: int) -> None:
    """Asks whether rows can belong to a table of this shape.

    Raises:
        BadRows: slot or band do not exist, or columns are out of order or range or not those of the values.
    """
    name = f"rows of slot {rows.slot}, band {rows.band}"
    if not (0 <= rows.slot < slots and 0 <= rows.band < bands):
        message = f"{name}: expected below {slots} and {bands}"
        raise BadRows(message)
    columns = checked_columns(rows.columns, dim, name)
    if rows.values.shape != (rows.ids.size, columns.size):
        message = f"{name}: {rows.ids.size} ids, {columns.size} columns, values {rows.values.shape}"
        raise BadRows(message)


def in_columns(rows: RowsOfBlock, columns: NDArray[np.uint16]) -> RowsOfBlock:
    """The same rows with these columns u16 (d',): new ones read 0, others are dropped."""
    if np.array_equal(rows.columns, columns):
        return rows
    values = values_in_columns(rows.values, column_places(rows.columns, columns))
    return replace(rows, columns=columns, values=values)


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
