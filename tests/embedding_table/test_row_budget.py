"""Whatever is granted, in whatever order, stays within the budget."""

import numpy as np
import pytest

from embedding_table.change_lists import ChangeLists
from embedding_table.hash_index import ABSENT, HashIndex
from embedding_table.row_arena import RowArena
from embedding_table.row_budget import BORN_BYTES, RowBudget
from embedding_table.row_layout import TRAINED_STATE_WORDS


@pytest.mark.parametrize("seed", range(6))
def test_grants_never_pass_the_budget_and_leave_little(seed: int) -> None:
    rng = np.random.default_rng(seed)
    budget_bytes = int(rng.integers(300_000, 6_000_000))
    arena = RowArena(16, budget_bytes, state_words=TRAINED_STATE_WORDS, max_blocks=3, track_changes=True)
    for width in (1, 7, 16):
        arena.define_block(np.arange(width, dtype=np.uint16))
    notes_bytes = arena.bytes_used
    index, changes = HashIndex(), ChangeLists(arena.views())
    budget = RowBudget(budget_bytes, arena, index, changes)
    next_id, refused = 1, 0
    while refused < 20:
        wanted = int(rng.integers(1, 3000))
        room = budget.index_room(wanted)
        assert room <= wanted
        handles = budget.allocate(int(rng.integers(3)), room, BORN_BYTES)
        taken = handles[handles != ABSENT]
        index.insert(np.arange(next_id, next_id + taken.size, dtype=np.uint64), taken)
        changes.born(taken)
        next_id += taken.size
        refused += taken.size < wanted
        assert budget.bytes_used <= budget_bytes
    use = budget.memory_use()
    assert use.rows == next_id - 1
    assert use.row_bytes == arena.bytes_used - notes_bytes
    assert budget.bytes_used > 0.9 * budget_bytes - 3 * arena.slab_cost_bytes(0)
