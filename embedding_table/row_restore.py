"""Rows copied out of a table written back into one, whatever columns it has now.

Knows blocks, index and budget; not where the rows were kept. Invariant: an id has one row, in the block it was given
in; a row that was there is overwritten in its place; nothing becomes marked as changed.
"""

import numpy as np

from embedding_table.block_generations import BlockGenerations
from embedding_table.errors import BudgetTooSmall
from embedding_table.hash_index import ABSENT, HashIndex
from embedding_table.row_arena import RowArena
from embedding_table.row_budget import RowBudget
from embedding_table.row_layout import ROW_BITS
from embedding_table.row_transfer import copy_block_in, in_columns
from embedding_table.table_rows import RowsOfBlock

__all__ = ["restore_block"]


def restore_block(
    arena: RowArena, index: HashIndex, budget: RowBudget, generations: BlockGenerations, rows: RowsOfBlock
) -> None:
    """Writes rows that passed `check_rows` to the newest generation of their slot and band.

    Args:
        arena: receives the rows.
        index: of their ids.
        budget: over both.
        generations: the arena's blocks.
        rows: each id once.

    Raises:
        BudgetTooSmall: they do not all fit; those that do are there.
    """
    block = generations.newest(rows.slot * generations.bands + rows.band)
    rows = in_columns(rows, arena.columns(block))
    handles = index.find(rows.ids)
    present = np.flatnonzero(handles != ABSENT)
    elsewhere = present[arena.views().slab_block[handles[present] >> np.uint32(ROW_BITS)] != block]
    arena.free(handles[elsewhere])
    handles[elsewhere] = ABSENT
    new = np.flatnonzero(handles == ABSENT)
    room = budget.index_room(new.size)
    handles[new[:room]] = budget.allocate(block, room)
    kept = np.flatnonzero(handles != ABSENT)
    index.insert(rows.ids[kept], handles[kept])
    copy_block_in(arena, handles[kept], rows, kept)
    if kept.size < handles.size:
        message = f"{handles.size} rows of slot {rows.slot} with {budget.budget_bytes} bytes: room for {kept.size}"
        raise BudgetTooSmall(message)
