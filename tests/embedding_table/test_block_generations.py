"""Which block is whose, while several generations of it exist."""

import numpy as np
import pytest

from embedding_table.block_generations import GENERATIONS, BlockGenerations
from embedding_table.errors import BadRows, ResizeUnderway
from embedding_table.row_arena import RowArena


def _columns(*widths: int) -> list[np.ndarray]:
    return [np.arange(width, dtype=np.uint16) for width in widths]


def _generations() -> tuple[RowArena, BlockGenerations]:
    arena = RowArena(8, 1 << 20, max_blocks=GENERATIONS * 2)
    return arena, BlockGenerations(arena, 1, 2, _columns(3, 4))


def test_an_old_generation_stays_until_it_has_no_slab() -> None:
    arena, generations = _generations()
    rows = arena.allocate(generations.newest(1), 5)
    assert generations.changed_homes(_columns(3, 6)) == [1]
    generations.begin(1, *_columns(6))
    assert generations.of(1) == [1, 2]
    assert generations.in_order() == [0, 1, 2]
    assert generations.draining() == [(1, 1)]
    assert generations.rows_draining() == 5
    assert arena.views().block_home[:3].tolist() == [0, 1, 1]
    assert arena.width(generations.newest(1)) == 6
    arena.free(rows)
    generations.retire_empty()
    assert generations.draining() == [(1, 1)]
    arena.release_slabs()
    generations.retire_empty()
    assert generations.draining() == []
    assert arena.blocks == [0, 2]
    assert arena.free_block_count == GENERATIONS * 2 - 2


def test_columns_that_drain_still_become_the_newest_again() -> None:
    arena, generations = _generations()
    arena.allocate(0, 1)
    generations.begin(0, *_columns(5))
    generations.begin(0, *_columns(3))
    assert generations.newest(0) == 0
    assert generations.draining() == [(2, 0)]
    assert generations.seeded(0).tolist() == []
    generations.begin(0, *_columns(6), np.array([4, 5], np.uint16))
    assert generations.seeded(0).tolist() == [4, 5]
    assert generations.seeded(1).tolist() == []


def test_says_when_there_are_too_many() -> None:
    arena, generations = _generations()
    for width in range(5, 5 + GENERATIONS - 1):
        arena.allocate(generations.newest(0), 1)
        generations.check_room([0, 1])
        generations.begin(0, *_columns(width))
    generations.check_room([0, 1, 1])
    with pytest.raises(ResizeUnderway, match="3 older ones with 3 rows still drain"):
        generations.check_room([0, 1, 1, 1])


def test_refuses_columns_of_another_table() -> None:
    _, generations = _generations()
    with pytest.raises(BadRows, match="columns of 1 blocks: expected 2"):
        generations.checked(_columns(3))
    with pytest.raises(BadRows, match="columns of block 1"):
        generations.checked(_columns(3, 9))
