"""Allocation against a plain set, slabs that come and go, rows that stay where they are."""

import numpy as np
import pytest

from embedding_table.errors import BadRows, BudgetTooSmall
from embedding_table.hash_index import ABSENT
from embedding_table.row_arena import SLAB_BYTES, RowArena
from embedding_table.row_layout import ROW_BITS


def _columns(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint16)


@pytest.mark.parametrize("seed", range(4))
def test_random_takes_and_frees(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arena = RowArena(16, 40 * SLAB_BYTES, max_blocks=3)
    widths = [0, 5, 16]
    blocks = [arena.define_block(_columns(width)) for width in widths]
    live: list[dict[int, tuple[int, np.ndarray]]] = [{} for _ in blocks]
    next_id = 1
    for _ in range(60):
        block = int(rng.integers(3))
        handles = arena.allocate(block, int(rng.integers(0, 3000)))
        found = handles[handles != ABSENT]
        assert (handles[found.size :] == ABSENT).all()
        ids = np.arange(next_id, next_id + found.size, dtype=np.uint64)
        next_id += found.size
        values = rng.standard_normal((found.size, widths[block])).astype(np.float32)
        arena.write(found, ids, values)
        for k, handle in enumerate(found.tolist()):
            assert not any(handle in rows for rows in live)
            live[block][handle] = (int(ids[k]), values[k])
        victim = int(rng.integers(3))
        gone = rng.permutation(np.array(list(live[victim]), np.uint32))[: int(rng.integers(0, 4000))]
        freed = arena.free(np.concatenate([gone, gone[:3], [ABSENT]]))  # twice and never are passed over
        assert sorted(freed.tolist()) == sorted(gone.tolist())
        for handle in gone.tolist():
            del live[victim][handle]
        if rng.random() < 0.3:
            arena.release_slabs()
    assert arena.rows == sum(len(rows) for rows in live)
    for block in blocks:
        handles = arena.live_handles(block)
        assert handles.tolist() == sorted(live[block])
        assert arena.block_rows(block) == handles.size
        ids, values = arena.read(handles, widths[block])
        assert ids.tolist() == [live[block][handle][0] for handle in handles.tolist()]
        if handles.size:
            np.testing.assert_array_equal(values, [live[block][handle][1] for handle in handles.tolist()])


def test_a_slab_left_empty_serves_another_width() -> None:
    arena = RowArena(16, 2 * SLAB_BYTES, max_blocks=2)
    narrow, wide = arena.define_block(_columns(2)), arena.define_block(_columns(16))
    handles = arena.allocate(narrow, 2 * arena.rows_per_slab(narrow))
    assert (handles != ABSENT).all()
    assert arena.allocate(wide, 1)[0] == ABSENT
    arena.free(handles)
    assert arena.release_slabs() == 2
    assert arena.free_slab_count == 2
    taken = arena.allocate(wide, 2 * arena.rows_per_slab(wide) + 1)
    assert (taken[:-1] != ABSENT).all()
    assert taken[-1] == ABSENT


def test_bytes_follow_the_slabs() -> None:
    arena = RowArena(16, 10 * SLAB_BYTES, state_words=5, max_blocks=1, track_changes=True)
    block = arena.define_block(_columns(16))
    empty = arena.bytes_used
    cost = arena.slab_cost_bytes(block)
    assert cost > SLAB_BYTES + 4 * arena.rows_per_slab(block)
    handles = arena.allocate(block, arena.rows_per_slab(block) + 1)
    assert arena.bytes_used == empty + 2 * cost
    assert arena.block_bytes(block) == 2 * SLAB_BYTES
    assert arena.slab_count(block) == 2
    assert arena.free_rows(block) == arena.rows_per_slab(block) - 1
    assert (arena.allocate(block, 5000, max_bytes=cost - 1) != ABSENT).sum() == arena.rows_per_slab(block) - 1
    arena.free(handles)
    assert arena.bytes_used == empty + 2 * cost


def test_compact_moves_rows_out_of_the_emptiest_slabs() -> None:
    rng = np.random.default_rng(3)
    arena = RowArena(16, 20 * SLAB_BYTES, max_blocks=1)
    block = arena.define_block(_columns(16))
    capacity = arena.rows_per_slab(block)
    handles = arena.allocate(block, 10 * capacity)
    arena.write(handles, np.arange(1, handles.size + 1, dtype=np.uint64), rng.random((handles.size, 16), np.float32))
    kept = rng.permutation(handles)[: 4 * capacity]
    arena.free(np.setdiff1d(handles, kept))
    before = dict(zip(*_rows(arena, block), strict=True))
    pinned = {int(handles[0] >> ROW_BITS)}
    old, new = arena.compact(block, pinned, max_rows=10**6)
    assert not pinned & set((old >> ROW_BITS).tolist())
    assert (np.diff(old.astype(np.int64)) > 0).all()
    arena.free(old)
    assert arena.release_slabs() >= 4
    assert arena.slab_count(block) <= 6
    assert dict(zip(*_rows(arena, block), strict=True)) == before
    assert arena.compact(block, pinned, max_rows=0)[0].size == 0
    assert (arena.live_handles(block) != ABSENT).all()
    assert new.size == old.size


def _rows(arena: RowArena, block: int) -> tuple[list[int], list[bytes]]:
    ids, values = arena.read(arena.live_handles(block), arena.width(block))
    return ids.tolist(), [row.tobytes() for row in values]


@pytest.mark.parametrize("columns", [[1, 1], [2, 1], [16], [[1]]])
def test_refuses_columns_out_of_order_or_range(columns: list[int]) -> None:
    arena = RowArena(16, SLAB_BYTES)
    with pytest.raises(BadRows, match="columns of block 0"):
        arena.define_block(np.array(columns, np.uint16))


def test_refuses_what_cannot_work() -> None:
    with pytest.raises(BudgetTooSmall, match="65535"):
        RowArena(16, SLAB_BYTES - 1)
    with pytest.raises(BadRows, match="state_words is 1"):
        RowArena(16, SLAB_BYTES, state_words=1)
    arena = RowArena(16, SLAB_BYTES, max_blocks=1)
    assert arena.define_block(_columns(16)) == 0
    with pytest.raises(BadRows, match="one too many"):
        arena.define_block(_columns(16))
    assert arena.blocks == [0]
    assert arena.free_block_count == 0
    assert arena.columns(0).tolist() == list(range(16))


def test_a_number_is_another_blocks_once_its_block_is_retired() -> None:
    arena = RowArena(16, 4 * SLAB_BYTES, max_blocks=2)
    narrow, wide = arena.define_block(_columns(2)), arena.define_block(_columns(16), home=7)
    handles = arena.allocate(narrow, 3)
    with pytest.raises(BadRows, match="block 0 has 1 slabs"):
        arena.retire_block(narrow)
    arena.free(handles)
    arena.release_slabs()
    arena.retire_block(narrow)
    assert arena.blocks == [wide]
    assert arena.define_block(_columns(5), home=9) == narrow
    views = arena.views()
    assert views.block_width.tolist() == [5, 16]
    assert views.block_home.tolist() == [9, 7]
    assert arena.width(narrow) == 5


def test_rows_listed_a_part_at_a_time() -> None:
    arena = RowArena(16, 8 * SLAB_BYTES, max_blocks=2)
    first, second = arena.define_block(_columns(16)), arena.define_block(_columns(0))
    capacity = arena.rows_per_slab(first)
    handles = arena.allocate(first, 3 * capacity)
    others = arena.allocate(second, 10)
    arena.free(handles[capacity : 2 * capacity])  # a slab without a row between two full ones
    kept = np.concatenate([handles[:capacity], handles[2 * capacity :]])
    for count in (0, 1, capacity, capacity + 1, 5 * capacity):
        np.testing.assert_array_equal(arena.first_handles(first, count), kept[:count])
    seen, cursor, rounds = [], 0, 0
    while cursor or not rounds:
        rows, cursor = arena.scan(cursor, capacity + 9)
        seen.append(rows)
        rounds += 1
    assert [rows.size for rows in seen] == [capacity, capacity, 10] or [rows.size for rows in seen] == [
        capacity,
        capacity + 10,
    ]
    np.testing.assert_array_equal(np.concatenate(seen), np.concatenate([kept, others]))
    assert arena.scan(0, 0)[0].size == capacity  # one slab at least
    assert RowArena(16, SLAB_BYTES).scan(0, 5) == (pytest.approx(np.empty(0)), 0)
