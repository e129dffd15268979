"""One budget in bytes over rows, index and lists of changes, and how much more each of them may take.

Knows sizes, not rows or ids. Invariant: what `allocate` and `index_room` grant, taken together, keeps `bytes_used`
at or below the budget; the index's old entries exist beside the new ones only while it grows.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.block_generations import BlockGenerations
from embedding_table.change_lists import ChangeLists
from embedding_table.hash_index import BYTES_PER_ID, LINE_BYTES, HashIndex
from embedding_table.row_arena import RowArena
from embedding_table.table_rows import BlockUse, TableMemory

__all__ = ["BORN_BYTES", "RowBudget"]

BORN_BYTES = 4  # of a new row in the list of changes
_INDEX_GROWTH = 1.5


class RowBudget:
    """Shares a budget among an arena, an index and lists.

    Args:
        budget_bytes: for all of them.
        arena: holds the rows.
        index: of their ids.
        changes: lists of changes.
    """

    def __init__(self, budget_bytes: int, arena: RowArena, index: HashIndex, changes: ChangeLists) -> None:
        self.budget_bytes = budget_bytes
        self._arena = arena
        self._index = index
        self._changes = changes

    @property
    def bytes_used(self) -> int:
        """Bytes of all of them."""
        return self._arena.bytes_used + self._index.bytes_used + self._changes.bytes_used

    def memory_use(self) -> TableMemory:
        """What the rows, packed, and the rest take."""
        packed = 0
        for block in self._arena.blocks:
            slabs = -(-self._arena.block_rows(block) // self._arena.rows_per_slab(block))
            packed += slabs * self._arena.slab_cost_bytes(block)
        return TableMemory(self._arena.rows, packed, self._index.bytes_used + self._changes.bytes_used)

    def block_uses(self, generations: BlockGenerations) -> tuple[BlockUse, ...]:
        """Rows and bytes of every (slot, band), all generations together."""
        return tuple(
            BlockUse(
                slot=home // generations.bands,
                band=home % generations.bands,
                width=self._arena.width(generations.newest(home)),
                rows=sum(map(self._arena.block_rows, generations.of(home))),
                bytes_used=sum(
                    self._arena.slab_count(block) * self._arena.slab_cost_bytes(block) for block in generations.of(home)
                ),
            )
            for home in range(generations.homes)
        )

    def allocate(self, block: int, count: int, listed_bytes: int = 0, promised_bytes: int = 0) -> NDArray[np.uint32]:
        """Rows within the budget, each of which takes `listed_bytes` in a list as well."""
        left = max(0, self.budget_bytes - self.bytes_used - promised_bytes)
        if listed_bytes:
            count = min(count, left // listed_bytes)
        left -= listed_bytes * min(count, self._arena.free_rows(block))
        slab_bytes = self._arena.slab_cost_bytes(block)
        slabs = left // (slab_bytes + listed_bytes * self._arena.rows_per_slab(block))
        return self._arena.allocate(block, count, max_bytes=slabs * slab_bytes)

    def index_room(self, wanted: int) -> int:
        """How many of `wanted` new ids the index takes; it grows, near the budget no further than rows can follow."""
        if wanted <= self._index.room:
            return wanted
        row_bytes = min(
            self._arena.slab_cost_bytes(block) / self._arena.rows_per_slab(block) for block in self._arena.blocks
        )
        left = self.budget_bytes - self.bytes_used
        held = len(self._index)
        affordable = held + self._index.room + int((left - LINE_BYTES) / BYTES_PER_ID)
        useful = held + sum(map(self._arena.free_rows, self._arena.blocks)) + int(left / (row_bytes + BYTES_PER_ID)) + 1
        goal = max(held + wanted, int(_INDEX_GROWTH * (held + self._index.room)))
        self._index.reserve(min(goal, affordable, useful))
        return min(wanted, self._index.room)
