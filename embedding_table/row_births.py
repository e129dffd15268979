"""New rows: a place in the block where their slot's rows are born, first values, an entry in the index, a mark.

Knows blocks, budget, index and lists; not which ids deserve a row. Invariant: an id either has a row, an entry and a
mark, or none of them; the budget holds.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table import trained_rows
from embedding_table.block_generations import BlockGenerations
from embedding_table.change_lists import ChangeLists
from embedding_table.errors import BadLookups
from embedding_table.hash_index import ABSENT, HashIndex
from embedding_table.row_arena import RowArena
from embedding_table.row_budget import BORN_BYTES, RowBudget

__all__ = ["RowBirths"]


class RowBirths:
    """Births of one table.

    Args:
        arena: holds the rows.
        index: of their ids.
        budget: over both and the lists.
        changes: lists of changed rows.
        generations: which block takes new rows.
        seed: with the id it decides a row's first values.
        init_scale: first values are uniform in [-init_scale, init_scale).
        initial_accumulator: where Adagrad's accumulator starts.

    Attributes:
        bands: i32 (F,), the band in which a slot's rows are born.
    """

    def __init__(
        self,
        arena: RowArena,
        index: HashIndex,
        budget: RowBudget,
        changes: ChangeLists,
        generations: BlockGenerations,
        *,
        seed: int,
        init_scale: float,
        initial_accumulator: float,
    ) -> None:
        self.bands = np.zeros(generations.homes // generations.bands, np.int32)
        self._arena = arena
        self._index = index
        self._budget = budget
        self._changes = changes
        self._generations = generations
        self._seed = np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
        self._init_scale = init_scale
        self._initial_accumulator = initial_accumulator

    def give(self, ids: NDArray[np.uint64], slots: NDArray[np.int32], now_s: int) -> NDArray[np.uint32]:
        """Rows for ids u64 (n,) that have none, in slots i32 (n,): handles u32 (n,), ABSENT where the budget is full.

        Raises:
            BadLookups: an id is named twice; none has a row then.
        """
        handles = np.full(ids.size, ABSENT, np.uint32)
        order = np.argsort(slots, kind="stable")[: self._budget.index_room(ids.size)]
        borders = np.searchsorted(slots[order], np.arange(self.bands.size + 1))
        promised_bytes = 0
        for slot in np.flatnonzero(np.diff(borders)).tolist():
            block = self._generations.newest(slot * self._generations.bands + int(self.bands[slot]))
            places = order[borders[slot] : borders[slot + 1]]
            taken = self._budget.allocate(block, places.size, BORN_BYTES, promised_bytes)
            handles[places[: taken.size]] = taken
            promised_bytes += BORN_BYTES * int(np.count_nonzero(taken != ABSENT))
        found = np.flatnonzero(handles != ABSENT)
        if self._index.insert(ids[found], handles[found]) != found.size:
            self._arena.free(handles[found])
            self._index.erase(ids[found])
            message = f"ids name {np.unique(ids).size} rows {ids.size} times: expected each id once"
            raise BadLookups(message)
        listed = np.empty(found.size, np.uint32)
        listed_count = trained_rows.start_rows(
            self._arena.views(),
            handles[found],
            ids[found],
            self._seed,
            self._init_scale,
            self._initial_accumulator,
            now_s,
            listed,
        )
        self._changes.born(listed[: int(listed_count)])
        return handles
